"""Distances between sets of real and generated features: precision, recall, density, coverage, Fréchet distance.

Pure functions of feature vectors (N, F) and (M, F).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

NUM_NEIGHBOURS = 5  # k of the nearest neighbours, as in Naeem et al. (2020)
_MAX_DISTANCES = 1 << 21  # distances in memory at a time


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
    """

    def __init__(self, points: Tensor, k: int = NUM_NEIGHBOURS) -> None:
        self.points, self.k, self.is_empty = points.double(), k, len(points) <= k
        self.squared_radii = self.points.new_full((len(points),), -1.0)
        if not self.is_empty:
            # k + 1, because the nearest neighbour is the point itself.
            radii = [
                _squared_distances(block, self.points).topk(k + 1, largest=False).values[:, -1]
                for block in _point_blocks(self.points, len(points))
            ]
            self.squared_radii = torch.cat(radii)


def prdc(real: NeighbourhoodManifold, generated: NeighbourhoodManifold) -> PRDC:
    """Precision, recall, density and coverage of generated samples."""
    n, m = len(real.points), len(generated.points)
    num_real_spheres, num_generated_within, num_generated_spheres = (
        torch.zeros(size, dtype=torch.long, device=real.points.device) for size in (m, n, n)
    )
    start = 0
    for block in _point_blocks(real.points, m):
        stop = start + len(block)
        distances = _squared_distances(block, generated.points)
        inside = distances <= real.squared_radii[start:stop].unsqueeze(1)
        num_real_spheres += inside.sum(0)  # real hyperspheres around each generated sample
        num_generated_within[start:stop] = inside.sum(1)  # generated samples in each real hypersphere
        # Hyperspheres of generated samples around each real sample.
        num_generated_spheres[start:stop] = (distances <= generated.squared_radii).sum(1)
        start = stop
    return PRDC(
        precision=None if real.is_empty or m == 0 else _mean(num_real_spheres > 0),
        recall=None if generated.is_empty or n == 0 else _mean(num_generated_spheres > 0),
        density=None if real.is_empty or m == 0 else _mean(num_real_spheres) / real.k,
        coverage=None if real.is_empty else _mean(num_generated_within > 0),
    )


def frechet_distance(real: Tensor, generated: Tensor) -> float | None:
    """Squared Fréchet distance between normal distributions fitted to two sets of features (Heusel et al. 2017).

    |m - m'|^2 + tr(C + C' - 2 (C C')^(1/2)), biased upwards for few samples.

    Returns:
        None for fewer than two samples in a set, or values that are not finite.
    """
    if min(len(real), len(generated)) < 2 or not (real.isfinite().all() and generated.isfinite().all()):
        return None
    means, covariances = [], []
    for points in (real.double(), generated.double()):
        means.append(points.mean(0))
        centred = points - means[-1]
        covariances.append(centred.T @ centred / (len(points) - 1))
    root = _matrix_sqrt(covariances[0])
    # C C' has the eigenvalues of the symmetric C^(1/2) C' C^(1/2).
    covariance_term = torch.linalg.eigvalsh(root @ covariances[1] @ root).clamp(min=0).sqrt().sum()
    mean_term = (means[0] - means[1]).square().sum()
    distance: float = (mean_term + covariances[0].trace() + covariances[1].trace() - 2 * covariance_term).item()
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


def _matrix_sqrt(matrix: Tensor) -> Tensor:
    """Square root of a symmetric positive semi-definite matrix."""
    values, vectors = torch.linalg.eigh(matrix)
    root: Tensor = vectors * values.clamp(min=0).sqrt() @ vectors.T
    return root


def _mean(values: Tensor) -> float:
    return values.double().mean().item()


def _squared_distances(left: Tensor, right: Tensor) -> Tensor:
    """Squared distances (N, M) between two sets of points."""
    squared_norms = left.square().sum(1, keepdim=True) + right.square().sum(1)
    return torch.addmm(squared_norms, left, right.T, alpha=-2).clamp_(min=0)


def _point_blocks(points: Tensor, others: int) -> tuple[Tensor, ...]:
    """The points in blocks whose distances to `others` points fit into memory."""
    blocks: tuple[Tensor, ...] = points.split(max(1, _MAX_DISTANCES // max(1, others)))
    return blocks
