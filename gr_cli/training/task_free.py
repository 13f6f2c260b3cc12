"""Task-free streams: nobody tells where a task ends, and what the strategy takes for tasks are stretches of steps."""

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
    """A stream of `tasks` tasks of `iterations` steps each, as stretches of `length` steps, the last one cut short."""

    num_tasks: int
    iterations_per_task: int
    interval_length: int

    def interval_of(self, position: TrainingStep) -> TrainingStep:
        """What a strategy is told of a step: in which stretch it is, and where in that."""
        stretch, step = divmod(position.task * self.iterations_per_task + position.iteration, self.interval_length)
        return TrainingStep(stretch, step, self.interval_length)

    def last_interval_before(self, task: int, iteration: int) -> int:
        """The stretch of the last step before this one, or of the last of all."""
        return (
            min(task * self.iterations_per_task + iteration, self.num_tasks * self.iterations_per_task) - 1
        ) // self.interval_length

    def interval_units(self, task_units: Tensor) -> Tensor:
        """The units of the tasks that have a part in each stretch, bool (S, U), from those of each task."""
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
    """Refuse a strategy that can't do without being told where a task ends, if that is `hidden`.

    Raises:
        ConfigError: says why.
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
