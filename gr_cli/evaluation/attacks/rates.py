"""Success of a membership attack over several targets: area under the curve, true positives at few false ones.

All targets share one threshold, as in Carlini et al. (2022). Intervals are the wider ends of two bootstraps: over
targets, and over candidates. Targets alone vary too little, because the guesses on a candidate come from the same
shadow runs for all targets: without any leak, the interval of 16 targets and 200 candidates contained 0.5 in three
quarters of simulated audits. Both at once vary too much (Owen 2007).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from math import sqrt
from statistics import NormalDist
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gr_cli.results.statistics import t_quantile

Floats = NDArray[np.float64]
MIN_FALSE_POSITIVES = 10.0  # expected at a rate; with fewer the rate is not given
_RESAMPLES, _SEED = 400, 0
_CHUNK_VALUES = 1 << 22  # weights in memory at once


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
        self._num_targets, self._num_candidates = scores.shape
        target, candidate = np.nonzero(~np.isnan(scores))
        values = scores[target, candidate]
        order = np.argsort(-values, kind="stable")
        self._target, self._candidate = target[order], candidate[order]
        self._is_member = is_member[target, candidate][order]
        self.n = len(values)
        descending = values[order]
        # Positions after the last of equal scores.
        self._ends = np.append(np.flatnonzero(np.diff(descending)) + 1, self.n) if self.n else np.zeros(0, np.intp)
        self.num_members = int(self._is_member.sum())
        self.num_others = self.n - self.num_members

    def estimates(self, rates: Sequence[float]) -> dict[str, Estimate]:
        """The estimates by name: `auc`, and `tpr_at_fpr_<rate>` for each false positive rate.

        `auc` is the probability that a member has a higher score than a sample that is none, where ties count half; a
        rate of true positives is the share of members above the lowest threshold that at most that share of the others
        is above.
        """
        names = ["auc", *(f"tpr_at_fpr_{rate:g}" for rate in rates)]
        if not (self.num_members and self.num_others):
            return dict.fromkeys(names, Estimate(None, None, None, self.n))
        curves = list(self._curves())
        columns = [np.concatenate([_area(*curve) for curve in curves])]
        columns += [np.concatenate([_rate(*curve, rate) for curve in curves]) for rate in rates]
        is_given = [True, *(rate * self.num_others >= MIN_FALSE_POSITIVES for rate in rates)]
        return {
            name: self._estimate(values) if given else Estimate(None, None, None, self.n)
            for name, values, given in zip(names, columns, is_given, strict=True)
        }

    def auc(self) -> Estimate:
        """The area under the curve."""
        return self.estimates(())["auc"]

    def true_positive_rate(self, false_positive_rate: float) -> Estimate:
        """The rate of true positives at a rate of false ones."""
        return list(self.estimates((false_positive_rate,)).values())[1]

    def _curves(self) -> Iterator[tuple[Floats, Floats]]:
        """Numbers of members and others with at least each score, descending, a row for each resample (rows, K + 1).

        First those over targets, then those over candidates, each after a row that counts each guess once.
        """
        random = np.random.default_rng(_SEED)
        step = max(1, _CHUNK_VALUES // self.n)
        for size, position in ((self._num_targets, self._target), (self._num_candidates, self._candidate)):
            counts = random.multinomial(size, np.full(size, 1 / size), size=_RESAMPLES + 1)
            counts[0] = 1
            for start in range(0, len(counts), step):
                weights = counts[start : start + step, position]
                yield self._cumulated(weights, self._is_member), self._cumulated(weights, ~self._is_member)

    def _cumulated(self, weights: NDArray[np.int64], mask: NDArray[np.bool_]) -> Floats:
        total = np.zeros((len(weights), len(self._ends) + 1))
        total[:, 1:] = np.cumsum(weights * mask, axis=1)[:, self._ends - 1]
        return total

    def _estimate(self, values: Floats) -> Estimate:
        """The value, and the interval from those of both bootstraps; undefined ones are left out."""
        if self._num_targets < 2:
            return Estimate(float(values[0]), None, None, self.n)
        of_targets, of_candidates = values[1 : _RESAMPLES + 1], values[_RESAMPLES + 2 :]
        ends = np.stack(
            [
                np.nanquantile(of_targets, percentiles(self._num_targets)),
                np.nanquantile(of_candidates, percentiles(self._num_candidates)),
            ]
        )
        return Estimate(float(values[0]), float(ends[:, 0].min()), float(ends[:, 1].max()), self.n)


def percentiles(size: int) -> tuple[float, float]:
    """The percentiles of resamples of `size` elements that are the ends of an interval of 95 %.

    They are those of the expanded percentile interval (Hesterberg 2015), because resamples of few elements vary too
    little.
    """
    if size < 2:
        return 0.0, 1.0
    tail = NormalDist().cdf(-t_quantile(size - 1) * sqrt(size / (size - 1)))
    return tail, 1 - tail


def _area(members: Floats, others: Floats) -> Floats:
    """Area under the curve of each row; ties count half, and without members or others it is undefined."""
    higher = (members[:, 1:] + members[:, :-1]) / 2
    return _ratio((np.diff(others, axis=1) * higher).sum(1), members[:, -1] * others[:, -1])


def _rate(members: Floats, others: Floats, false_positive_rate: float) -> Floats:
    """Share of the members above the threshold of each row."""
    allowed = false_positive_rate * others[:, -1:] + 1e-9
    last = (others <= allowed).sum(1) - 1
    return _ratio(np.take_along_axis(members, last[:, None], 1)[:, 0], members[:, -1])


def _ratio(numerator: Floats, denominator: Floats) -> Floats:
    return np.divide(numerator, denominator, out=np.full_like(numerator, np.nan), where=denominator > 0)


def estimates(scores: NDArray[Any], is_member: NDArray[np.bool_], rates: Sequence[float]) -> dict[str, Estimate]:
    """The estimates by name: `auc`, and `tpr_at_fpr_<rate>` for each false positive rate."""
    return TargetScores(scores, is_member).estimates(rates)
