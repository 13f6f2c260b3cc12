"""Privacy accounting of DP-SGD: steps of the Gaussian mechanism on Poisson samples.

The accountant composes privacy loss distributions (Koskela et al. 2020; Doroshenko et al. 2022) and is that of the
library dp-accounting. Neighbouring data sets differ by one sample that is added or removed.
"""

from __future__ import annotations

import math
from functools import cache
from typing import Any

from gr_cli.errors import ConfigError

# Discretization of privacy losses. Rounding is upwards: a coarser one makes epsilon larger, never smaller.
_INTERVAL = 1e-3
_RELATIVE_TOLERANCE = 1e-3  # of a calibrated noise multiplier, which is rounded up
# Share of delta that may be spent on batches in which more samples are drawn than there are positions.
OVERFLOW_SHARE = 0.1


def _library() -> Any:
    try:
        import dp_accounting
        from dp_accounting import pld
    except ImportError as error:
        problem = "needs the library dp-accounting, which is not installed"
        raise ConfigError("gradient_rule", "dp_sgd", problem, "pip install 'gr-cli[privacy]'") from error
    return dp_accounting, pld


@cache
def subsampled_gaussian_epsilon(noise_multiplier: float, sampling_rate: float, steps: int, delta: float) -> float:
    """ε at `delta` of steps that each add Gaussian noise to a sum over a Poisson sample.

    Args:
        noise_multiplier: Standard deviation of the noise, divided by the largest norm of a sample's contribution.
        sampling_rate: Probability with which a step reads a sample.
        steps: Number of steps.
        delta: δ.

    Raises:
        ConfigError: The library dp-accounting is not installed.
    """
    if steps == 0:
        return 0.0
    library, pld = _library()
    relation = library.NeighboringRelation.ADD_OR_REMOVE_ONE
    accountant = pld.PLDAccountant(relation, _INTERVAL)
    step = library.PoissonSampledDpEvent(sampling_rate, library.GaussianDpEvent(noise_multiplier))
    accountant.compose(library.SelfComposedDpEvent(step, steps))
    return float(accountant.get_epsilon(delta))


@cache
def calibrated_noise(epsilon: float, delta: float, sampling_rate: float, steps: int) -> float:
    """The smallest noise multiplier, up to 0.1 %, with which the steps spend at most (`epsilon`, `delta`).

    Raises:
        ConfigError: The library dp-accounting is not installed.
    """

    def excess(log_noise: float) -> float:
        return math.log(subsampled_gaussian_epsilon(math.exp(log_noise), sampling_rate, steps, delta) / epsilon)

    # log epsilon is nearly linear in log noise: a few steps of the secant method.
    low, high = 0.0, 0.1
    at_low, at_high = excess(low), excess(high)
    for _ in range(40):
        if abs(high - low) < _RELATIVE_TOLERANCE / 4 or at_low == at_high:
            break
        step = at_high * (high - low) / (at_high - at_low)
        following = high - max(-1.0, min(1.0, step))
        low, at_low = high, at_high
        high, at_high = following, excess(following)
    while at_high > 0:
        high += _RELATIVE_TOLERANCE / 2
        at_high = excess(high)
    return math.exp(high)


def overflow_probability(num_samples: int, sampling_rate: float, batch_size: int) -> float:
    """Upper bound of the probability that more than `batch_size` of the samples are drawn (Chernoff 1952)."""
    drawn = batch_size + 1
    if drawn > num_samples:
        return 0.0
    share = drawn / num_samples
    if share <= sampling_rate:
        return 1.0
    divergence = share * math.log(share / sampling_rate)
    if share < 1:
        divergence += (1 - share) * math.log((1 - share) / (1 - sampling_rate))
    return math.exp(-num_samples * divergence)


def overflow_delta(num_samples: int, sampling_rate: float, batch_size: int, steps: int, epsilon: float) -> float:
    """δ of leaving out the samples that have no position in a batch: steps (1 + e^ε) times the probability.

    A run of `steps` that drops samples differs from one that does not with at most `steps` times the probability of one
    step, for a data set and for its neighbour (Chua et al. 2024).
    """
    return steps * (1 + math.exp(min(epsilon, 700.0))) * overflow_probability(num_samples, sampling_rate, batch_size)


def largest_task(batch_size: int, sampling_rate: float, steps: int, epsilon: float, delta: float) -> int:
    """Largest number of samples of a task with an `overflow_delta` of at most a tenth of `delta`; 0 if there is none.

    It follows from settings alone. The claim is for data sets whose tasks are not larger.
    """
    low, high = 0, math.ceil(batch_size / sampling_rate) + 1
    while high - low > 1:
        middle = (low + high) // 2
        # One more than allowed: the neighbouring data set has one sample more.
        is_small = overflow_delta(middle + 1, sampling_rate, batch_size, steps, epsilon) <= OVERFLOW_SHARE * delta
        low, high = (middle, high) if is_small else (low, middle)
    return low


def smallest_batch(num_samples: int, sampling_rate: float, steps: int, epsilon: float, delta: float) -> int:
    """Smallest number of positions with which tasks of `num_samples` have an `overflow_delta` of a tenth of `delta`."""
    low, high = math.floor(num_samples * sampling_rate), num_samples
    while high - low > 1:
        middle = (low + high) // 2
        is_enough = largest_task(middle, sampling_rate, steps, epsilon, delta) >= num_samples
        low, high = (low, middle) if is_enough else (middle, high)
    return high
