"""Distances between sets of real and generated features: precision, recall, density, coverage, Fréchet distance.

Pure functions of feature vectors (N, F) and (M, F).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

NUM_NEIGHBOURS = 5  # k of the nearest neighbours, as in Naeem et al. (2020)
_MAX_DISTANCES = 1 << 18  # distances in memory at a time: few enough to stay in cache


@dataclass(frozen=True)
class PRDC:
    """Precision, recall, density and coverage; None where there are too few samples.

    Attributes:
        precision: Share of generated samples within the real manifold (Kynkäänniemi et al. 2019).
        recall: Share of real samples within the manifold of generated samples (Kynkäänniemi et al. 2019).
        density: Mean number of real hyperspheres around a generated sample, divided by k (Naeem et al. 2020, eq. 5).
            Less sensitive to real outliers than precision; about 1 for equal distributions, may exceed 1.
        coverage: Share of real hyperspheres with a generated sample in them (Naeem et al. 2020, eq. 6); 0 without
            generated samples.
    """

    precision: float | None
    recall: float | None
    density: float | None
    coverage: float | None


class NeighbourhoodManifold:
    """Hyperspheres around points that reach to their k-th nearest neighbour (Kynkäänniemi et al. 2019).

    Args:
        points: Feature vectors (N, F).
        k: Which nearest neighbour determines the radius.

    Attributes:
        points: The points in double precision.
        k: As in the arguments.
        is_empty: Whether there are at most k points; no hypersphere contains anything then.
        squared_radii: Squared radii (N,); -1 if empty.
        distance_factors: Vectors (N, F + 2), and others of this shape, whose products are squared distances.
    """

    def __init__(self, points: Tensor, k: int = NUM_NEIGHBOURS) -> None:
        self.points, self.k, self.is_empty = points.double(), k, len(points) <= k
        self.squared_radii = self.points.new_full((len(points),), -1.0)
        self.distance_factors = _distance_factors(self.points)
        if not self.is_empty:
            left, right = self.distance_factors
            # k + 1, because the nearest neighbour is the point itself. Rounding may make a distance negative.
            radii = [(block @ right.T).topk(k + 1, largest=False).values[:, -1] for block in _blocks(left, len(points))]
            self.squared_radii = torch.cat(radii).clamp_(min=0)


def prdc(real: NeighbourhoodManifold, generated: NeighbourhoodManifold) -> PRDC:
    """Precision, recall, density and coverage of generated samples."""
    n, m = len(real.points), len(generated.points)
    if m == 0:
        return PRDC(None, None, None, None if real.is_empty else 0.0)
    num_real_spheres, num_generated_within, num_generated_spheres = (
        torch.zeros(size, dtype=torch.long, device=real.points.device) for size in (m, n, n)
    )
    start, (left, _), (_, right) = 0, real.distance_factors, generated.distance_factors
    for block in _blocks(left, m):
        stop = start + len(block)
        distances = block @ right.T
        inside = distances <= real.squared_radii[start:stop].unsqueeze(1)
        num_real_spheres += inside.sum(0)  # real hyperspheres around each generated sample
        num_generated_within[start:stop] = inside.sum(1)  # generated samples in each real hypersphere
        # Hyperspheres of generated samples around each real sample.
        num_generated_spheres[start:stop] = (distances <= generated.squared_radii).sum(1)
        start = stop
    hits = (num_real_spheres > 0, num_generated_spheres > 0, num_real_spheres, num_generated_within > 0)
    # In one transfer from the device.
    precision, recall, spheres, coverage = torch.stack([values.double().mean() for values in hits]).tolist()
    return PRDC(
        precision=None if real.is_empty else precision,
        recall=None if generated.is_empty or n == 0 else recall,
        density=None if real.is_empty else spheres / real.k,
        coverage=None if real.is_empty else coverage,
    )


@dataclass(frozen=True)
class NormalFit:
    """Normal distribution fitted to features.

    Attributes:
        mean: Mean (F,), float64.
        covariance: Covariance (F, F), float64.
    """

    mean: Tensor
    covariance: Tensor

    @staticmethod
    def of(points: Tensor) -> NormalFit | None:
        """The fit to features (N, F); None for fewer than two, or values that are not finite."""
        if len(points) < 2 or not points.isfinite().all():
            return None
        points = points.double()
        mean = points.mean(0)
        centred = points - mean
        return NormalFit(mean, centred.T @ centred / (len(points) - 1))

    @cached_property
    def covariance_root(self) -> Tensor:
        """Square root of the covariance."""
        values, vectors = torch.linalg.eigh(self.covariance)
        root: Tensor = vectors * values.clamp(min=0).sqrt() @ vectors.T
        return root


def frechet_distance(real: NormalFit | None, generated: NormalFit | None) -> float | None:
    """Squared Fréchet distance between normal distributions fitted to two sets of features (Heusel et al. 2017).

    |m - m'|^2 + tr(C + C' - 2 (C C')^(1/2)), biased upwards for few samples. None if one is None.
    """
    if real is None or generated is None:
        return None
    root = real.covariance_root
    # C C' has the eigenvalues of the symmetric C^(1/2) C' C^(1/2).
    covariance_term = torch.linalg.eigvalsh(root @ generated.covariance @ root).clamp(min=0).sqrt().sum()
    mean_term = (real.mean - generated.mean).square().sum()
    traces = real.covariance.trace() + generated.covariance.trace()
    distance: float = (mean_term + traces - 2 * covariance_term).item()
    return max(0.0, distance)


def normalized_entropy(counts: Tensor) -> float | None:
    """Entropy of the shares of `counts` (C,), divided by log C: 1 for equal counts, 0 if all are in one class.

    Returns:
        None for fewer than two classes, or if all counts are 0.
    """
    total = counts.sum()
    if len(counts) < 2 or total == 0:
        return None
    shares = counts.double() / total
    entropy: float = -torch.special.xlogy(shares, shares).sum().item()
    return max(0.0, entropy / math.log(len(counts)))


def _distance_factors(points: Tensor) -> tuple[Tensor, Tensor]:
    """Vectors (N, F + 2) of each point x, (-2 x, |x|^2, 1) and (x, 1, |x|^2).

    The product of the first of one point and the second of another is |x|^2 - 2 x y + |y|^2.
    """
    squared_norms, one = points.square().sum(1, keepdim=True), points.new_ones(len(points), 1)
    return torch.cat([-2 * points, squared_norms, one], 1), torch.cat([points, one, squared_norms], 1)


def _blocks(points: Tensor, others: int) -> tuple[Tensor, ...]:
    """Rows in blocks whose distances to `others` points fit into memory."""
    blocks: tuple[Tensor, ...] = points.split(max(1, _MAX_DISTANCES // max(1, others)))
    return blocks
