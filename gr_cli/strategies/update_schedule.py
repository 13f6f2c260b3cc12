"""Whose turn a step of a task is: the solver's, the generator's, or that of both."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from gr_cli.strategies.steps import Position

When = Literal["alongside", "before", "after"]


@dataclass(frozen=True)
class Turns:
    """Who learns when.

    Args:
        generator: `alongside` the solver, or `before` or `after` it.
        every: at every so-many-th of the solver's iterations; before or after them, one step for so many.
        fitted: whether the generator is fitted in one go, and takes no steps.
    """

    generator: When
    every: int
    fitted: bool

    def alone(self, iterations: int) -> int:
        """How many steps the generator takes by itself in a task of so many iterations of the solver."""
        return 0 if self.fitted or self.generator == "alongside" else iterations // self.every

    def of_solver(self, position: Position) -> int | None:
        """Which of the solver's iterations is due at `position`, if any."""
        first = self.alone(position.iterations) if self.generator == "before" else 0
        mine = position.iteration - first
        return mine if 0 <= mine < position.iterations else None

    def of_generator(self, position: Position) -> int | None:
        """Which step of the generator is due at `position`, if any."""
        if self.fitted:
            return None
        if self.generator == "before":
            return position.iteration if position.iteration < self.alone(position.iterations) else None
        if self.generator == "after":
            beyond = position.iteration - position.iterations
            return beyond if beyond >= 0 else None
        update, rest = divmod(position.iteration + 1, self.every)
        return update - 1 if rest == 0 else None
