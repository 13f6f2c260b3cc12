"""Schedule of solver and generator updates."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from gr_cli.strategies.context import TrainingStep

GeneratorTiming = Literal["alongside", "before", "after"]


@dataclass(frozen=True)
class UpdateSchedule:
    """Which of solver and generator learn in a step.

    Args:
        generator: it learns `alongside` the solver, or `before` or `after` it.
        every: at every so-many-th of the solver's iterations; before or after them, one step for so many.
        fitted: whether the generator is fitted in one go, and takes no steps.
    """

    generator_timing: GeneratorTiming
    update_every: int
    closed_form: bool

    @property
    def generator_first(self) -> bool:
        """Whether the generator knows a task before the solver learns it."""
        return self.generator_timing == "before"

    @property
    def boundary_requirement(self) -> str:
        """What is done where a task begins or ends, as `Strategy.needs_boundaries` says it."""
        apart = self.closed_form or self.generator_timing != "alongside"
        return "trains this generator when a task begins or ends" if apart else ""

    def generator_only_steps(self, iterations: int) -> int:
        """How many steps the generator takes by itself in a task of so many iterations of the solver."""
        return 0 if self.closed_form or self.generator_timing == "alongside" else iterations // self.update_every

    def solver_step_at(self, step: TrainingStep) -> int | None:
        """Which of the solver's iterations is due at `position`, if any."""
        first = self.generator_only_steps(step.iterations) if self.generator_first else 0
        iteration = step.iteration - first
        return iteration if 0 <= iteration < step.iterations else None

    def generator_step_at(self, step: TrainingStep) -> int | None:
        """Which step of the generator is due at `position`, if any."""
        if self.closed_form:
            return None
        if self.generator_first:
            return step.iteration if step.iteration < self.generator_only_steps(step.iterations) else None
        if self.generator_timing == "after":
            beyond = step.iteration - step.iterations
            return beyond if beyond >= 0 else None
        update, rest = divmod(step.iteration + 1, self.update_every)
        return update - 1 if rest == 0 else None
