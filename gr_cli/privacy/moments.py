"""Count, mean and covariance of a set of samples, released by two Gaussian mechanisms."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from gr_cli.privacy.noise import gaussian_noise

_COUNT_SHARE = 0.1  # of the first mechanism: share of the count in the squared sensitivity


@dataclass(frozen=True)
class Block:
    """Coordinates of a sample whose mean and covariance are released; none across blocks.

    Attributes:
        size: Number of coordinates d.
        radius: Largest norm of the coordinates of a sample; longer vectors are scaled to it.
        residual_radius: Largest norm of their difference from the released mean.
        share: Share of the squared sensitivity; those of all blocks add up to 1. A larger share means less noise.
    """

    size: int
    radius: float
    residual_radius: float
    share: float


@dataclass(frozen=True)
class Moments:
    """Released moments of the samples of a class.

    Attributes:
        count: Number of samples, at least 1.
        means: Mean (d,) of each block.
        covariances: Covariance (d, d) of each block around the released mean, with noise: it may have negative
            eigenvalues, which `without_noise` removes.
    """

    count: float
    means: list[Tensor]
    covariances: list[Tensor]


@dataclass(frozen=True)
class MomentMechanism:
    """Releases count, means and covariances of a set of samples, differentially private for one that is added.

    Two Gaussian mechanisms, whose answers are vectors with an L2 sensitivity of 1:

    1. the count and the sums of the clipped coordinates x of each block b, `(sqrt(s_0) n, sqrt(s_b) sum(x) / R_b)`
       with shares s that add up to 1, so that one sample changes it by at most `sqrt(s_0 + sum_b s_b) = 1`;
    2. the outer products of the differences r from the means that were released, clipped to norm R'_b:
       `sqrt(s_b) sum(r r^T) / R'_b^2`, symmetric matrices with the Frobenius norm, in which `|r r^T| = |r|^2`.

    The second may depend on the first: with noise multipliers m_1 and m_2 both together are one Gaussian mechanism
    with `1 / m^2 = 1 / m_1^2 + 1 / m_2^2` (Dong et al. 2022). Differences from the mean are several times shorter than
    samples, and noise is proportional to the square of their norm.

    Attributes:
        blocks: The coordinates.
        noise_multiplier: m, of both mechanisms together.
        mean_share: Share of the first one in `1 / m^2`, in (0, 1).
    """

    blocks: Sequence[Block]
    noise_multiplier: float
    mean_share: float

    @property
    def noise_multipliers(self) -> tuple[float, float]:
        """The noise multipliers m_1 and m_2 of the two mechanisms."""
        return self.noise_multiplier / math.sqrt(self.mean_share), self.noise_multiplier / math.sqrt(
            1 - self.mean_share
        )

    def sums(self, values: Sequence[Tensor]) -> list[Tensor]:
        """The first answer without noise: the count (1,), then a sum (d,) for each block; scaled to sensitivity 1.

        Args:
            values: Coordinates (N, d) of each block, in float64.
        """
        count = torch.full((1,), float(len(values[0])), dtype=torch.float64, device=values[0].device)
        sums = [
            clipped(x, block.radius).sum(0) * self._sum_scale(block)
            for x, block in zip(values, self.blocks, strict=True)
        ]
        return [math.sqrt(_COUNT_SHARE) * count, *sums]

    def outer_products(self, values: Sequence[Tensor], means: Sequence[Tensor]) -> list[Tensor]:
        """The second answer without noise: a symmetric matrix (d, d) for each block; scaled to sensitivity 1.

        Args:
            values: Coordinates (N, d) of each block, in float64.
            means: The released mean (d,) of each block.
        """
        products = []
        for x, mean, block in zip(values, means, self.blocks, strict=True):
            residual = clipped(clipped(x, block.radius) - mean, block.residual_radius)
            products.append(residual.T @ residual * self._product_scale(block))
        return products

    def release(self, values: Sequence[Tensor], stream: torch.Generator | None) -> Moments:
        """Noisy moments; all but the noise is computed from the two answers.

        Args:
            values: Coordinates (N, d) of each block, in float64; N may be 0.
            stream: Random stream of the noise; None: the operating system's generator.
        """
        first, second = self.noise_multipliers
        noisy = [answer + _noise(answer, first, stream) for answer in self.sums(values)]
        count = max(1.0, float(noisy[0]) / math.sqrt(_COUNT_SHARE))
        means = [
            clipped((total / self._sum_scale(block) / count).unsqueeze(0), block.radius).squeeze(0)
            for total, block in zip(noisy[1:], self.blocks, strict=True)
        ]
        covariances = [
            (product + _symmetric_noise(product, second, stream)) / (self._product_scale(block) * count)
            for product, block in zip(self.outer_products(values, means), self.blocks, strict=True)
        ]
        return Moments(count, means, covariances)

    def scatter_deviation(self, block: Block) -> float:
        """Standard deviation of the noise on the diagonal of `count` times a released covariance."""
        return self.noise_multipliers[1] / self._product_scale(block)

    def _sum_scale(self, block: Block) -> float:
        return math.sqrt((1 - _COUNT_SHARE) * block.share) / block.radius

    def _product_scale(self, block: Block) -> float:
        return math.sqrt(block.share) / block.residual_radius**2


def clipped(x: Tensor, radius: float) -> Tensor:
    """Vectors (N, d), those longer than `radius` scaled to it, and 0 in the place of those that are not finite."""
    is_finite = x.isfinite().all(1, keepdim=True)
    finite = torch.where(is_finite, x, 0.0)
    shorter: Tensor = finite * (radius / finite.norm(dim=1, keepdim=True).clamp(min=radius))
    return shorter


def without_noise(matrix: Tensor, deviation: float) -> Tensor:
    """An estimate of a positive semidefinite matrix (d, d) from one with Gaussian noise on its packed triangle.

    Eigenvalues l up to the edge of the spectrum of noise, `e = deviation sqrt(2 d)`, become 0, and larger ones
    `sqrt(l^2 - e^2)`, which has the smallest expected squared error of all functions of eigenvalues (Shabalin and
    Nobel 2013).

    Args:
        matrix: The matrix with noise.
        deviation: Standard deviation of the noise on the diagonal.
    """
    values, vectors = torch.linalg.eigh(matrix)
    edge = deviation * math.sqrt(2 * len(matrix))
    kept = (values.clamp(min=0).square() - edge**2).clamp(min=0).sqrt()
    estimate: Tensor = (vectors * kept) @ vectors.T
    return estimate


def _noise(answer: Tensor, deviation: float, stream: torch.Generator | None) -> Tensor:
    return gaussian_noise(tuple(answer.shape), deviation, stream).to(answer.device)


def _symmetric_noise(matrix: Tensor, deviation: float, stream: torch.Generator | None) -> Tensor:
    """Noise (d, d) that is spherical in the Frobenius norm of symmetric matrices.

    Entries off the diagonal count twice in the norm: their deviation is smaller by sqrt(2).
    """
    size = len(matrix)
    rows, columns = torch.tril_indices(size, size)
    packed = gaussian_noise((len(rows),), deviation, stream).to(matrix.device)
    noise = torch.zeros_like(matrix)
    noise[rows, columns] = torch.where(rows == columns, 1.0, math.sqrt(0.5)).to(packed) * packed
    return noise + noise.tril(-1).T
