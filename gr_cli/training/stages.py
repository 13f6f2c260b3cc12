"""The stages of a run: what is trained on in one go, and for how long."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil
from typing import Any, NamedTuple

import torch
from torch import Tensor

from gr_cli.benchmarks.base import Benchmark, Samples, Task
from gr_cli.training.learner import Learner


@dataclass(frozen=True)
class Stage:
    """What is trained in one go: a task, or all of them in joint training. Labels of `train` are output units.

    `units`, bool (U,) or (N, U) by sample, `replay_units`, bool (H, U), and `rivals`, bool (U, U): those that compete
    meanwhile (see `Batch`).
    """

    task: int
    name: str
    train: Samples
    active_units: Tensor
    replay_units: Tensor
    competing_units: Tensor
    iterations: int


def iterations_per_task(train: dict[str, Any], benchmark: Benchmark) -> int:
    """Iterations of each task: given, or epochs of a task of mean size."""
    mean_size = sum(len(task.train) for task in benchmark.tasks) / len(benchmark.tasks)
    given: int | None = train["iterations"]
    return given or ceil(train["epochs"] * mean_size / train["batch_size"])


def build_stages(benchmark: Benchmark, task_units: Tensor, learner: Learner, iterations: int) -> list[Stage]:
    """What is trained one after the other: each task, each with all before it, or all at once."""
    tasks, training_data = benchmark.tasks, learner.strategy.training_data
    if training_data == "joint":
        return [_build_stage(tasks, "all tasks", task_units, learner, iterations * len(tasks))]
    return [
        _build_stage(training_tasks(tasks, training_data, task.id), task.name, task_units, learner, iterations)
        for task in tasks
    ]


def training_tasks(tasks: Sequence[Task], training_data: str, task: int) -> Sequence[Task]:
    """The tasks that stage `number` trains, under a strategy that sees so much."""
    if training_data == "joint":
        return tasks
    return tasks[0 if training_data == "cumulative" else task : task + 1]


def _build_stage(tasks: Sequence[Task], name: str, task_units: Tensor, learner: Learner, iterations: int) -> Stage:
    """The samples of some tasks as one stage, which counts as the last of them."""
    scenario, last = learner.scenario, tasks[-1].id
    rest = (scenario.replay_units(task_units, last), scenario.competing_units(task_units, last), iterations)
    if len(tasks) == 1:
        return Stage(last, name, tasks[0].train, scenario.training_units(task_units, last), *rest)
    owner = torch.cat([torch.full((len(task.train),), task.id, device=learner.device) for task in tasks])
    together = Samples.concatenate([task.train for task in tasks])
    return Stage(last, name, together, scenario.joint_units(task_units, owner, last), *rest)


class ResumePoint(NamedTuple):
    """Where runs go on: a stage, and an iteration in it."""

    stage: int
    iteration: int


BEGINNING = ResumePoint(0, 0)
