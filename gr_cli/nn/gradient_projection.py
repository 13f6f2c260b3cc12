"""Gradient projection of A-GEM (Chaudhry et al. 2019)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

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
    pairs = zip(gradients, reference_gradients, strict=True)
    present = [(i, g, r) for i, (g, r) in enumerate(pairs) if g is not None and r is not None]
    gs, rs = [g for _, g, _ in present], [r for _, _, r in present]
    projected = list(gradients)
    dot_product, squared_norm = sum_products(gs, rs, replicas), sum_products(rs, rs, replicas)  # (R,)
    coefficient = (dot_product / squared_norm.clamp(min=torch.finfo(squared_norm.dtype).tiny)).clamp(max=0.0)
    differences = torch._foreach_sub(gs, scale_replicas(rs, coefficient))
    for (i, _, _), difference in zip(present, differences, strict=True):
        projected[i] = difference
    return projected


def sum_products(first: Sequence[Tensor], second: Sequence[Tensor], replicas: int) -> Tensor:
    """Sum over all tensors of the elementwise products of each replica: (R,).

    Args:
        first: Tensors, (R, ...) each if R > 1.
        second: Tensors of these shapes.
        replicas: R.
    """
    products = torch._foreach_mul(list(first), list(second))
    return sum_tensors([p.reshape(replicas, -1).sum(1) for p in products])


def scale_replicas(tensors: Sequence[Tensor], factors: Tensor) -> list[Tensor]:
    """Tensors, (R, ...) each if R > 1, times the factor (R,) of each replica."""
    if factors.shape[0] == 1:
        return list(torch._foreach_mul(list(tensors), factors.squeeze(0)))
    return list(torch._foreach_mul(list(tensors), [factors.view(-1, *[1] * (t.dim() - 1)) for t in tensors]))


def with_replica_axis(value: Tensor, replicas: int) -> Tensor:
    """A parameter or gradient (R, ...); with R = 1 the axis is added."""
    return value.unsqueeze(0) if replicas == 1 else value
