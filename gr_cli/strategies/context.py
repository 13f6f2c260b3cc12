"""The values that pass between a strategy and the learner.

All samples and losses have a leading axis of R replicas that are trained together; R = 1 in a run alone. What is
shared by all replicas (`units`, positions) has none. A strategy never mixes replicas.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from torch import Tensor, nn

from gr_cli.generators.base import Generator
from gr_cli.nn.gradient_rules import Loss
from gr_cli.nn.layers import per_replica
from gr_cli.nn.losses import sum_tensors
from gr_cli.nn.random_streams import NoiseSpec, ReplicaStreams
from gr_cli.nn.replicas import Replicas

State = dict[str, Any]


class Stateful(Protocol):
    """What a checkpoint stores."""

    def state_dict(self) -> State:
        """Tensors, with the replica axis, and numbers common to all."""


def optional_state(component: Stateful | None) -> State | None:
    """The state of a part that may be missing."""
    return None if component is None else component.state_dict()


# One pass over the samples of the current task for the replica of that number: x (B, ...), y (B,) in output units.
SamplePass = Callable[[int], Iterable[tuple[Tensor, Tensor]]]


class SolverForward(Protocol):
    """The solvers as they are trained in this step, in two halves or as one."""

    def __call__(self, x: Tensor, /) -> Tensor:
        """Samples (R, B, ...) to logits (R, B, U)."""

    def features(self, x: Tensor, /) -> Tensor:
        """Samples to what the last layer sees, (R, B, F); for solvers that tell."""

    def readout(self, features: Tensor, /) -> Tensor:
        """That to logits (R, B, U)."""


@dataclass(frozen=True)
class Batch:
    """Current samples: `x` (R, B, ...) float, `y` (R, B) output units; and which units compete, as the scenario has
    it: `units` bool (U,) or (R, B, U) on these samples, `replay_units` bool (H, U) on replayed ones, for H heads, and
    `rivals` bool (U, U) on kept samples, whose label is known: row u for label u. `index` (R, B): which of the task's
    samples these are, in the order of a pass; None where that can't be told."""

    x: Tensor
    y: Tensor
    active_units: Tensor
    replay_units: Tensor
    competing_units: Tensor
    sample_index: Tensor | None = None


@dataclass(frozen=True)
class TrainingStep:
    """Where in the stream a step stands. A task has `iterations` solver steps; a strategy may add steps after them."""

    task: int
    iteration: int
    iterations: int


@dataclass(frozen=True)
class TaskContext:
    """What a strategy may look at when a task begins: networks as they stand, units for replay, random streams.

    `generators` is None where the strategy asked for none.
    `teacher_units` bool (H, U): the units that the solver knew before this task, for each of H heads.
    `task_of_unit` (U,): the earlier task that a unit belongs to, -1 for none; None where units can't tell.
    `heads` bool (t + 1, U): the units of each task so far, the current one last.
    `rivals` bool (U, U): as in `Batch`, the units that compete with each label.
    `samples`: a pass over the task's own samples, as often as wanted.
    """

    task: int
    solver: Replicas[nn.Module]
    generator_scope: Replicas[Generator] | None
    streams: ReplicaStreams
    known_units: Tensor
    task_of_unit: Tensor | None
    task_units: Tensor
    competing_units: Tensor
    sample_pass: SamplePass

    @property
    def generator(self) -> Replicas[Generator]:
        """The generator of a strategy that asked for one."""
        assert self.generator_scope is not None
        return self.generator_scope

    def uniform(self, stream: str, size: int, step: TrainingStep) -> Tensor:
        """Numbers (R, size) in [0, 1) for the step at `position`."""
        return self.streams.values_at(NoiseSpec("uniform", (size,)), stream, step.task, step.iteration)


@dataclass(frozen=True)
class LossTerm:
    """One part of the total loss, `value` (R,): total = sum of weight * value, the weight one for all or (R,).

    `per_sample` (R, B): the losses of current samples of which `value` is the mean, if it is.

    A `constraint` is no part of the total: the step is turned so that, to first order, this value does not rise
    (Chaudhry et al. 2019).
    """

    value: Tensor
    weight: float | Tensor = 1.0
    is_constraint: bool = False
    per_sample: Tensor | None = None


def weighted_loss(terms: Sequence[LossTerm], keep_graph: bool = False) -> Loss:
    """The weighted sum of terms, for a gradient rule."""
    parts = [(per_replica(term.weight, term.value), term.per_sample) for term in terms]

    def per_sample() -> Tensor:
        return sum_tensors([x * per_replica(weight, x) / x.shape[1] for weight, x in parts if x is not None])

    total = sum_tensors([weight * term.value for (weight, _), term in zip(parts, terms, strict=True)])
    return Loss(total, per_sample if any(x is not None for _, x in parts) else None, keep_graph)


@dataclass(frozen=True)
class GeneratorBatch:
    """What the generator learns from in its `update`-th step of a task (from 0): `x` (R, B, ...), and `weights`
    (B,) or (R, B) that sum to 1, or None for a mean; `labels` (R, B) for generators that are conditional on them."""

    x: Tensor
    update: int
    weights: Tensor | None = None
    labels: Tensor | None = None
