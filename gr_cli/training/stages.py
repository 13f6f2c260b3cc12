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
    units: Tensor
    replay_units: Tensor
    rivals: Tensor
    iterations: int


def iterations_per_task(train: dict[str, Any], benchmark: Benchmark) -> int:
    """Iterations of each task: given, or epochs of a task of mean size."""
    mean_size = sum(len(task.train) for task in benchmark.tasks) / len(benchmark.tasks)
    given: int | None = train["iterations"]
    return given or ceil(train["epochs"] * mean_size / train["batch_size"])


def stages_of(benchmark: Benchmark, heads: Tensor, learner: Learner, iterations: int) -> list[Stage]:
    """What is trained one after the other: each task, each with all before it, or all at once."""
    tasks, sees = benchmark.tasks, learner.strategy.sees
    if sees == "all":
        return [_stage(tasks, "all tasks", heads, learner, iterations * len(tasks))]
    return [_stage(trained_in(tasks, sees, task.id), task.name, heads, learner, iterations) for task in tasks]


def trained_in(tasks: Sequence[Task], sees: str, number: int) -> Sequence[Task]:
    """The tasks that stage `number` trains, under a strategy that sees so much."""
    if sees == "all":
        return tasks
    return tasks[0 if sees == "so_far" else number : number + 1]


def _stage(tasks: Sequence[Task], name: str, heads: Tensor, learner: Learner, iterations: int) -> Stage:
    """The samples of some tasks as one stage, which counts as the last of them."""
    scenario, last = learner.scenario, tasks[-1].id
    rest = (scenario.replay_units(heads, last), scenario.rivals(heads, last), iterations)
    if len(tasks) == 1:
        return Stage(last, name, tasks[0].train, scenario.training_units(heads, last), *rest)
    owner = torch.cat([torch.full((len(task.train),), task.id, device=learner.device) for task in tasks])
    together = Samples.concatenated([task.train for task in tasks])
    return Stage(last, name, together, scenario.joint_units(heads, owner, last), *rest)


class Place(NamedTuple):
    """Where runs go on: a stage, and an iteration in it."""

    stage: int
    iteration: int


START = Place(0, 0)
