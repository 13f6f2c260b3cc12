"""Success of a membership attack over several targets: area under the curve, true positives at few false ones.

All targets share one threshold, as in Carlini et al. (2022). Intervals are the wider ends of two bootstraps: over
targets, and over candidates. Targets alone vary too little, because the guesses on a candidate come from the same
shadow runs for all targets: without any leak, the interval of 16 targets and 200 candidates contained 0.5 in three
quarters of simulated audits. Both at once vary too much (Owen 2007).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from math import sqrt
from statistics import NormalDist
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gr_cli.results.statistics import t_quantile

Floats = NDArray[np.float64]
MIN_FALSE_POSITIVES = 10.0  # expected at a rate; with fewer the rate is not given
_RESAMPLES, _SEED = 400, 0
_CHUNK_VALUES = 1 << 20  # in memory at once: larger chunks are slower


@dataclass(frozen=True)
class Estimate:
    """A value with its interval of 95 %.

    Attributes:
        value: None where too few false positives are expected for the rate.
        low, high: The interval; None without a value or with a single target.
        n: Number of guesses: candidates of all targets.
    """

    value: float | None
    low: float | None
    high: float | None
    n: int


class TargetScores:
    """Scores of the candidates of several targets, sorted once for all rates.

    Args:
        scores: For each target (S,) a score for each candidate (N,); higher ones speak for membership. NaN: no guess.
        is_member: Whether it is one, (S, N).

    Attributes:
        n: Number of guesses.
        num_members: Number of them on members.
        num_others: Number of them on others.
        groupings: The guesses by target, and by candidate.
    """

    def __init__(self, scores: NDArray[Any], is_member: NDArray[np.bool_]) -> None:
        target, candidate = np.nonzero(~np.isnan(scores))
        values = scores[target, candidate]
        order = np.argsort(-values, kind="stable")
        descending, of_member = values[order], is_member[target, candidate][order]
        self.n = len(values)
        # Positions after the last of equal scores.
        ends = np.append(np.flatnonzero(np.diff(descending)) + 1, self.n) if self.n else np.zeros(0, np.intp)
        self.num_members = int(of_member.sum())
        self.num_others = self.n - self.num_members
        self.groupings = [
            Grouping(groups[order], size, of_member, ends)
            for groups, size in zip((target, candidate), scores.shape, strict=True)
        ]

    def estimates(self, rates: Sequence[float]) -> dict[str, Estimate]:
        """The estimates by name: `auc`, and `tpr_at_fpr_<rate>` for each false positive rate.

        `auc` is the probability that a member has a higher score than a sample that is none, where ties count half; a
        rate of true positives is the share of members above the lowest threshold that at most that share of the others
        is above.
        """
        names = ["auc", *(f"tpr_at_fpr_{rate:g}" for rate in rates)]
        if not (self.num_members and self.num_others):
            return dict.fromkeys(names, Estimate(None, None, None, self.n))
        sizes = [grouping.size for grouping in self.groupings]
        resampled = list(zip(self.groupings, _resamples(*sizes), strict=True))
        estimates = {"auc": self._estimate([grouping.areas(weights) for grouping, weights in resampled])}
        for rate, name in zip(rates, names[1:], strict=True):
            is_given = rate * self.num_others >= MIN_FALSE_POSITIVES
            values = [grouping.rates(weights, rate) for grouping, weights in resampled] if is_given else None
            estimates[name] = Estimate(None, None, None, self.n) if values is None else self._estimate(values)
        return estimates

    def auc(self) -> Estimate:
        """The area under the curve."""
        return self.estimates(())["auc"]

    def true_positive_rate(self, false_positive_rate: float) -> Estimate:
        """The rate of true positives at a rate of false ones."""
        return list(self.estimates((false_positive_rate,)).values())[1]

    def _estimate(self, values: Sequence[Floats]) -> Estimate:
        """The value, and the interval from those of both bootstraps; undefined ones are left out."""
        of_targets, of_candidates = values
        sizes = [grouping.size for grouping in self.groupings]
        if sizes[0] < 2:
            return Estimate(float(of_targets[0]), None, None, self.n)
        ends = np.stack(
            [
                np.nanquantile(of_targets[1:], percentiles(sizes[0])),
                np.nanquantile(of_candidates[1:], percentiles(sizes[1])),
            ]
        )
        return Estimate(float(of_targets[0]), float(ends[:, 0].min()), float(ends[:, 1].max()), self.n)


@lru_cache(maxsize=8)
def _resamples(*sizes: int) -> list[NDArray[np.int64]]:
    """How often each of so many groups is in each resample, (resamples + 1, size); in the first row once."""
    random = np.random.default_rng(_SEED)
    counts = [random.multinomial(size, np.full(size, 1 / size), size=_RESAMPLES + 1) for size in sizes]
    for of_groups in counts:
        of_groups[0] = 1
    return counts


class Grouping:
    """Guesses in descending order of their scores, in groups that are resampled as a whole: targets, or candidates.

    Args:
        group: The group of each guess (n,).
        size: Number of groups G.
        is_member: Whether the guess is on a member, (n,).
        ends: Positions after the last of equal scores (K,).
    """

    def __init__(
        self, group: NDArray[np.intp], size: int, is_member: NDArray[np.bool_], ends: NDArray[np.intp]
    ) -> None:
        self.size = size
        self._group, self._is_member, self._ends = group, is_member, ends
        self._members, self._others = (np.bincount(group[mask], minlength=size) for mask in (is_member, ~is_member))

    def areas(self, weights: NDArray[np.int64]) -> Floats:
        """Area under the curve with each row of weights (rows, G); ties count half.

        It is the share of pairs of a member and another in which the member has the higher score: a quadratic form of
        the weights.
        """
        pairs = weights.astype(np.float64) @ (self._twice_the_pairs() / 2)
        return _ratio((pairs * weights).sum(1), (weights @ self._members) * (weights @ self._others))

    def _twice_the_pairs(self) -> Floats:
        """Twice the number of pairs of a member of group a and another of group b with the lower score: (G, G)."""
        twice = np.zeros((self.size, self.size))
        others = np.flatnonzero(~self._is_member)
        others = others[np.argsort(self._group[others], kind="stable")]
        groups, first = np.unique(self._group[others], return_index=True)
        # Positions of the first of equal scores, and after their last.
        tie = np.searchsorted(self._ends, others, side="right")
        start, end = np.append(0, self._ends)[tie], self._ends[tie]
        step = max(1, _CHUNK_VALUES // len(self._group))
        for a in range(0, self.size, step):
            of_group = self._group[:, None] == np.arange(a, min(a + step, self.size))
            higher = np.zeros((len(of_group) + 1, of_group.shape[1]), np.int32)
            np.cumsum(of_group & self._is_member[:, None], axis=0, out=higher[1:])
            twice[a : a + step, groups] = np.add.reduceat(higher[start] + higher[end], first, axis=0).T
        return twice

    def rates(self, weights: NDArray[np.int64], false_positive_rate: float) -> Floats:
        """Share of the members above the lowest threshold that at most this share of the others is above."""
        step = max(1, _CHUNK_VALUES // len(self._group))
        chunks = [weights[start : start + step] for start in range(0, len(weights), step)]
        return np.concatenate([self._rates(chunk, false_positive_rate) for chunk in chunks])

    def _rates(self, weights: NDArray[np.int64], false_positive_rate: float) -> Floats:
        members, others = weights @ self._members, weights @ self._others
        allowed = false_positive_rate * others[:, None] + 1e-9
        # The first scores suffice: those above the thresholds of all rows.
        number = min(len(self._ends), 64)
        while True:
            above = self._weight_above(weights, ~self._is_member, number)
            if number == len(self._ends) or (above[:, -1:] > allowed).all():
                break
            number = min(len(self._ends), 2 * number)
        last = (above <= allowed).sum(1) - 1
        found: Floats = np.take_along_axis(self._weight_above(weights, self._is_member, number), last[:, None], 1)[:, 0]
        return _ratio(found, members)

    def _weight_above(self, weights: NDArray[np.int64], mask: NDArray[np.bool_], number: int) -> Floats:
        """Weight of the guesses of a mask with at least each of the `number` highest scores: (rows, number + 1)."""
        ends = self._ends[:number]
        total = np.zeros((len(weights), number + 1))
        total[:, 1:] = np.cumsum(weights[:, self._group[: ends[-1]]] * mask[: ends[-1]], axis=1)[:, ends - 1]
        return total


def percentiles(size: int) -> tuple[float, float]:
    """The percentiles of resamples of `size` elements that are the ends of an interval of 95 %.

    They are those of the expanded percentile interval (Hesterberg 2015), because resamples of few elements vary too
    little.
    """
    if size < 2:
        return 0.0, 1.0
    tail = NormalDist().cdf(-t_quantile(size - 1) * sqrt(size / (size - 1)))
    return tail, 1 - tail


def _ratio(numerator: Floats, denominator: NDArray[Any]) -> Floats:
    ratio: Floats = np.divide(numerator, denominator, out=np.full_like(numerator, np.nan), where=denominator > 0)
    return ratio


def estimates(scores: NDArray[Any], is_member: NDArray[np.bool_], rates: Sequence[float]) -> dict[str, Estimate]:
    """The estimates by name: `auc`, and `tpr_at_fpr_<rate>` for each false positive rate."""
    return TargetScores(scores, is_member).estimates(rates)
