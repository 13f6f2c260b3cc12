"""Task-free streams: task boundaries are unknown, and the strategy consolidates every N steps instead.

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

    def interval_of(self, position: TrainingStep) -> TrainingStep:
        """The number of a step's interval as `task`, its iteration within the interval, and the interval's length."""
        stretch, step = divmod(position.task * self.iterations_per_task + position.iteration, self.interval_length)
        return TrainingStep(stretch, step, self.interval_length)

    def last_interval_before(self, task: int, iteration: int) -> int:
        """The interval of the last step before `iteration` of `task`, or of the last step of the stream."""
        return (
            min(task * self.iterations_per_task + iteration, self.num_tasks * self.iterations_per_task) - 1
        ) // self.interval_length

    def interval_units(self, task_units: Tensor) -> Tensor:
        """Output units of all tasks that overlap each interval, bool (I, U), from those of each task, bool (T, U)."""
        last = self.num_tasks * self.iterations_per_task - 1
        begins = range(0, last + 1, self.interval_length)
        parts = [
            task_units[
                first // self.iterations_per_task : min(first + self.interval_length - 1, last)
                // self.iterations_per_task
                + 1
            ]
            for first in begins
        ]
        return torch.stack([part.any(0) for part in parts])


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
            f"with scenario={scenario.name} each sample tells which task it is from",
            "try scenario=class or scenario=domain",
        )
    for part in (strategy, strategy.regularizer):
        if part is not None and part.boundary_requirement:
            raise ConfigError(
                "train.task_boundaries",
                "unknown",
                f"{type(part).__name__} {part.boundary_requirement}",
                "try train.task_boundaries=known, or strategy=generative_replay, dgr, er_plus or finetune",
            )
    if strategy.supports_consolidation and every is None:
        raise ConfigError(
            "strategy.consolidate_every",
            None,
            "must say how many steps lie between consolidations, where nobody tells that a task is over",
            "try strategy.consolidate_every=1000",
        )
