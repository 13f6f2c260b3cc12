"""Black-box attacks: what generated samples alone reveal about the training samples, by Euclidean distances.

Candidates are samples whose membership the attacker wants to know: training samples, and held-out samples of the same
distribution. All distances are computed in blocks, so that memory does not grow with the number of pairs.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

_BLOCK_PAIRS = 1 << 21  # distances in memory at once
_LEAST_RELATIVE_DISTANCE = 1e-3  # smaller distances count as this share of the radius
_ERROR = 0.05  # of intervals

Interval = tuple[float, float]


# --- distances


def _distance_blocks(x: Tensor, y: Tensor) -> Iterator[tuple[slice, slice, Tensor]]:
    """Rows of x (N, D), rows of y (M, D), and their distances, in blocks."""
    x, y = x.flatten(1), y.flatten(1)
    centre = y.mean(0)  # shorter vectors, fewer digits lost in the difference of squares
    x, y = x - centre, y - centre
    width = max(1, min(len(y), _BLOCK_PAIRS // 256))
    height = max(1, _BLOCK_PAIRS // width)
    for top in range(0, len(x), height):
        for left in range(0, len(y), width):
            rows, columns = slice(top, top + height), slice(left, left + width)
            yield rows, columns, torch.cdist(x[rows], y[columns], compute_mode="use_mm_for_euclid_dist")


class Neighbours(NamedTuple):
    """Nearest samples.

    Attributes:
        distances: Distances (N, k), increasing.
        indices: Their rows, int64 (N, k).
    """

    distances: Tensor
    indices: Tensor


def nearest_neighbours(x: Tensor, y: Tensor, count: int = 1) -> Neighbours:
    """For each sample of x the nearest samples of y, and their distances.

    Args:
        x: Samples (N, ...).
        y: Samples (M, ...) of the same shape, at least `count`.
        count: Number k of neighbours.
    """
    distances = x.new_full((len(x), count), torch.inf)
    indices = torch.zeros(len(x), count, dtype=torch.long, device=x.device)
    for rows, columns, block in _distance_blocks(x, y):
        block_indices = torch.arange(len(y), device=x.device)[columns].expand(len(block), -1)
        candidates = torch.cat([distances[rows], block], 1)
        candidate_indices = torch.cat([indices[rows], block_indices], 1)
        distances[rows], order = candidates.topk(count, dim=1, largest=False)
        indices[rows] = candidate_indices.gather(1, order)
    differences = x.flatten(1).unsqueeze(1) - y.flatten(1)[indices]  # without the rounding of the products above
    return Neighbours(torch.linalg.vector_norm(differences, dim=-1), indices)


# --- Monte Carlo attack


def median_radius(candidates: Tensor, generated: Tensor) -> float:
    """The median distance of a candidate to its nearest generated sample (Hilprecht et al. 2019)."""
    return float(nearest_neighbours(candidates, generated).distances.median())


def percentile_radius(candidates: Tensor, generated: Tensor, share: float = 0.001) -> float:
    """The distance below which a share of all pairs of candidate and generated sample lies (Hilprecht et al. 2019).

    Counted in a histogram of 10,000 distances between the least and the largest one.
    """
    low, high = torch.inf, 0.0
    for _, _, block in _distance_blocks(candidates, generated):
        low, high = min(low, float(block.min())), max(high, float(block.max()))
    if low == high:
        return low
    counts = torch.zeros(10_000, dtype=torch.float64)
    for _, _, block in _distance_blocks(candidates, generated):
        counts += torch.histc(block.float().cpu(), len(counts), low, high).double()
    reached = counts.cumsum(0) >= share * counts.sum()
    return low + (high - low) * (int(reached.nonzero()[0]) + 1) / len(counts)


class MonteCarloScores(NamedTuple):
    """Scores of candidates, higher for those that seem to be training samples.

    Attributes:
        share: Share of generated samples within the radius, (N,).
        log_distance: Mean over all generated samples of log(radius / distance) for those within the radius and 0 for
            others, (N,).
    """

    share: Tensor
    log_distance: Tensor


def monte_carlo_scores(candidates: Tensor, generated: Tensor, radius: float) -> MonteCarloScores:
    """Monte Carlo estimates of a generator's density around candidates (Hilprecht et al. 2019).

    Args:
        candidates: Samples (N, ...).
        generated: Generated samples (M, ...).
        radius: Distance ε up to which generated samples count.
    """
    share, log_distance = (torch.zeros(len(candidates), dtype=torch.float64, device=candidates.device) for _ in "12")
    least = max(radius * _LEAST_RELATIVE_DISTANCE, torch.finfo(candidates.dtype).tiny)
    for rows, _, block in _distance_blocks(candidates, generated):
        share[rows] += (block <= radius).sum(1)
        log_distance[rows] += (max(radius, least) / block.clamp(min=least)).log().clamp(min=0).double().sum(1)
    return MonteCarloScores(share / len(generated), log_distance / len(generated))


def distance_scores(candidates: Tensor, generated: Tensor) -> Tensor:
    """The negative distance (N,) of each candidate to its nearest generated sample."""
    return -nearest_neighbours(candidates, generated).distances.squeeze(1)


# --- distances of training and held-out samples


@dataclass(frozen=True)
class Estimate:
    """A figure with its 95 % interval, by bootstrap over samples.

    Attributes:
        value: The figure.
        interval: Lower and upper end.
        independent: Its expected value where generated samples don't depend on which samples were trained on.
    """

    value: float
    interval: Interval
    independent: float

    @property
    def shows_dependence(self) -> bool:
        """Whether the interval excludes the value of independent samples."""
        return not self.interval[0] <= self.independent <= self.interval[1]


def distance_ratio(train: Tensor, held_out: Tensor, draws: int, stream: torch.Generator) -> Estimate:
    """Mean distance of training samples to their nearest generated sample, relative to that of held-out samples.

    1 is expected of samples that are independent of the choice of training samples, less of copies.

    Args:
        train: Distance of each training sample to its nearest generated sample, (N,).
        held_out: The same for samples of the same distribution that were not trained on, (M,).
        draws: Bootstrap samples.
        stream: Random stream.
    """
    return _bootstrap(lambda a, b: a.mean(-1) / b.mean(-1), (train, held_out), draws, stream, independent=1.0)


def attack_auc(members: Tensor, non_members: Tensor, draws: int, stream: torch.Generator) -> Estimate:
    """Area under the ROC curve of scores that are higher for members; 0.5 is expected of independent samples.

    Args:
        members: Scores of training samples (N,).
        non_members: Scores of held-out samples (M,).
        draws: Bootstrap samples.
        stream: Random stream.
    """
    return _bootstrap(_auc, (members, non_members), draws, stream, independent=0.5)


def _auc(members: Tensor, non_members: Tensor) -> Tensor:
    """P[member > non-member] + P[equal] / 2 for scores (..., N) and (..., M)."""
    ordered = non_members.sort(-1).values.contiguous()
    below = torch.searchsorted(ordered, members.contiguous(), right=False)
    not_above = torch.searchsorted(ordered, members.contiguous(), right=True)
    return (below + not_above).double().mean(-1) / (2 * non_members.shape[-1])


def _bootstrap(
    statistic: Callable[[Tensor, Tensor], Tensor],
    samples: tuple[Tensor, Tensor],
    draws: int,
    stream: torch.Generator,
    independent: float,
) -> Estimate:
    """A statistic of the last axis of two samples, with its interval: each is drawn with replacement."""
    at_once = max(1, _BLOCK_PAIRS // max(len(sample) for sample in samples))
    values = []
    for start in range(0, draws, at_once):
        count = min(at_once, draws - start)
        first, second = (s[torch.randint(len(s), (count, len(s)), generator=stream).to(s.device)] for s in samples)
        values.append(statistic(first, second).double().cpu())
    low, high = torch.cat(values).quantile(torch.tensor([_ERROR / 2, 1 - _ERROR / 2], dtype=torch.float64)).tolist()
    return Estimate(float(statistic(*samples)), (low, high), independent)


def authenticity(generated: Tensor, train: Tensor) -> float:
    """Share of generated samples that are further from the nearest training sample than its nearest other one is.

    Alaa et al. 2022. Copies are not authentic. The share of authentic samples depends on the distribution: compare it
    with that of held-out samples in the place of training samples.

    Args:
        generated: Generated samples (M, ...).
        train: Training samples (N, ...), at least two.
    """
    nearest = nearest_neighbours(generated, train)
    touched, inverse = nearest.indices.squeeze(1).unique(return_inverse=True)
    spacing = nearest_neighbours(train[touched], train, 2).distances[:, 1]  # the first neighbour is the sample itself
    return float((nearest.distances.squeeze(1) > spacing[inverse]).double().mean())


# --- memorised samples


def most_memorised(generated: Tensor, train: Tensor, held_out: Tensor, count: int) -> tuple[Tensor, Tensor, Tensor]:
    """The generated samples whose nearest training sample is nearest, relative to their nearest held-out sample.

    Args:
        generated: Generated samples (M, ...).
        train: Training samples (N, ...).
        held_out: Samples that were not trained on.
        count: Number of pairs; fewer if there are fewer generated samples.

    Returns:
        Rows of generated samples, rows of their nearest training samples, and the relative distances, (count,) each,
        by increasing distance.
    """
    nearest = nearest_neighbours(generated, train)
    reference = nearest_neighbours(generated, held_out).distances.squeeze(1)
    tiny = torch.finfo(reference.dtype).tiny
    relative = nearest.distances.squeeze(1) / reference.clamp(min=tiny)
    values, order = relative.sort(stable=True)
    return order[:count], nearest.indices.squeeze(1)[order[:count]], values[:count]
