"""The stages of a run: which samples one call of `train_task` trains on, and for how many iterations."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil
from typing import Any, NamedTuple

import torch
from torch import Tensor

from gr_cli.benchmarks.base import Benchmark, Samples, Task
from gr_cli.scenario import Scenario
from gr_cli.training.learner import Learner


@dataclass(frozen=True)
class Stage:
    """The samples of one call of `Learner.train_task`: a task, or all tasks in joint training.

    Attributes:
        task: Index of the task, or of the last one.
        name: Name for tables and logs.
        train: Training samples; their labels are output units.
        active_units: bool (U,) or (N, U) per sample, the output units that compete for samples of this stage.
        replay_units: bool (H, U), the output units that compete for replayed samples: a row for each earlier task in
            the task scenario, else one row.
        iterations: Training iterations.
        scenario: Maps tasks to output units.
        task_units: bool (T, U), the output units of each task.
    """

    task: int
    name: str
    train: Samples
    active_units: Tensor
    replay_units: Tensor
    iterations: int
    scenario: Scenario
    task_units: Tensor

    @property
    def competing_units(self) -> Tensor:
        """The output units that compete with each unit, bool (U, U); not kept, because there is one for each stage."""
        return self.scenario.competing_units(self.task_units, self.task)


def iterations_per_task(train: dict[str, Any], benchmark: Benchmark) -> int:
    """Iterations of each task: `iterations` if set, else `epochs` over a task of mean size."""
    mean_size = sum(len(task.train) for task in benchmark.tasks) / len(benchmark.tasks)
    iterations: int | None = train["iterations"]
    return iterations or ceil(train["epochs"] * mean_size / train["batch_size"])


def build_stages(benchmark: Benchmark, task_units: Tensor, learner: Learner, iterations: int) -> list[Stage]:
    """The stages of a run, by the strategy's `training_data`: each task, each with all earlier ones, or all at once."""
    tasks, training_data = benchmark.tasks, learner.strategy.training_data
    if training_data == "joint":
        return [_build_stage(tasks, "all tasks", task_units, learner, iterations * len(tasks))]
    return [
        _build_stage(training_tasks(tasks, training_data, task.id), task.name, task_units, learner, iterations)
        for task in tasks
    ]


def training_tasks(tasks: Sequence[Task], training_data: str, task: int) -> Sequence[Task]:
    """The tasks that stage `task` trains on."""
    if training_data == "joint":
        return tasks
    return tasks[0 if training_data == "cumulative" else task : task + 1]


def _build_stage(tasks: Sequence[Task], name: str, task_units: Tensor, learner: Learner, iterations: int) -> Stage:
    """One stage with the samples of `tasks`, numbered as the last of them."""
    scenario, last = learner.scenario, tasks[-1].id
    if len(tasks) == 1:
        train, active_units = tasks[0].train, scenario.training_units(task_units, last)
    else:
        train = Samples.concatenate([task.train for task in tasks])
        task_of_sample = torch.cat([torch.full((len(task.train),), task.id, device=learner.device) for task in tasks])
        active_units = scenario.joint_units(task_units, task_of_sample, last)
    replay_units = scenario.replay_units(task_units, last)
    return Stage(last, name, train, active_units, replay_units, iterations, scenario, task_units)


class ResumePoint(NamedTuple):
    """Where a run continues: index of the stage, and iteration within it."""

    stage: int
    iteration: int


BEGINNING = ResumePoint(0, 0)
