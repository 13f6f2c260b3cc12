"""What a strategy is: the answers that the learner asks it for. The base class learns the current batch alone."""

from __future__ import annotations

from collections.abc import Callable
from typing import ClassVar, Literal

import torch
from torch import Tensor, nn

from gr_cli.generators.base import Generator
from gr_cli.nn.losses import cross_entropy, weighted_sum
from gr_cli.nn.replicas import Replicas
from gr_cli.scenario import Scenario
from gr_cli.strategies.context import (
    Batch,
    GeneratorBatch,
    LossTerm,
    SolverForward,
    State,
    TaskContext,
    TrainingStep,
    optional_state,
)
from gr_cli.strategies.regularizer import Regularizer


class Strategy:
    """Plain training on the current batch; strategies override what they do differently.

    Args:
        regularizer: what else keeps the solver's parameters near to where they were, if anything.

    `stores_raw_samples`: whether training samples of a task are kept after it ended.
    `sees`: what is trained on in one go: a `task`, the tasks `so_far`, or `all` of them at once.
    `looks_again`: whether it goes through a task's samples outside of its steps.
    `couples`: whether the loss is one of solver and generator, and both take a step down it.
    `copies_solver`: whether it keeps a frozen copy of the solver, the `teacher`, during each task but the first.
    `needs_boundaries`: what it does where a task begins or ends, and so must be told of; empty: it can do without.
    `consolidates`, `consolidate_every`: whether what it does there it does, untold, after so many steps each.
    """

    stores_raw_samples: ClassVar[bool] = False
    training_data: ClassVar[Literal["current", "cumulative", "joint"]] = "current"
    shares_loss_with_generator: ClassVar[bool] = False
    uses_teacher: ClassVar[bool] = False
    supports_consolidation: ClassVar[bool] = False
    consolidate_every: int | None = None
    boundary_requirement: str = "learns by tasks, and must be told when one is over"
    needs_second_pass: bool = False
    generator: Generator | None = None

    def __init__(self, regularizer: Regularizer | None = None) -> None:
        self.regularizer = regularizer
        self.teacher: Replicas[nn.Module] | None = None

    def check(self, scenario: Scenario, solver: nn.Module) -> None:
        """Refuse what this strategy can't do.

        Raises:
            ConfigError: says why.
        """

    def begin_task(self, context: TaskContext) -> None:
        """Prepare for a task, from the networks as they stand before it."""
        self._set_up_task(context)
        if self.uses_teacher and context.task > 0:
            # Copy before training: targets must come from the solver as it was.
            self.teacher = context.solver.frozen_copy()

    def _set_up_task(self, context: TaskContext) -> None:
        """Make ready for a task, or for going on in it."""
        self._context, self.teacher = context, None

    def num_steps(self, iterations: int) -> int:
        """How many steps a task of `iterations` solver steps takes; in the others only the generator learns."""
        return iterations

    def solver_iteration(self, step: TrainingStep) -> int | None:
        """Which of the solver's iterations this step is; None: the solver rests."""
        return step.iteration if step.iteration < step.iterations else None

    def loss(self, solver: SolverForward, batch: Batch, step: TrainingStep) -> dict[str, LossTerm]:
        """The terms of the solver's loss on this step."""
        losses = cross_entropy(solver(batch.x), batch.y, batch.active_units)
        return {"current": LossTerm(weighted_sum(losses, None), per_sample=losses)}

    def generator_batch(self, batch: Batch, step: TrainingStep) -> GeneratorBatch | None:
        """What the generator learns from on this step; None: it rests."""
        return None

    def after_step(self, batch: Batch, step: TrainingStep) -> None:
        """Take note of a batch that was learnt."""

    def end_task(self, context: TaskContext) -> None:
        """Keep what is needed of a task that was learnt to its end, from the networks as they stand now."""

    def release_task(self) -> None:
        """Let go of what must not outlive the task, whether it came to its end or not."""
        self.teacher = None

    def classifier(self, replica: int, solver: nn.Module) -> Callable[[Tensor], Tensor]:
        """How samples (B, ...) are answered when this strategy is evaluated: a score for each unit, (B, U)."""
        return solver

    def sampling_generator(self, replica: int, generator: Generator) -> Generator:
        """What dreams of all tasks so far, the replica's `generator` being what learns."""
        return generator

    def replay_labels(
        self, x: Tensor, requested_labels: Tensor | None, generator: Generator, solver: nn.Module, task_units: Tensor
    ) -> Tensor:
        """The units as which a replica's dreams `x` (N, ...) would be replayed, as its networks stand now, for each
        head of `units` bool (H, U): (N, H). That is what was `asked` (N,) for, if it was, else the solver's choice."""
        chosen: Tensor = solver(x).unsqueeze(1).masked_fill(~task_units, -torch.inf).argmax(-1)
        return (
            chosen
            if requested_labels is None
            else torch.where(task_units.T[requested_labels], requested_labels.unsqueeze(1), chosen)
        )

    def state_dict(self) -> State:
        """All that this strategy needs to continue: tensors, with the replica axis, and numbers common to all. Those
        that derive from it add to what `super()` says, if they keep a teacher."""
        return {"teacher": optional_state(self.teacher)}

    def load_state_dict(self, state: State, context: TaskContext) -> None:
        """Take up `state` in the middle of the task that `situation` describes."""
        self._set_up_task(context)
        if state.get("teacher") is not None:
            self.teacher = context.solver.frozen_copy()
            self.teacher.load_state_dict(state["teacher"])
