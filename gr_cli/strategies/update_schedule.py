"""Schedule of solver and generator updates."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from gr_cli.strategies.context import TrainingStep

GeneratorTiming = Literal["alongside", "before", "after"]


@dataclass(frozen=True)
class UpdateSchedule:
    """Schedule of solver and generator updates within a task.

    Attributes:
        generator_timing: The generator is trained `alongside` the solver, or in steps `before` or `after` the solver's.
        update_every: Solver iterations per generator update.
        closed_form: Whether the generator is fitted in closed form, without update steps.
    """

    generator_timing: GeneratorTiming
    update_every: int
    closed_form: bool

    @property
    def generator_first(self) -> bool:
        """Whether the generator is trained on a task before the solver is."""
        return self.generator_timing == "before"

    @property
    def boundary_requirement(self) -> str | None:
        """What is done at task boundaries, as in `Strategy.boundary_requirement`."""
        is_separate = self.closed_form or self.generator_timing != "alongside"
        return "trains this generator at the start or end of each task" if is_separate else None

    def generator_only_steps(self, iterations: int) -> int:
        """Number of steps in which only the generator is trained, for a number of solver iterations."""
        return 0 if self.closed_form or self.generator_timing == "alongside" else iterations // self.update_every

    def num_updates(self, iterations: int) -> int:
        """Number of generator updates in a task, for a number of solver iterations."""
        return 0 if self.closed_form else iterations // self.update_every

    def solver_step_at(self, step: TrainingStep) -> int | None:
        """The solver iteration of a step; None: the solver is not trained."""
        first = self.generator_only_steps(step.iterations) if self.generator_first else 0
        iteration = step.iteration - first
        return iteration if 0 <= iteration < step.iterations else None

    def generator_step_at(self, step: TrainingStep) -> int | None:
        """The generator update of a step; None: the generator is not trained."""
        if self.closed_form:
            return None
        if self.generator_first:
            return step.iteration if step.iteration < self.generator_only_steps(step.iterations) else None
        if self.generator_timing == "after":
            update = step.iteration - step.iterations
            return update if update >= 0 else None
        updates, remainder = divmod(step.iteration + 1, self.update_every)
        return updates - 1 if remainder == 0 else None
