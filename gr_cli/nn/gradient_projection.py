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
    """`gradients` without the part that would make the loss of `reference` rise (Chaudhry et al. 2019, eq. 11)."""
    pairs = [
        (with_replica_axis(g, replicas).flatten(1), with_replica_axis(r, replicas).flatten(1))
        for g, r in zip(gradients, reference_gradients, strict=True)
        if g is not None and r is not None
    ]
    along = sum_tensors([(g * r).sum(1) for g, r in pairs])  # (R,)
    size = sum_tensors([(r * r).sum(1) for _, r in pairs])
    excess = (along / size.clamp(min=torch.finfo(size.dtype).tiny)).clamp(max=0.0)

    def without(g: Tensor, r: Tensor) -> Tensor:
        whole = with_replica_axis(r, replicas)
        return g - (per_replica(excess, whole) * whole).view_as(g)

    return [g if g is None or r is None else without(g, r) for g, r in zip(gradients, reference_gradients, strict=True)]


def with_replica_axis(value: Tensor, replicas: int) -> Tensor:
    """A parameter or its gradient with the replica axis, which those of a run alone don't have."""
    return value.unsqueeze(0) if replicas == 1 else value
