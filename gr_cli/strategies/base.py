"""What a strategy answers, and the values that pass between it and the learner.

All samples and losses have a leading axis of R replicas that are trained together; R = 1 in a run alone. What is
shared by all replicas (`units`, positions) has none. A strategy never mixes replicas.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, Protocol

import torch
from torch import Tensor, nn

from gr_cli.generators.base import Generator
from gr_cli.nn.losses import cross_entropy, weighted_sum
from gr_cli.nn.random_streams import Streams
from gr_cli.nn.replicas import Replicas
from gr_cli.scenario import Scenario

State = dict[str, Any]
# One pass over the samples of the current task for the replica of that number: x (B, ...), y (B,) in output units.
Pass = Callable[[int], Iterable[tuple[Tensor, Tensor]]]


class Solve(Protocol):
    """The solvers as they are trained in this step, in two halves or as one."""

    def __call__(self, x: Tensor, /) -> Tensor:
        """Samples (R, B, ...) to logits (R, B, U)."""
        ...

    def features(self, x: Tensor, /) -> Tensor:
        """Samples to what the last layer sees, (R, B, F); for solvers that tell."""
        ...

    def readout(self, features: Tensor, /) -> Tensor:
        """That to logits (R, B, U)."""
        ...


@dataclass(frozen=True)
class Batch:
    """Current samples: `x` (R, B, ...) float, `y` (R, B) output units; and which units compete, as the scenario has
    it: `units` bool (U,) or (R, B, U) on these samples, `replay_units` bool (H, U) on replayed ones, for H heads, and
    `rivals` bool (U, U) on kept samples, whose label is known: row u for label u. `index` (R, B): which of the task's
    samples these are, in the order of a pass; None where that can't be told."""

    x: Tensor
    y: Tensor
    units: Tensor
    replay_units: Tensor
    rivals: Tensor
    index: Tensor | None = None


@dataclass(frozen=True)
class Position:
    """Where in the stream a step stands. A task has `iterations` solver steps; a strategy may add steps after them."""

    task: int
    iteration: int
    iterations: int


@dataclass(frozen=True)
class Situation:
    """What a strategy may look at when a task begins: networks as they stand, units for replay, random streams.

    `generator` is None where the strategy asked for none.
    `teacher_units` bool (H, U): the units that the solver knew before this task, for each of H heads.
    `task_of_unit` (U,): the earlier task that a unit belongs to, -1 for none; None where units can't tell.
    `heads` bool (t + 1, U): the units of each task so far, the current one last.
    `rivals` bool (U, U): as in `Batch`, the units that compete with each label.
    `samples`: a pass over the task's own samples, as often as wanted.
    """

    task: int
    solver: Replicas[nn.Module]
    generator: Replicas[Generator] | None
    streams: Streams
    teacher_units: Tensor
    task_of_unit: Tensor | None
    heads: Tensor
    rivals: Tensor
    samples: Pass


@dataclass(frozen=True)
class Term:
    """One part of the total loss, `value` (R,): total = sum of weight * value, the weight one for all or (R,).

    A `constraint` is no part of the total: the step is turned so that, to first order, this value does not rise
    (Chaudhry et al. 2019).
    """

    value: Tensor
    weight: float | Tensor = 1.0
    constraint: bool = False


@dataclass(frozen=True)
class GeneratorBatch:
    """What the generator learns from in its `update`-th step of a task (from 0): `x` (R, B, ...), and `weights`
    (B,) or (R, B) that sum to 1, or None for a mean; `labels` (R, B) for generators that are conditional on them."""

    x: Tensor
    update: int
    weights: Tensor | None = None
    labels: Tensor | None = None


class Regularizer(ABC):
    """A penalty on the solver's parameters, beside whatever else is trained. Its gradient is known in closed form.

    Parameters and gradients are lists of tensors with a leading replica axis, (R, ...), in the order of
    `solver.parameters()`.

    `follows`: whether it must see every step that is taken.
    `looks_again`: whether it goes through a task's samples once more when it is over.
    `covers_all`: whether it is on all parameters where solver and generator are one network with one loss.
    `needs_boundaries`: what it does where a task ends, and so must be told of; empty: it can do without.
    """

    follows: ClassVar[bool] = False
    looks_again: ClassVar[bool] = False
    covers_all: bool = False
    needs_boundaries: str = "learns what is important when a task is over"

    @abstractmethod
    def penalty(self, parameters: Sequence[Tensor]) -> tuple[Tensor, list[Tensor]] | None:
        """Its value (R,) and its gradient; None while there is nothing to keep."""

    def leave_task(self) -> None:  # noqa: B027 most note nothing
        """Forget what was noted of a task that did not come to its end."""

    def follow(self, before: Sequence[Tensor], after: Sequence[Tensor], gradients: Sequence[Tensor]) -> None:
        """Take note of a step: `gradients` are those of the loss without this penalty, taken at `before`."""
        raise NotImplementedError

    @abstractmethod
    def end_task(self, parameters: Sequence[Tensor], situation: Situation) -> None:
        """Learn from a task that is over what is important to it."""

    @abstractmethod
    def state_dict(self) -> State:
        """Tensors, with the replica axis, and numbers common to all."""

    @abstractmethod
    def load_state_dict(self, state: State) -> None:
        """Take up what `state_dict` gave."""


