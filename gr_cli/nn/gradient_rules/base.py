"""Base class of gradient rules: plain autograd, the rule `none`."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar

import torch
from torch import Tensor

from gr_cli.nn.fused import Scale, Value, detached, differentiable, direct_gradients
from gr_cli.nn.losses import is_one, sum_tensors
from gr_cli.nn.random_streams import NoiseSpec, ReplicaStreams, StreamNames
from gr_cli.nn.replicas import Replicas
from gr_cli.privacy.access import Access


class Loss:
    """The loss of one step of R replicas.

    Args:
        total: The minimized loss (R,); None: the weighted sum of `terms`.
        per_sample: Computes each current sample's part of `total`, (R, B). The rest, `total - per_sample().sum(1)`,
            does not depend on current samples (replay, for example). None: `total` can't be split. Current samples
            come first in the batch that the networks are called on.
        keep_graph: Whether a further backward pass through the same graph follows.
        terms: Values (R,) and weights (numbers or (R,)) whose weighted sum `total` is; empty if unknown.
        rest: Computes the rest (R,), without operations on current samples; None: there is none.
        current_weight: Weight of the mean loss of current samples, one number or (R,): `per_sample()` is their losses
            times `current_weight / B`.
    """

    def __init__(
        self,
        total: Tensor | None = None,
        per_sample: Callable[[], Tensor] | None = None,
        keep_graph: bool = False,
        terms: Sequence[tuple[Value, Scale]] = (),
        rest: Callable[[], Tensor] | None = None,
        current_weight: Scale = 1.0,
    ) -> None:
        self._given_total, self.per_sample, self.keep_graph, self.terms = total, per_sample, keep_graph, terms
        self.rest, self.current_weight = rest, current_weight

    @cached_property
    def total(self) -> Tensor:
        """The minimized loss (R,), in autograd's graph."""
        if self._given_total is not None:
            return self._given_total
        return weighted_terms(self.terms)

    @property
    def detached_total(self) -> Tensor:
        """The minimized loss (R,), without autograd."""
        if self._given_total is not None:
            return self._given_total.detach()
        return _weighted_sum([(detached(value), weight) for value, weight in self.terms])


def weighted_terms(terms: Sequence[tuple[Value, Scale]]) -> Tensor:
    """The weighted sum (R,) of values, in autograd's graph."""
    return _weighted_sum([(differentiable(value), weight) for value, weight in terms])


def _weighted_sum(terms: Sequence[tuple[Tensor, Scale]]) -> Tensor:
    return sum_tensors([value if is_one(weight) else weight * value for value, weight in terms])


@dataclass(frozen=True)
class GradientStep:
    """The training step that a gradient is for.

    Attributes:
        name: What is trained: `solver`, `solver.constraint`, or `generator.<objective>`.
        task: Task, from 0.
        iteration: Iteration of the solver, or update of the generator, from 0.
        streams: Random streams of the replicas.
    """

    name: str
    task: int
    iteration: int
    streams: ReplicaStreams

    def noise(self, specs: Mapping[str, NoiseSpec]) -> dict[str, Tensor]:
        """Noise of this step by name, (R, ...) each; the same after resuming."""
        return self.streams.noise_at(specs, f"{StreamNames.GRADIENT_RULE}.{self.name}", self.task, self.iteration)

    def generator(self, replica: int) -> torch.Generator:
        """A stream of random numbers of this step and replica; the same after resuming."""
        return self.streams.generator(
            replica, f"{StreamNames.GRADIENT_RULE}.{self.name}.noise", self.task, self.iteration
        )


class GradientRule:
    """Plain gradients by autograd, without clipping or noise.

    Base class of gradient rules. Solver and objectives of the generator have one instance each. A rule that scales
    gradients overrides `gradients`:

        >>> class Scaled(GradientRule):
        ...     def __init__(self, factor=0.5):
        ...         self.factor = factor
        ...
        ...     def gradients(self, loss, parameters, step):
        ...         plain = super().gradients(loss, parameters, step)
        ...         return [None if g is None else self.factor * g for g in plain]
        >>> weight = torch.tensor([1.0, 2.0], requires_grad=True)
        >>> loss = Loss(total=(3 * weight).sum().unsqueeze(0))  # (R,) with R = 1
        >>> Scaled(0.5).gradients(loss, [weight], step=None)
        [tensor([1.5000, 1.5000])]

    Settings annotated with `VariesPerReplica` are stored as attributes of the same name, and may hold one number per
    replica, (R,).

    Attributes:
        differentiates_twice: Whether the rule takes second derivatives of losses. Fused losses have none, so that the
            losses are then computed by plain autograd, which is slower.
        is_private: Whether its steps read Poisson samples and are differentially private.
    """

    differentiates_twice: ClassVar[bool] = False
    is_private: ClassVar[bool] = False

    def gradients(self, loss: Loss, parameters: Sequence[Tensor], step: GradientStep) -> list[Tensor | None]:
        """The gradients of a loss.

        Nothing may synchronize with the device.

        Args:
            loss: The loss of R replicas.
            parameters: Parameters; with a leading replica axis if R > 1, without if R = 1.
            step: The training step.

        Returns:
            Gradients, shaped as the parameters; None for those that the loss does not depend on.
        """
        direct = direct_gradients(loss.terms, parameters)
        if direct is not None:
            return direct
        # Replicas share no parameters, so the gradient of the sum is each replica's own gradient.
        gradients = torch.autograd.grad(loss.total.sum(), parameters, allow_unused=True, retain_graph=loss.keep_graph)
        return list(gradients)

    def recording(self, networks: Replicas[Any]) -> AbstractContextManager[object]:
        """A context in which a loss of `networks` is computed, for rules that need more than its graph."""
        return nullcontext()

    def needed_batch_size(self, num_samples: int) -> int | None:
        """Positions that a batch would need for Poisson samples of a task of this size; None: it has enough."""
        return None

    def private_accesses(self, task: int, classes: Sequence[int], part: str) -> list[Access]:
        """What its steps in a task reveal of the samples they read, for the ledger; follows from settings alone.

        Args:
            task: Task, from 0.
            classes: Output units of the task's samples.
            part: What is trained, `solver` or `generator`.
        """
        return []

    def metrics(self) -> dict[str, Tensor]:
        """Values (R,) of the last step by name, columns of history.csv."""
        return {}

    def state_dict(self) -> dict[str, Any]:
        """The state: tensors with the replica axis (also if R = 1), and numbers common to all."""
        return {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore a state."""
