"""The analytic Gaussian mechanism: its exact privacy, and the noise that a budget needs (Balle and Wang 2018)."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import lru_cache

import torch

_MAX_DOUBLINGS = 200  # of the bound that bisection starts from
_BISECTIONS = 200  # more than float64 can distinguish
_CACHED = 1024  # results: a run accounts the same releases after every task


def delta_of_gaussian(epsilon: float, noise_multiplier: float) -> float:
    """The smallest δ for which the Gaussian mechanism is (ε, δ)-differentially private (Theorem 8).

    Args:
        epsilon: ε, at least 0.
        noise_multiplier: Standard deviation of the noise, divided by the L2 sensitivity.
    """
    distance = 1 / noise_multiplier  # of the means of two neighbouring data sets, in standard deviations
    minuend = _log_normal_cdf(distance / 2 - epsilon / distance)
    # e^ε Φ(·) in logarithms: of a large ε the first factor is infinite and the second is zero.
    subtrahend = epsilon + _log_normal_cdf(-distance / 2 - epsilon / distance)
    return max(0.0, math.exp(minuend) * -math.expm1(min(0.0, subtrahend - minuend)))


@lru_cache(_CACHED)
def epsilon_of_gaussian(delta: float, noise_multiplier: float) -> float:
    """The smallest ε for which the Gaussian mechanism is (ε, δ)-differentially private, rounded up.

    Args:
        delta: δ, in (0, 1).
        noise_multiplier: Standard deviation of the noise, divided by the L2 sensitivity.
    """
    if delta_of_gaussian(0.0, noise_multiplier) <= delta:
        return 0.0
    return _smallest(lambda epsilon: delta_of_gaussian(epsilon, noise_multiplier) <= delta)


@lru_cache(_CACHED)
def gaussian_noise_multiplier(epsilon: float, delta: float) -> float:
    """The smallest standard deviation of the noise, divided by the L2 sensitivity, that is (ε, δ)-private; rounded up.

    Args:
        epsilon: ε, at least 0.
        delta: δ, in (0, 1).
    """
    return _smallest(lambda noise_multiplier: delta_of_gaussian(epsilon, noise_multiplier) <= delta)


def _smallest(is_enough: Callable[[float], bool]) -> float:
    """The smallest positive number that is enough, as every larger one is; rounded up."""
    low, high = 0.0, 1.0
    for _ in range(_MAX_DOUBLINGS):
        if is_enough(high):
            break
        low, high = high, 2 * high
    for _ in range(_BISECTIONS):
        middle = (low + high) / 2
        if middle > 0 and is_enough(middle):
            high = middle
        else:
            low = middle
    return high


def _log_normal_cdf(x: float) -> float:
    return float(torch.special.log_ndtr(torch.tensor(x, dtype=torch.float64)))
