"""Task-free streams (Aljundi et al. 2019): task boundaries are unknown, and the strategy consolidates every N steps.

The learner asks a `ConsolidationSchedule` for the interval of each step. Where an interval ends, `Learner` calls the
strategy's `end_task` and `begin_task`, as it does between tasks when boundaries are known.
"""

from __future__ import annotations

from bisect import bisect_right
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate

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

    >>> schedule = ConsolidationSchedule(iterations=(10, 10, 10), interval_length=8)
    >>> schedule.interval_of(TrainingStep(task=1, iteration=2, iterations=10))
    TrainingStep(task=1, iteration=4, iterations=8)

    Attributes:
        iterations: Training iterations of each task.
        interval_length: Steps between consolidations; the last interval may be shorter.
    """

    iterations: tuple[int, ...]
    interval_length: int

    @property
    def num_tasks(self) -> int:
        """Number of tasks in the stream."""
        return len(self.iterations)

    @cached_property
    def _starts(self) -> list[int]:
        """The first step of each task, and the number of all steps."""
        return list(accumulate(self.iterations, initial=0))

    def interval_of(self, step: TrainingStep) -> TrainingStep:
        """The number of a step's interval as `task`, its iteration within the interval, and the interval's length."""
        position = self._starts[step.task] + step.iteration
        return TrainingStep(position // self.interval_length, position % self.interval_length, self.interval_length)

    def last_interval_before(self, task: int, iteration: int) -> int:
        """The interval of the last step before `iteration` of `task`, or of the last step of the stream."""
        position = min(self._starts[task] + iteration, self._starts[-1])
        return (position - 1) // self.interval_length

    def interval_units(self, task_units: Tensor) -> Tensor:
        """Output units of all tasks that overlap each interval, bool (I, U), from those of each task, bool (T, U)."""
        total, intervals = self._starts[-1], []
        for start in range(0, total, self.interval_length):
            last = min(start + self.interval_length, total) - 1
            first_task, last_task = (bisect_right(self._starts, position) - 1 for position in (start, last))
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
