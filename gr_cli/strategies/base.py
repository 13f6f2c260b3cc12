"""What a strategy answers, and the values that pass between it and the learner.

All samples and losses have a leading axis of R replicas that are trained together; R = 1 in a run alone. What is
shared by all replicas (`units`, positions) has none. A strategy never mixes replicas.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from gr_cli.generators.base import Generator
from gr_cli.losses import cross_entropy, weighted_sum
from gr_cli.randomness import Streams
from gr_cli.replicas import Replicas

State = dict[str, Any]
Solve = Callable[[Tensor], Tensor]  # samples (R, B, ...) to logits (R, B, U)


@dataclass(frozen=True)
class Batch:
    """Current samples: `x` (R, B, ...) float, `y` (R, B) output units; and which units compete, as the scenario has
    it: `units` bool (U,) or (R, B, U) on these samples, `replay_units` bool (H, U) on replayed ones, for H heads."""

    x: Tensor
    y: Tensor
    units: Tensor
    replay_units: Tensor


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
    """

    task: int
    solver: Replicas[nn.Module]
    generator: Replicas[Generator] | None
    streams: Streams
    teacher_units: Tensor
    task_of_unit: Tensor | None


@dataclass(frozen=True)
class Term:
    """One part of the total loss, `value` (R,): total = sum of weight * value, the weight one for all or (R,)."""

    value: Tensor
    weight: float | Tensor = 1.0


@dataclass(frozen=True)
class GeneratorBatch:
    """What the generator learns from in its `update`-th step of a task (from 0): `x` (R, B, ...), and `weights`
    (B,) or (R, B) that sum to 1, or None for a mean."""

    x: Tensor
    update: int
    weights: Tensor | None = None


class Strategy:
    """Plain training on the current batch; strategies override what they do differently.

    `stores_raw_samples`: whether training samples of a task are kept after it ended.
    `all_tasks_at_once`: whether the tasks are trained together instead of one after the other.
    """

    stores_raw_samples = False
    all_tasks_at_once = False
    generator: Generator | None = None

    def begin_task(self, situation: Situation) -> None:
        """Prepare for a task, from the networks as they stand before it."""

    def steps(self, iterations: int) -> int:
        """How many steps a task of `iterations` solver steps takes; those beyond train the generator only."""
        return iterations

    def loss(self, solver: Solve, batch: Batch, position: Position) -> dict[str, Term]:
        """The terms of the solver's loss on this step."""
        return {"current": Term(weighted_sum(cross_entropy(solver(batch.x), batch.y, batch.units), None))}

    def generator_batch(self, batch: Batch, position: Position) -> GeneratorBatch | None:
        """What the generator learns from on this step; None: it rests."""
        return None

    def after_step(self, batch: Batch, position: Position) -> None:
        """Take note of a batch that was learnt."""

    def end_task(self) -> None:
        """Close the task: let go of what must not outlive it."""

    def state_dict(self) -> State:
        """All that this strategy needs to continue: tensors, with the replica axis, and numbers common to all."""
        return {}

    def load_state_dict(self, state: State, situation: Situation) -> None:
        """Take up `state` in the middle of the task that `situation` describes."""
