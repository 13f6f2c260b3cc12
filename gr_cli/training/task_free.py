"""Task-free streams: nobody tells where a task ends, and what the strategy takes for tasks are stretches of steps."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from gr_cli.errors import ConfigError
from gr_cli.scenario import Scenario
from gr_cli.strategies.base import Strategy
from gr_cli.strategies.steps import Position


@dataclass(frozen=True)
class Stretches:
    """A stream of `tasks` tasks of `iterations` steps each, as stretches of `length` steps, the last one cut short."""

    tasks: int
    iterations: int
    length: int

    def told(self, position: Position) -> Position:
        """What a strategy is told of a step: in which stretch it is, and where in that."""
        stretch, step = divmod(position.task * self.iterations + position.iteration, self.length)
        return Position(stretch, step, self.length)

    def reached(self, task: int, iteration: int) -> int:
        """The stretch of the last step before this one, or of the last of all."""
        return (min(task * self.iterations + iteration, self.tasks * self.iterations) - 1) // self.length

    def heads(self, heads: Tensor) -> Tensor:
        """The units of the tasks that have a part in each stretch, bool (S, U), from those of each task."""
        last = self.tasks * self.iterations - 1
        begins = range(0, last + 1, self.length)
        parts = [
            heads[first // self.iterations : min(first + self.length - 1, last) // self.iterations + 1]
            for first in begins
        ]
        return torch.stack([part.any(0) for part in parts])


def check_boundaries(hidden: bool, strategy: Strategy, scenario: Scenario) -> None:
    """Refuse a strategy that can't do without being told where a task ends, if that is `hidden`.

    Raises:
        ConfigError: says why.
    """
    every = strategy.consolidate_every
    if not hidden:
        if every is not None:
            raise ConfigError(
                "strategy.consolidate_every",
                every,
                "is for streams whose boundaries are hidden; with told ones it is done after each task",
                "try train.boundaries=hidden",
            )
        return
    if scenario.tells_tasks:
        raise ConfigError(
            "train.boundaries",
            "hidden",
            f"with scenario={scenario.kind} each sample tells which task it is from",
            "try scenario=class or scenario=domain",
        )
    for part in (strategy, strategy.regularizer):
        if part is not None and part.needs_boundaries:
            raise ConfigError(
                "train.boundaries",
                "hidden",
                f"{type(part).__name__} {part.needs_boundaries}",
                "try train.boundaries=told, or strategy=generative_replay, dgr, er_plus or finetune",
            )
    if strategy.consolidates and every is None:
        raise ConfigError(
            "strategy.consolidate_every",
            None,
            "must say how many steps lie between consolidations, where nobody tells that a task is over",
            "try strategy.consolidate_every=1000",
        )
