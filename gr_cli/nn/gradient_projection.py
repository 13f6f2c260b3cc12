"""Gradient projection of A-GEM (Chaudhry et al. 2019)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from gr_cli.nn.layers import per_replica
from gr_cli.nn.losses import sum_tensors


def project_conflicting_gradient(
    gradients: Sequence[Tensor | None], reference_gradients: Sequence[Tensor | None], replicas: int
) -> list[Tensor | None]:
    """A-GEM's projection: remove the component of a gradient that conflicts with a reference gradient.

    g - min(0, g.r / r.r) r, for each replica over all parameters (Chaudhry et al. 2019, eq. 11). To first order, a step
    along the result does not increase the loss of the reference gradient.

    Args:
        gradients: Gradients g of the current loss; (R, ...) each if R > 1. None: not part of the loss.
        reference_gradients: Gradients r of the loss on stored samples.
        replicas: R.

    Returns:
        The projected gradients, shaped as `gradients`.
    """
    pairs = [
        (with_replica_axis(g, replicas).flatten(1), with_replica_axis(r, replicas).flatten(1))
        for g, r in zip(gradients, reference_gradients, strict=True)
        if g is not None and r is not None
    ]
    dot_product = sum_tensors([(g * r).sum(1) for g, r in pairs])  # (R,)
    squared_norm = sum_tensors([(r * r).sum(1) for _, r in pairs])
    coefficient = (dot_product / squared_norm.clamp(min=torch.finfo(squared_norm.dtype).tiny)).clamp(max=0.0)

    def project(g: Tensor, r: Tensor) -> Tensor:
        reference = with_replica_axis(r, replicas)
        return g - (per_replica(coefficient, reference) * reference).view_as(g)

    return [g if g is None or r is None else project(g, r) for g, r in zip(gradients, reference_gradients, strict=True)]


def with_replica_axis(value: Tensor, replicas: int) -> Tensor:
    """A parameter or gradient (R, ...); with R = 1 the axis is added."""
    return value.unsqueeze(0) if replicas == 1 else value
