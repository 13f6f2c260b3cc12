"""Success of a membership attack over several targets: area under the curve, true positives at few false ones.

All targets share one threshold, as in Carlini et al. (2022). Intervals are by bootstrap over targets: each resample
draws as many targets with replacement. Their percentiles are those of the expanded percentile interval (Hesterberg
2015), because resamples of few targets vary too little.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import sqrt
from statistics import NormalDist
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gr_cli.results.statistics import t_quantile

Floats = NDArray[np.float64]
MIN_FALSE_POSITIVES = 10.0  # expected at a rate; with fewer the rate is not given
_RESAMPLES, _SEED = 1000, 0
_CHUNK_VALUES = 1 << 22  # counts in memory at once


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
    """

    def __init__(self, scores: NDArray[Any], is_member: NDArray[np.bool_]) -> None:
        known = ~np.isnan(scores)
        self._members = [np.sort(row[keep]) for row, keep in zip(scores, known & is_member, strict=True)]
        self._others = [np.sort(row[keep]) for row, keep in zip(scores, known & ~is_member, strict=True)]
        self.num_members = np.array(list(map(len, self._members)))
        self.num_others = np.array(list(map(len, self._others)))
        self.n = int(self.num_members.sum() + self.num_others.sum())
        targets = len(self._members)
        draws = np.random.default_rng(_SEED).integers(targets, size=(_RESAMPLES, targets))
        counts = np.stack([np.bincount(draw, minlength=targets) for draw in draws])
        # The first row counts each target once: the value itself.
        self._weights = np.concatenate([np.ones((1, targets), counts.dtype), counts])

    def auc(self) -> Estimate:
        """Probability that a member has a higher score than a sample that is none; ties count half."""
        if not (self.num_members.sum() and self.num_others.sum()):
            return Estimate(None, None, None, self.n)
        wins = np.array([[_wins(members, others) for others in self._others] for members in self._members])
        total = np.einsum("bs,st,bt->b", self._weights, wins, self._weights)
        pairs = (self._weights @ self.num_members) * (self._weights @ self.num_others)
        return self._estimate(total, pairs)

    def true_positive_rate(self, false_positive_rate: float) -> Estimate:
        """Share of members above the lowest threshold that at most this share of the others is above."""
        if not self.num_members.sum() or false_positive_rate * self.num_others.sum() < MIN_FALSE_POSITIVES:
            return Estimate(None, None, None, self.n)
        values = np.concatenate(self._others)
        target = np.repeat(np.arange(len(self._others)), self.num_others)
        order = np.argsort(-values, kind="stable")
        thresholds = self._thresholds(values[order], target[order], false_positive_rate)
        above = np.stack([len(x) - np.searchsorted(x, thresholds, side="right") for x in self._members], 1)
        return self._estimate((self._weights * above).sum(1), self._weights @ self.num_members)

    def _thresholds(self, values: Floats, target: NDArray[Any], rate: float) -> Floats:
        """For each resample the threshold, from all scores of others in descending order and their targets."""
        allowed = np.floor(rate * (self._weights @ self.num_others) + 1e-9)
        thresholds = np.full(len(self._weights), -np.inf)
        step = max(1, _CHUNK_VALUES // max(1, len(values)))
        for start in range(0, len(self._weights), step):
            rows = slice(start, start + step)
            exceeded = self._weights[rows][:, target].cumsum(1) > allowed[rows, None]
            reached = exceeded.any(1)
            thresholds[rows][reached] = values[exceeded.argmax(1)[reached]]
        return thresholds

    def _estimate(self, numerator: NDArray[Any], denominator: NDArray[Any]) -> Estimate:
        valid = denominator > 0
        shares = numerator[valid] / denominator[valid]
        if len(self._members) < 2:
            return Estimate(float(shares[0]), None, None, self.n)
        low, high = np.quantile(shares[1:], percentiles(len(self._members)))
        return Estimate(float(shares[0]), float(low), float(high), self.n)


def percentiles(targets: int) -> tuple[float, float]:
    """The percentiles of resamples of `targets` targets that are the ends of an interval of 95 %."""
    tail = NormalDist().cdf(-t_quantile(targets - 1) * sqrt(targets / (targets - 1)))
    return tail, 1 - tail


def _wins(members: Floats, others: Floats) -> float:
    """Pairs of a member and another sample in which the member has the higher score; ties count half."""
    return float((np.searchsorted(others, members, "left") + np.searchsorted(others, members, "right")).sum()) / 2


def estimates(scores: NDArray[Any], is_member: NDArray[np.bool_], rates: Sequence[float]) -> dict[str, Estimate]:
    """The estimates by name: `auc`, and `tpr_at_fpr_<rate>` for each false positive rate."""
    targets = TargetScores(scores, is_member)
    return {"auc": targets.auc()} | {f"tpr_at_fpr_{rate:g}": targets.true_positive_rate(rate) for rate in rates}
