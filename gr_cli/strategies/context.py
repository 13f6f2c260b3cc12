"""Values passed between the learner and a strategy.

Samples and losses have a leading axis of R replicas that are trained together; a single run has R = 1. Values
common to all replicas (`active_units`, training steps) don't. A strategy never mixes replicas.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol

from torch import Tensor, nn

from gr_cli.generators.base import Generator
from gr_cli.nn.fused import can_fuse
from gr_cli.nn.fused_losses import mean_losses
from gr_cli.nn.gradient_rules import Loss
from gr_cli.nn.layers import per_replica
from gr_cli.nn.losses import Targets, is_one, sum_tensors
from gr_cli.nn.random_streams import NoiseSpec, ReplicaStreams
from gr_cli.nn.replicas import Replicas

State = dict[str, Any]


class Stateful(Protocol):
    """A component with a state in the checkpoint."""

    def state_dict(self) -> State:
        """Tensors with the replica axis, and numbers common to all replicas."""


def optional_state(component: Stateful | None) -> State | None:
    """The state of a component, or None without one."""
    return None if component is None else component.state_dict()


# Iterates over the current task's samples of a replica: batches x (B, ...) with y (B,), as output units.
SamplePass = Callable[[int], Iterable[tuple[Tensor, Tensor]]]


class SolverForward(Protocol):
    """Forward pass of the solvers in a training step, with their noise; complete or in two halves."""

    def __call__(self, x: Tensor, /) -> Tensor:
        """Samples (R, B, ...) to logits (R, B, U)."""

    def features(self, x: Tensor, /) -> Tensor:
        """Samples (R, B, ...) to the inputs of the last layer (R, B, F); only for solvers with features."""

    def readout(self, features: Tensor, /) -> Tensor:
        """Features (R, B, F) to logits (R, B, U)."""

    @property
    def differentiable_twice(self) -> bool:
        """Whether second derivatives of losses may be taken, which fused losses don't have."""

    def mean_losses(self, x: Tensor, targets: Sequence[Targets], /) -> tuple[Tensor, ...] | None:
        """Mean loss (R,) of the samples of each of `targets`, network and losses in one; None if it can't be fused."""


@dataclass(frozen=True)
class Batch:
    """Current samples of one step, with the output units that compete on them.

    Attributes:
        x: Samples (R, B, ...), float.
        y: Labels (R, B), as output units.
        active_units: Units that compete on current samples: bool (U,), or (R, B, U) if they differ between samples.
        replay_units: Units that compete on replayed samples: bool (H, U) for H heads.
        competing_units: Units that compete on a stored sample with a known label: bool (U, U), row u for label u.
        sample_index: Positions (R, B) of these samples in the task, in the order of `TaskContext.sample_pass`; None
            where unknown (samples of a user's loader).
    """

    x: Tensor
    y: Tensor
    active_units: Tensor
    replay_units: Tensor
    competing_units: Tensor
    sample_index: Tensor | None = None


@dataclass(frozen=True)
class TrainingStep:
    """A training step's position in the stream.

    Attributes:
        task: Task, from 0.
        iteration: Step within the task, from 0. Steps from `iterations` on were added by the strategy.
        iterations: Solver steps of the task.
    """

    task: int
    iteration: int
    iterations: int


@dataclass(frozen=True)
class TaskContext:
    """What a strategy can use in a task: networks, units, random streams, and the task's samples.

    Attributes:
        task: Task, from 0.
        solver: The solvers of all replicas.
        generators: The generators of all replicas; None without a generator.
        streams: Random streams of all replicas.
        known_units: Units of the earlier tasks, for each of H heads: bool (H, U).
        task_of_unit: The earlier task of each unit (U,), -1 for none; None where a unit does not identify its task.
        task_units: Units of each task so far, the current one last: bool (t + 1, U).
        competing_units: Units that compete with each label, as in `Batch`: bool (U, U).
        sample_pass: Iterates over the task's samples of a replica; can be called any number of times.
    """

    task: int
    solver: Replicas[nn.Module]
    generators: Replicas[Generator] | None
    streams: ReplicaStreams
    known_units: Tensor
    task_of_unit: Tensor | None
    task_units: Tensor
    competing_units: Tensor
    sample_pass: SamplePass

    @property
    def generator(self) -> Replicas[Generator]:
        """The generators of all replicas, for strategies that require one."""
        assert self.generators is not None
        return self.generators

    def uniform(self, stream: str, size: int, step: TrainingStep) -> Tensor:
        """Uniform random numbers (R, size) in [0, 1) for a step."""
        return self.streams.values_at(NoiseSpec("uniform", (size,)), stream, step.task, step.iteration)


