"""Task-free streams (Aljundi et al. 2019): task boundaries are unknown, and the strategy consolidates every N steps.

The learner asks a `ConsolidationSchedule` for the interval of each step. Where an interval ends, `Learner` calls the
strategy's `end_task` and `begin_task`, as it does between tasks when boundaries are known.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from gr_cli.errors import ConfigError
from gr_cli.scenario import Scenario
from gr_cli.strategies.base import Strategy
from gr_cli.strategies.context import TrainingStep


@dataclass(frozen=True)
class ConsolidationSchedule:
    """Divides the steps of a task-free stream into intervals, between which the strategy consolidates.

    The intervals take the place of tasks for the strategy: their numbers, steps and output units.

    >>> schedule = ConsolidationSchedule(num_tasks=3, iterations_per_task=10, interval_length=8)
    >>> schedule.interval_of(TrainingStep(task=1, iteration=2, iterations=10))
    TrainingStep(task=1, iteration=4, iterations=8)

    Attributes:
        num_tasks: Number of tasks in the stream.
        iterations_per_task: Training iterations of each task.
        interval_length: Steps between consolidations; the last interval may be shorter.
    """

    num_tasks: int
    iterations_per_task: int
    interval_length: int

    def interval_of(self, step: TrainingStep) -> TrainingStep:
        """The number of a step's interval as `task`, its iteration within the interval, and the interval's length."""
        position = step.task * self.iterations_per_task + step.iteration
        return TrainingStep(position // self.interval_length, position % self.interval_length, self.interval_length)

    def last_interval_before(self, task: int, iteration: int) -> int:
        """The interval of the last step before `iteration` of `task`, or of the last step of the stream."""
        total = self.num_tasks * self.iterations_per_task
        position = min(task * self.iterations_per_task + iteration, total)
        return (position - 1) // self.interval_length

    def interval_units(self, task_units: Tensor) -> Tensor:
        """Output units of all tasks that overlap each interval, bool (I, U), from those of each task, bool (T, U)."""
        total = self.num_tasks * self.iterations_per_task
        intervals = []
        for start in range(0, total, self.interval_length):
            last = min(start + self.interval_length, total) - 1
            first_task, last_task = start // self.iterations_per_task, last // self.iterations_per_task
            intervals.append(task_units[first_task : last_task + 1].any(0))
        return torch.stack(intervals)


def check_task_boundaries(boundaries_unknown: bool, strategy: Strategy, scenario: Scenario) -> None:
    """Check that strategy and scenario fit a stream with known or unknown task boundaries.

    Raises:
        ConfigError: The strategy needs task boundaries, or each sample has a task label, or `consolidate_every` is
            missing or without effect.
    """
    every = strategy.consolidate_every
    if not boundaries_unknown:
        if every is not None:
            raise ConfigError(
                "strategy.consolidate_every",
                every,
                "is for task-free streams; with known boundaries the strategy consolidates after each task",
                "try train.task_boundaries=unknown",
            )
        return
    if scenario.task_id_available:
        raise ConfigError(
            "train.task_boundaries",
            "unknown",
            f"with scenario={scenario.name} each sample has a task label",
            "try scenario=class or scenario=domain",
        )
    for component in (strategy, strategy.regularizer):
        if component is not None and component.boundary_requirement:
            raise ConfigError(
                "train.task_boundaries",
                "unknown",
                f"{type(component).__name__} {component.boundary_requirement}",
                "try train.task_boundaries=known, or strategy=generative_replay, dgr, er_plus or finetune",
            )
    if strategy.supports_consolidation and every is None:
        raise ConfigError(
            "strategy.consolidate_every",
            None,
            "must be the number of steps between consolidations in a task-free stream",
            "try strategy.consolidate_every=1000",
        )
