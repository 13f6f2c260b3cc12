"""The stages of a run: which samples one call of `train_task` trains on, and for how many iterations."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
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
        num_processed: Training samples in the batches of all iterations together.
        scenario: Maps tasks to output units.
        task_units: bool (T, U), the output units of each task.
    """

    task: int
    name: str
    train: Samples
    active_units: Tensor
    replay_units: Tensor
    iterations: int
    num_processed: int
    scenario: Scenario
    task_units: Tensor

    @property
    def competing_units(self) -> Tensor:
        """The output units that compete with each unit, bool (U, U); not kept, because there is one for each stage."""
        return self.scenario.competing_units(self.task_units, self.task)


def iterations_by_task(train: Mapping[str, Any], tasks: Sequence[Task]) -> list[int]:
    """Iterations of each task: those of a single pass, or `iterations`, or `epochs` over a task of mean size."""
    if train["online"]:
        return [single_pass_iterations(train, len(task.train)) for task in tasks]
    mean_size = sum(len(task.train) for task in tasks) / len(tasks)
    iterations: int | None = train["iterations"]
    return [iterations or ceil(train["epochs"] * mean_size / train["batch_size"])] * len(tasks)


def single_pass_iterations(train: Mapping[str, Any], num_samples: int) -> int:
    """Iterations of a single pass: `updates_per_batch` for each batch, the last one with the remaining samples."""
    updates: int = train["updates_per_batch"]
    return updates * ceil(num_samples / int(train["batch_size"]))


def build_stages(benchmark: Benchmark, task_units: Tensor, learner: Learner, train: Mapping[str, Any]) -> list[Stage]:
    """The stages of a run, by the strategy's `training_data`: each task, each with all earlier ones, or all at once.

    Args:
        benchmark: The tasks, on the device.
        task_units: bool (T, U), the output units of each task.
        learner: Its strategy and scenario.
        train: The settings `train.*`.
    """
    tasks, training_data = benchmark.tasks, learner.strategy.training_data
    iterations = iterations_by_task(train, tasks)
    if training_data == "joint":
        total = sum(len(task.train) for task in tasks)
        length = single_pass_iterations(train, total) if train["online"] else sum(iterations)
        return [_build_stage(tasks, "all tasks", task_units, learner, length, train)]
    return [
        _build_stage(
            training_tasks(tasks, training_data, task.id), task.name, task_units, learner, iterations[task.id], train
        )
        for task in tasks
    ]


def training_tasks(tasks: Sequence[Task], training_data: str, task: int) -> Sequence[Task]:
    """The tasks that stage `task` trains on."""
    if training_data == "joint":
        return tasks
    return tasks[0 if training_data == "cumulative" else task : task + 1]


def _build_stage(
    tasks: Sequence[Task],
    name: str,
    task_units: Tensor,
    learner: Learner,
    iterations: int,
    train: Mapping[str, Any],
) -> Stage:
    """One stage with the samples of `tasks`, numbered as the last of them."""
    scenario, last = learner.scenario, tasks[-1].id
    if len(tasks) == 1:
        samples, active_units = tasks[0].train, scenario.training_units(task_units, last)
    else:
        samples = Samples.concatenate([task.train for task in tasks])
        task_of_sample = torch.cat([torch.full((len(task.train),), task.id, device=learner.device) for task in tasks])
        active_units = scenario.joint_units(task_units, task_of_sample, last)
    replay_units = scenario.replay_units(task_units, last)
    num_processed = len(samples) * train["updates_per_batch"] if train["online"] else iterations * train["batch_size"]
    return Stage(last, name, samples, active_units, replay_units, iterations, num_processed, scenario, task_units)


class ResumePoint(NamedTuple):
    """Where a run continues: index of the stage, and iteration within it."""

    stage: int
    iteration: int


BEGINNING = ResumePoint(0, 0)
