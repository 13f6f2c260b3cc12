"""Likelihood-ratio membership inference from scores of shadow runs (LiRA, Carlini et al. 2022).

Each shadow is in turn the target: the others tell how a sample is scored by runs that were trained on it and by runs
that were not, as a Gaussian each.
"""

from __future__ import annotations

from math import log, pi
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Variance = Literal["auto", "pooled", "per_sample"]
MIN_RUNS_PER_SAMPLE = 2  # with and without a sample, of which a variance can be computed
_PER_SAMPLE_RUNS = 32  # from which the variance of each sample is estimated better than one for all
_LEAST_VARIANCE = 1e-12  # relative to the squared scores


class _Gaussians(NamedTuple):
    """A Gaussian for each sample: mean and predictive variance, (N,) each; NaN where there are too few runs."""

    mean: Floats
    variance: Floats

    def log_density(self, x: Floats) -> Floats:
        """Of scores (N,)."""
        density: Floats = -0.5 * (np.square(x - self.mean) / self.variance + np.log(self.variance) + log(2 * pi))
        return density


def log_likelihood_ratios(
    scores: NDArray[Any], is_member: NDArray[np.bool_], groups: NDArray[Any], variance: Variance = "auto"
) -> Floats:
    """log p(score | member) - log p(score | no member) of each sample under each target, (S, N): the online attack.

    NaN where fewer than `MIN_RUNS_PER_SAMPLE` other runs have, or have not, the sample.

    Args:
        scores: Score of each of N samples under each of S runs.
        is_member: Whether the run was trained on the sample, (S, N).
        groups: Group of each run (S,). All runs of the target's group are left out of the estimates. With
            complementary draws, a pair each, as many others have each sample as have not, so that the numbers say
            nothing about the target.
        variance: One for each sample, or pooled over samples, which is better for few runs; `auto`: by their number.
    """
    scores = scores.astype(np.float64)
    ratios = np.full(scores.shape, np.nan)
    for group in np.unique(groups):
        others = groups != group
        inside = _fit(scores[others], is_member[others], variance)
        outside = _fit(scores[others], ~is_member[others], variance)
        for target in np.flatnonzero(~others):
            ratios[target] = inside.log_density(scores[target]) - outside.log_density(scores[target])
    return ratios


def offline_scores(
    scores: NDArray[Any], is_member: NDArray[np.bool_], groups: NDArray[Any], variance: Variance = "auto"
) -> Floats:
    """Standard deviations by which a score lies above those of runs without the sample, (S, N): the offline attack.

    It needs no run that was trained on the sample. Arguments as for `log_likelihood_ratios`.
    """
    scores = scores.astype(np.float64)
    result = np.full(scores.shape, np.nan)
    for group in np.unique(groups):
        others = groups != group
        outside = _fit(scores[others], ~is_member[others], variance)
        for target in np.flatnonzero(~others):
            result[target] = (scores[target] - outside.mean) / np.sqrt(outside.variance)
    return result


def _fit(scores: Floats, selected: NDArray[np.bool_], variance: Variance) -> _Gaussians:
    """The Gaussian of each sample's scores under the selected runs.

    The variance is that of a further score, whose distance from an estimated mean is larger than that from the true
    one.
    """
    number = selected.sum(0)
    with np.errstate(invalid="ignore", divide="ignore"):
        mean = np.where(selected, scores, 0.0).sum(0) / number
        squares = np.square(np.where(selected, scores - mean, 0.0)).sum(0)
        valid = (number >= MIN_RUNS_PER_SAMPLE) & np.isfinite(squares)
        if variance == "auto":
            variance = "per_sample" if number.min(initial=_PER_SAMPLE_RUNS) >= _PER_SAMPLE_RUNS else "pooled"
        if variance == "pooled":
            degrees = (number[valid] - 1).sum()
            values = np.full(len(number), squares[valid].sum() / degrees if degrees else np.nan)
        else:
            values = squares / (number - 1)
        floor = _LEAST_VARIANCE * (1.0 + np.square(mean))
        return _Gaussians(np.where(valid, mean, np.nan), np.maximum(values, floor) * (1 + 1 / number))
