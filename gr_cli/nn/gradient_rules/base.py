"""Base class of gradient rules: plain autograd, the rule `none`."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from gr_cli.nn.fused import direct_gradients
from gr_cli.nn.random_streams import NoiseSpec, ReplicaStreams, StreamNames


@dataclass(frozen=True)
class Loss:
    """The loss of one step of R replicas.

    Attributes:
        total: The minimized loss (R,).
        per_sample: Computes each current sample's part of `total`, (R, B). The rest, `total - per_sample().sum(1)`,
            does not depend on current samples (replay, for example). None: `total` can't be split.
        keep_graph: Whether a further backward pass through the same graph follows.
        terms: Values (R,) and weights whose weighted sum `total` is; empty if unknown.
    """

    total: Tensor
    per_sample: Callable[[], Tensor] | None = None
    keep_graph: bool = False
    terms: Sequence[tuple[Tensor, float | Tensor]] = ()


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
    """

    differentiates_twice: ClassVar[bool] = False

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

    def metrics(self) -> dict[str, Tensor]:
        """Values (R,) of the last step by name, columns of history.csv."""
        return {}

    def state_dict(self) -> dict[str, Any]:
        """The state: tensors with the replica axis (also if R = 1), and numbers common to all."""
        return {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore a state."""
