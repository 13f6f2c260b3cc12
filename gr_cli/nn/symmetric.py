"""Symmetric matrices: products of samples, packed storage, and Cholesky factors of nearly singular matrices."""

from __future__ import annotations

import torch
from torch import Tensor

_BLOCKS = 4  # of columns, in products of samples: half of the matrix is not computed
_FIRST_JITTER, _MAX_JITTER = 1e-14, 1e-2  # added to the diagonal, relative to its mean


def lower_product(x: Tensor) -> Tensor:
    """`x.T @ x` (D, D) of samples x (N, D) in the lower triangle; above it are arbitrary values."""
    size = x.shape[1]
    product = x.new_zeros(size, size)
    width = max(1, -(-size // _BLOCKS))
    for first in range(0, size, width):
        end = min(first + width, size)
        product[first:end, :end] = x[:, first:end].T @ x[:, :end]
    return product


def pack(matrix: Tensor) -> Tensor:
    """The lower triangle (D (D + 1) / 2,) of a matrix (D, D), row by row."""
    return torch.cat([row[: i + 1] for i, row in enumerate(matrix)])


def unpack(packed: Tensor, size: int) -> Tensor:
    """The symmetric matrix (D, D) of which `pack` gives the lower triangle.

    >>> unpack(torch.tensor([1.0, 2.0, 3.0]), 2)
    tensor([[1., 2.],
            [2., 3.]])
    """
    matrix = packed.new_zeros(size, size)
    for i, row in enumerate(packed.split(tuple(range(1, size + 1)))):
        matrix[i, : i + 1] = row
    return matrix + matrix.tril(-1).T


def diagonal_positions(size: int) -> Tensor:
    """Positions (D,) of the diagonal of a matrix (D, D) that `pack` packed."""
    return torch.arange(1, size + 1).cumsum(0) - 1


def packed_size(size: int) -> int:
    """Number of values of a packed matrix (size, size)."""
    return size * (size + 1) // 2


def cholesky(matrices: Tensor) -> Tensor:
    """Lower Cholesky factors of symmetric matrices (..., D, D), of which the lower triangles are read.

    A matrix that is not positive definite to working precision gets 1e-14 of the mean of its diagonal added to the
    diagonal, then ten times as much, until it is; at most 1e-2. If the diagonal is zero: of 1.

    Raises:
        ValueError: A matrix is far from positive definite, or not finite.
    """
    factors: Tensor
    factors, info = torch.linalg.cholesky_ex(matrices)
    if not info.any():
        return factors
    scale = matrices.diagonal(dim1=-2, dim2=-1).mean(-1)
    scale = torch.where(scale > 0, scale, 1.0)
    identity, jitter = torch.eye(matrices.shape[-1]).to(matrices), _FIRST_JITTER
    while bool(info.any()) and jitter <= _MAX_JITTER:
        added = torch.where(info > 0, jitter * scale, 0.0)
        factors, info = torch.linalg.cholesky_ex(matrices + added[..., None, None] * identity)
        jitter *= 10
    if info.any() or not factors.isfinite().all():
        raise ValueError("a covariance is not positive definite, even with 1e-2 of its mean variance added")
    return factors


def solve(factor: Tensor, right: Tensor) -> Tensor:
    """The solution x (..., D, K) of A x = `right`, from the Cholesky factor (..., D, D) of A."""
    half = torch.linalg.solve_triangular(factor, right, upper=False)
    solution: Tensor = torch.linalg.solve_triangular(factor.mT, half, upper=True)
    return solution
