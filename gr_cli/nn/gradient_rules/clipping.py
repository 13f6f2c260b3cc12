"""Gradient clipping by global norm (Pascanu et al. 2013)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

from torch import Tensor

from gr_cli.nn.gradient_projection import scale_replicas, sum_products
from gr_cli.nn.gradient_rules.base import GradientRule, GradientStep, Loss
from gr_cli.nn.layers import per_replica
from gr_cli.types import Positive, VariesPerReplica


class NormClipping(GradientRule):
    """Gradient clipping by global norm (Pascanu et al. 2013).

    Scales each replica's gradient down to a norm of at most `max_norm`, as `torch.nn.utils.clip_grad_norm_` does. The
    norm is that of all parameters of one loss together, without the penalty of a regularizer. Metrics:
    `gradient_norm`, the norm before clipping, and `clipped`, 1 where the gradient was scaled down and else 0.

    Args:
        max_norm: Largest Euclidean norm of a gradient after clipping.
    """

    def __init__(self, max_norm: Annotated[Positive, VariesPerReplica] = 1.0) -> None:
        self.max_norm: float | Tensor = max_norm
        self._metrics: dict[str, Tensor] = {}

    def gradients(self, loss: Loss, parameters: Sequence[Tensor], step: GradientStep) -> list[Tensor | None]:
        gradients = super().gradients(loss, parameters, step)
        replicas = loss.detached_total.shape[0]
        present = [g for g in gradients if g is not None]
        if not present:
            return gradients
        norm = sum_products(present, present, replicas).sqrt()  # (R,)
        # 1e-6 as in torch, against division by 0.
        scale = (per_replica(self.max_norm, norm) / (norm + 1e-6)).clamp(max=1.0)
        self._metrics = {"gradient_norm": norm, "clipped": (scale < 1.0).to(norm.dtype)}
        clipped = iter(scale_replicas(present, scale))
        return [None if g is None else next(clipped) for g in gradients]

    def metrics(self) -> dict[str, Tensor]:
        return self._metrics
