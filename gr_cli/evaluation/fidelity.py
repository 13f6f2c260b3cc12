"""How near samples of a model are to real ones: pure functions of their features, vectors (N, F) and (M, F)."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

NUM_NEIGHBOURS = 5  # which nearest neighbour a ball reaches to, as in Naeem et al. (2020)
_MAX_DISTANCES = 1 << 21  # distances held at once


@dataclass(frozen=True)
class PRDC:
    """Each None where there are too few samples: real or generated ones in balls that reach to the k-th neighbour among
    their own kind.

    `precision`: the share of dreams in a ball around a real sample (Kynkäänniemi et al. 2019): are they like real ones?
    `recall`: the share of real samples in a ball around a dream (the same): could they have been generated?
    `density`: in how many balls around real samples a dream lies, divided by k (Naeem et al. 2020, eq. 5): as
    precision, but one real outlier with its large ball counts little. About 1 for samples of one kind; may be more.
    `coverage`: the share of balls around real samples that have a dream in them (the same, eq. 6): how much of what is
    real is generated? 0 if there is no dream.
    """

    precision: float | None
    recall: float | None
    density: float | None
    coverage: float | None


class NeighbourhoodManifold:
    """Points (N, F), each in the middle of a closed ball that reaches to its k-th nearest neighbour among them.

    `square`: of the radius, (N,); where there are no more than k points, the balls are empty.
    """

    def __init__(self, points: Tensor, k: int = NUM_NEIGHBOURS) -> None:
        self.points, self.k, self.is_empty = points.double(), k, len(points) <= k
        self.squared_radii = self.points.new_full((len(points),), -1.0)
        if not self.is_empty:
            # The nearest one of all is the point itself.
            parts = [
                _squared_distances(part, self.points).topk(k + 1, largest=False).values[:, -1]
                for part in _point_blocks(self.points, len(points))
            ]
            self.squared_radii = torch.cat(parts)


def prdc(real: NeighbourhoodManifold, generated: NeighbourhoodManifold) -> PRDC:
    """How much dreams `fake` are like `real` samples."""
    n, m = len(real.points), len(generated.points)
    held, holds, recalled = (torch.zeros(size, dtype=torch.long, device=real.points.device) for size in (m, n, n))
    first = 0
    for part in _point_blocks(real.points, m):
        last = first + len(part)
        squares = _squared_distances(part, generated.points)
        inside = squares <= real.squared_radii[first:last].unsqueeze(1)
        held += inside.sum(0)  # in how many balls around real samples each dream lies
        holds[first:last] = inside.sum(1)  # how many dreams each of these balls holds
        # in how many balls around generated samples each real sample lies
        recalled[first:last] = (squares <= generated.squared_radii).sum(1)
        first = last
    return PRDC(
        precision=None if real.is_empty or m == 0 else _mean(held > 0),
        recall=None if generated.is_empty or n == 0 else _mean(recalled > 0),
        density=None if real.is_empty or m == 0 else _mean(held) / real.k,
        coverage=None if real.is_empty else _mean(holds > 0),
    )


def frechet_distance(real: Tensor, generated: Tensor) -> float | None:
    """The squared Fréchet distance between two normal distributions with the means and covariances of the samples
    (Heusel et al. 2017): |m - m'|^2 + tr(C + C' - 2 (C C')^(1/2)). Of few samples it is larger than of many; None of
    fewer than two, or of what is no finite number."""
    if min(len(real), len(generated)) < 2 or not (real.isfinite().all() and generated.isfinite().all()):
        return None
    means, covariances = [], []
    for points in (real.double(), generated.double()):
        means.append(points.mean(0))
        centred = points - means[-1]
        covariances.append(centred.T @ centred / (len(points) - 1))
    root = _matrix_sqrt(covariances[0])
    # C C' has the eigenvalues of C^(1/2) C' C^(1/2), which is symmetric.
    shared = torch.linalg.eigvalsh(root @ covariances[1] @ root).clamp(min=0).sqrt().sum()
    between = (means[0] - means[1]).square().sum()
    found: float = (between + covariances[0].trace() + covariances[1].trace() - 2 * shared).item()
    return max(0.0, found)


def normalized_entropy(counts: Tensor) -> float | None:
    """How evenly things are spread over places, from their number in each, (C,): the entropy of the shares divided by
    log C. 1: equally many everywhere; 0: all in one place; None of one place or of no things."""
    total = counts.sum()
    if len(counts) < 2 or total == 0:
        return None
    shares = counts.double() / total
    entropy: float = -torch.special.xlogy(shares, shares).sum().item()
    return max(0.0, entropy / math.log(len(counts)))


def _matrix_sqrt(matrix: Tensor) -> Tensor:
    """The square root of a symmetric matrix that has no negative eigenvalues."""
    values, vectors = torch.linalg.eigh(matrix)
    root: Tensor = vectors * values.clamp(min=0).sqrt() @ vectors.T
    return root


def _mean(found: Tensor) -> float:
    return found.double().mean().item()


def _squared_distances(some: Tensor, points: Tensor) -> Tensor:
    """The squared distances of each to each."""
    both = some.square().sum(1, keepdim=True) + points.square().sum(1)
    return torch.addmm(both, some, points.T, alpha=-2).clamp_(min=0)


def _point_blocks(points: Tensor, others: int) -> tuple[Tensor, ...]:
    """The points in so many at once that their distances to the others fit into memory."""
    found: tuple[Tensor, ...] = points.split(max(1, _MAX_DISTANCES // max(1, others)))
    return found
