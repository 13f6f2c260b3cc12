"""Values passed between the learner and a strategy.

Samples and losses have a leading axis of R replicas that are trained together; a single run has R = 1. Values
common to all replicas (`active_units`, training steps) don't. A strategy never mixes replicas.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import KW_ONLY, dataclass, replace
from functools import partial
from typing import Any, Protocol

from torch import Tensor, nn

from gr_cli.generators.base import Generator
from gr_cli.nn.fused import Value, can_fuse, detached, differentiable
from gr_cli.nn.fused_losses import mean_losses
from gr_cli.nn.gradient_rules import Loss
from gr_cli.nn.gradient_rules.base import weighted_terms
from gr_cli.nn.layers import per_replica
from gr_cli.nn.losses import Targets, sum_tensors
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

    def mean_losses(self, x: Tensor, targets: Sequence[Targets], /) -> Sequence[Value] | None:
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
        updates: Consecutive steps that train on this batch; above 1 in single-pass streams only.
        is_remainder: Whether it is the last batch of a single pass, with fewer samples than the others.
        mask: Of Poisson samples: which positions hold one, bool (R, B); the others contribute to no loss. None: all do.
        target: Targets (R, B, H, U) of generated samples, which are computed when they are generated; None: those of
            the strategy.
    """

    x: Tensor
    y: Tensor
    active_units: Tensor
    replay_units: Tensor
    competing_units: Tensor
    sample_index: Tensor | None = None
    _: KW_ONLY
    updates: int = 1
    is_remainder: bool = False
    mask: Tensor | None = None
    target: Tensor | None = None

    def is_last_update(self, step: TrainingStep) -> bool:
        """Whether a step is the last one on this batch."""
        return (step.iteration + 1) % self.updates == 0

    def without_repeats(self, step: TrainingStep) -> TrainingStep:
        """The step with batches as iterations, for buffers that each batch enters once."""
        return step if self.updates == 1 else replace(step, iteration=step.iteration // self.updates)

    @property
    def units_by_head(self) -> Tensor:
        """`active_units` with an axis for heads, where they differ between samples: (U,) or (R, B, 1, U)."""
        return self.active_units if self.active_units.dim() == 1 else self.active_units.unsqueeze(-2)

    def units_competing_with(self, labels: Tensor) -> Tensor | None:
        """Units that compete on stored samples with labels (R, N): bool (R, N, 1, U); None: `replay_units` for all."""
        rows_are_one = self.competing_units.stride(0) == 0  # expanded, outside the task-incremental scenario
        return None if rows_are_one else self.competing_units[labels].unsqueeze(2)


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


class LossTerm:
    """One term of the total loss, which is the sum of weight * value over all terms.

    Args:
        value: Loss (R,).
        weight: Weight, one number for all replicas or (R,).
        is_constraint: Whether the term is a constraint: not part of the total, but the gradient of the total is
            projected so that the term does not increase to first order (A-GEM, Chaudhry et al. 2019).
        per_sample: Losses of the current samples (R, B) whose mean is `value`, or a function that computes them; None
            if it is no such mean.
    """

    __slots__ = ("fused_or_tensor", "is_constraint", "per_sample", "weight")

    def __init__(
        self,
        value: Value,
        weight: float | Tensor = 1.0,
        is_constraint: bool = False,
        per_sample: Tensor | Callable[[], Tensor] | None = None,
    ) -> None:
        self.fused_or_tensor, self.weight = value, weight
        self.is_constraint, self.per_sample = is_constraint, per_sample

    @property
    def value(self) -> Tensor:
        """The loss (R,), in autograd's graph."""
        return differentiable(self.fused_or_tensor)

    def replace(self, **changes: Any) -> LossTerm:
        """This term with other arguments than it was made with."""
        arguments = {
            "value": self.fused_or_tensor,
            "weight": self.weight,
            "is_constraint": self.is_constraint,
            "per_sample": self.per_sample,
        }
        return LossTerm(**(arguments | changes))


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
    weighted = [(term.fused_or_tensor, _weight_like(term)) for term in terms]
    others = [each for each, term in zip(weighted, terms, strict=True) if term.per_sample is None]
    weights = [weight for (_, weight), term in zip(weighted, terms, strict=True) if term.per_sample is not None]
    if not weights:
        return Loss(None, None, keep_graph, weighted)
    rest, current_weight = partial(weighted_terms, others) if others else None, sum(weights)
    return Loss(None, partial(_weighted_samples, terms), keep_graph, weighted, rest, current_weight)


def masked_terms(terms: Mapping[str, LossTerm], mask: Tensor | None) -> dict[str, LossTerm]:
    """Terms without the contribution of positions that hold no sample.

    Args:
        terms: Terms of a loss by name.
        mask: Which positions hold a sample, bool (R, B); None: all.
    """
    if mask is None:
        return dict(terms)
    counts = mask.sum(1).clamp(min=1)
    masked = {}
    for name, term in terms.items():
        if term.per_sample is not None:
            losses = (term.per_sample() if callable(term.per_sample) else term.per_sample) * mask
            term = term.replace(value=losses.sum(1) / counts, per_sample=losses)
        masked[name] = term
    return masked


def _weight_like(term: LossTerm) -> float | Tensor:
    """The weight of a term, in the type of its value."""
    weight = term.weight
    return weight.to(detached(term.fused_or_tensor).dtype) if isinstance(weight, Tensor) else weight


def _weighted_samples(terms: Sequence[LossTerm]) -> Tensor:
    """Contribution (R, B) of each current sample to the sum of the terms."""
    computed = [(t.weight, t.per_sample() if callable(t.per_sample) else t.per_sample) for t in terms]
    return sum_tensors([x * per_replica(weight, x) / x.shape[1] for weight, x in computed if x is not None])


@dataclass(frozen=True)
class GeneratorDistillation:
    """Samples on which a frozen generator teaches the trained one its outputs.

    Attributes:
        teacher: The frozen generators.
        x: Samples of the teacher (R, N, ...).
        labels: Labels (R, N) for conditional generators.
        weight: Weight of the loss, one number or (R,); the loss on the other samples has weight 1.
    """

    teacher: Replicas[Generator]
    x: Tensor
    labels: Tensor | None
    weight: float | Tensor


@dataclass(frozen=True)
class GeneratorBatch:
    """A batch for one update of the generator.

    Attributes:
        x: Samples (R, B, ...).
        update: Number of the update within the task, from 0.
        weights: Weights of the samples, (B,) or (R, B), with sum 1; None: their mean.
        labels: Labels (R, B) for conditional generators.
        distillation: Samples with a teacher's outputs, in addition to `x`; None: none.
        num_current: Number of samples of the current task, which come first in `x`; None: unknown.
        mask: `Batch.mask` of those; None: all positions hold a sample.
    """

    x: Tensor
    update: int
    weights: Tensor | None = None
    labels: Tensor | None = None
    distillation: GeneratorDistillation | None = None
    num_current: int | None = None
    mask: Tensor | None = None