class Strategy:
    """Plain training on the current batch; strategies override what they do differently.

    Args:
        regularizer: what else keeps the solver's parameters near to where they were, if anything.

    `stores_raw_samples`: whether training samples of a task are kept after it ended.
    `sees`: what is trained on in one go: a `task`, the tasks `so_far`, or `all` of them at once.
    `looks_again`: whether it goes through a task's samples outside of its steps.
    `couples`: whether the loss is one of solver and generator, and both take a step down it.
    `copies_solver`: whether it keeps a frozen copy of the solver during a task.
    `needs_boundaries`: what it does where a task begins or ends, and so must be told of; empty: it can do without.
    `consolidates`, `consolidate_every`: whether what it does there it does, untold, after so many steps each.
    """

    stores_raw_samples: ClassVar[bool] = False
    sees: ClassVar[Literal["task", "so_far", "all"]] = "task"
    couples: ClassVar[bool] = False
    copies_solver: ClassVar[bool] = False
    consolidates: ClassVar[bool] = False
    consolidate_every: int | None = None
    needs_boundaries: str = "learns by tasks, and must be told when one is over"
    looks_again: bool = False
    generator: Generator | None = None

    def __init__(self, regularizer: Regularizer | None = None) -> None:
        self.regularizer = regularizer

    def check(self, scenario: Scenario, solver: nn.Module) -> None:
        """Refuse what this strategy can't do.

        Raises:
            ConfigError: says why.
        """

    def begin_task(self, situation: Situation) -> None:
        """Prepare for a task, from the networks as they stand before it."""

    def steps(self, iterations: int) -> int:
        """How many steps a task of `iterations` solver steps takes; in the others only the generator learns."""
        return iterations

    def solver_iteration(self, position: Position) -> int | None:
        """Which of the solver's iterations this step is; None: the solver rests."""
        return position.iteration if position.iteration < position.iterations else None

    def loss(self, solver: Solve, batch: Batch, position: Position) -> dict[str, Term]:
        """The terms of the solver's loss on this step."""
        return {"current": Term(weighted_sum(cross_entropy(solver(batch.x), batch.y, batch.units), None))}

    def generator_batch(self, batch: Batch, position: Position) -> GeneratorBatch | None:
        """What the generator learns from on this step; None: it rests."""
        return None

    def after_step(self, batch: Batch, position: Position) -> None:
        """Take note of a batch that was learnt."""

    def end_task(self, situation: Situation) -> None:
        """Keep what is needed of a task that was learnt to its end, from the networks as they stand now."""

    def leave_task(self) -> None:
        """Let go of what must not outlive the task, whether it came to its end or not."""

    def classifier(self, replica: int, solver: nn.Module) -> Callable[[Tensor], Tensor]:
        """How samples (B, ...) are answered when this strategy is evaluated: a score for each unit, (B, U)."""
        return solver

    def dreamer(self, replica: int, generator: Generator) -> Generator:
        """What dreams of all tasks so far, the replica's `generator` being what learns."""
        return generator

    def dream_labels(
        self, x: Tensor, asked: Tensor | None, generator: Generator, solver: nn.Module, units: Tensor
    ) -> Tensor:
        """The units as which a replica's dreams `x` (N, ...) would be replayed, as its networks stand now, for each
        head of `units` bool (H, U): (N, H). That is what was `asked` (N,) for, if it was, else the solver's choice."""
        chosen: Tensor = solver(x).unsqueeze(1).masked_fill(~units, -torch.inf).argmax(-1)
        return chosen if asked is None else torch.where(units.T[asked], asked.unsqueeze(1), chosen)

    def state_dict(self) -> State:
        """All that this strategy needs to continue: tensors, with the replica axis, and numbers common to all."""
        return {}

    def load_state_dict(self, state: State, situation: Situation) -> None:
        """Take up `state` in the middle of the task that `situation` describes."""
