"""Principal components of samples."""

from __future__ import annotations

import torch
from torch import Tensor

from gr_cli.nn.symmetric import lower_product

MAX_EXACT_SIZE = 1024  # values of a sample; above, only the first principal components are computed
_OVERSAMPLING, _POWER_ITERATIONS = 10, 5  # of randomized subspace iteration


def principal_components(flat: Tensor, number: int, stream: torch.Generator) -> Tensor:
    """The first `number` principal components of centred samples `flat` (N, D), as orthonormal rows (number, D)."""
    size = flat.shape[1]
    if size <= MAX_EXACT_SIZE:
        eigenvectors: Tensor = torch.linalg.eigh(lower_product(flat) / len(flat))[1]
        return eigenvectors.flip(1)[:, :number].T
    # Randomized subspace iteration (Halko et al. 2011, algorithm 4.4): all components would take minutes and gigabytes.
    start = torch.randn(
        size, min(size, number + _OVERSAMPLING), generator=stream, device=stream.device, dtype=torch.float32
    )
    subspace = torch.linalg.qr(start.to(flat))[0]
    for _ in range(_POWER_ITERATIONS):
        subspace = torch.linalg.qr(flat.T @ (flat @ subspace))[0]
    projected = flat @ subspace
    rotation: Tensor = torch.linalg.eigh(projected.T @ projected / len(flat))[1]
    principal_axes: Tensor = subspace @ rotation.flip(1)[:, :number]
    return principal_axes.T