@dataclass(frozen=True)
class LossTerm:
    """One term of the total loss, which is the sum of weight * value over all terms.

    Attributes:
        value: Loss (R,).
        weight: Weight, one number for all replicas or (R,).
        is_constraint: Whether the term is a constraint: not part of the total, but the gradient of the total is
            projected so that the term does not increase to first order (A-GEM, Chaudhry et al. 2019).
        per_sample: Losses of the current samples (R, B) whose mean is `value`, or a function that computes them; None
            if it is no such mean.
    """

    value: Tensor
    weight: float | Tensor = 1.0
    is_constraint: bool = False
    per_sample: Tensor | Callable[[], Tensor] | None = None


def classification_losses(solver: SolverForward, x: Tensor, targets: Sequence[Targets]) -> list[LossTerm]:
    """A term of weight 1 for each of `targets`, from the solver's logits of samples x (R, B, ...)."""
    if hasattr(solver, "mean_losses") and (values := solver.mean_losses(x, targets)) is not None:
        # Rules that ask for losses of single samples get them from the plain forward pass.
        return [
            LossTerm(value, per_sample=partial(_plain_losses, solver, x, each))
            for value, each in zip(values, targets, strict=True)
        ]
    return logit_losses(solver(x), targets, getattr(solver, "differentiable_twice", True))


def _plain_losses(solver: SolverForward, x: Tensor, targets: Targets) -> Tensor:
    return targets.losses(solver(x))


def logit_losses(logits: Tensor, targets: Sequence[Targets], differentiable_twice: bool) -> list[LossTerm]:
    """A term of weight 1 for each of `targets`, from logits (R, B, U)."""
    if differentiable_twice or not can_fuse(logits):
        losses = [each.losses(logits) for each in targets]
        return [LossTerm(loss.mean(-1), per_sample=loss) for loss in losses]
    return [
        LossTerm(value, per_sample=partial(each.losses, logits))
        for value, each in zip(mean_losses(logits, targets), targets, strict=True)
    ]


def weighted_loss(terms: Sequence[LossTerm], keep_graph: bool = False) -> Loss:
    """The weighted sum of terms, as the loss of a gradient rule."""
    weighted = [(per_replica(term.weight, term.value), term.per_sample) for term in terms]

    def per_sample() -> Tensor:
        computed = [(weight, x() if callable(x) else x) for weight, x in weighted if x is not None]
        return sum_tensors([x * per_replica(weight, x) / x.shape[1] for weight, x in computed])

    values, weights = [term.value for term in terms], [weight for weight, _ in weighted]
    total = sum_tensors([v if is_one(w) else w * v for w, v in zip(weights, values, strict=True)])
    per_sample_function = per_sample if any(x is not None for _, x in weighted) else None
    return Loss(total, per_sample_function, keep_graph, tuple(zip(values, weights, strict=True)))


@dataclass(frozen=True)
class GeneratorBatch:
    """A batch for one update of the generator.

    Attributes:
        x: Samples (R, B, ...).
        update: Number of the update within the task, from 0.
        weights: Weights of the samples, (B,) or (R, B), with sum 1; None: their mean.
        labels: Labels (R, B) for conditional generators.
    """

    x: Tensor
    update: int
    weights: Tensor | None = None
    labels: Tensor | None = None
