"""Statistics over seeds: mean, standard error, 95 % confidence intervals, p values of paired differences.

With fewer than `MIN_SEEDS` values there is neither standard error nor interval: the values themselves are shown.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cache

MIN_SEEDS = 3  # from this number of values on there are standard errors and intervals


@dataclass(frozen=True)
class Bounds:
    """Range of possible values; None: unbounded on this side."""

    low: float | None = None
    high: float | None = None

    def clip(self, value: float) -> float:
        """The possible value that is nearest to `value`."""
        value = value if self.low is None else max(value, self.low)
        return value if self.high is None else min(value, self.high)

    def divided(self, size: float) -> Bounds:
        """The range of the values divided by a positive number."""
        return Bounds(*(None if end is None else end / size for end in (self.low, self.high)))


_ROUNDING = 1e-12  # differences of values with six decimals that are equal differ by no more
UNBOUNDED, UNIT_INTERVAL, SIGNED_UNIT = Bounds(), Bounds(0.0, 1.0), Bounds(-1.0, 1.0)


@dataclass(frozen=True)
class Summary:
    """Statistics of n values. Mean, standard error and interval are NaN if one value is NaN.

    Attributes:
        mean: Mean.
        sem: Standard error of the mean, the standard deviation (n - 1) divided by √n; None below `MIN_SEEDS` values.
        interval: Ends of the 95 % confidence interval of the mean; None below `MIN_SEEDS` values.
        n: Number of values.
        values: The values, in the order of seeds.
    """

    mean: float
    sem: float | None
    interval: tuple[float, float] | None
    n: int
    values: tuple[float, ...] = ()

    @property
    def shown_values(self) -> tuple[float, ...]:
        """The values where they are shown instead of a standard error: below `MIN_SEEDS` values."""
        return self.values if self.n < MIN_SEEDS else ()

    def scaled(self, factor: float) -> Summary:
        """The statistics of the values times a factor."""
        interval = None
        if self.interval is not None:
            low, high = self.interval if factor >= 0 else reversed(self.interval)
            interval = (factor * low, factor * high)
        sem = None if self.sem is None else abs(factor) * self.sem
        return Summary(factor * self.mean, sem, interval, self.n, tuple(factor * value for value in self.values))


def summarize(values: Sequence[float], bounds: Bounds = UNBOUNDED) -> Summary | None:
    """Mean, standard error and 95 % confidence interval; None if there are no values.

    Args:
        values: The values, one per seed.
        bounds: Range of possible values, which the interval does not leave; see `confidence_interval`.

    >>> summary = summarize([1.0, 2.0, 3.0])
    >>> summary.mean, round(summary.sem, 3), [round(end, 2) for end in summary.interval]
    (2.0, 0.577, [-0.48, 4.48])
    >>> [round(end, 3) for end in summarize([0.97, 0.98, 0.99], UNIT_INTERVAL).interval]
    [0.932, 0.994]
    """
    n, values = len(values), tuple(values)
    if not n:
        return None
    if not all(map(math.isfinite, values)):
        has_interval = n >= MIN_SEEDS
        sem, interval = (math.nan, (math.nan, math.nan)) if has_interval else (None, None)
        return Summary(math.nan, sem, interval, n, values)
    shifts = [value - values[0] for value in values]  # equal values have no spread, whatever they round to
    mean_shift = math.fsum(shifts) / n
    mean = values[0] + mean_shift
    if n < MIN_SEEDS:
        return Summary(mean, None, None, n, values)
    sem = math.sqrt(math.fsum((shift - mean_shift) ** 2 for shift in shifts) / ((n - 1) * n))
    return Summary(mean, sem, confidence_interval(mean, sem, n, bounds), n, values)


def confidence_interval(mean: float, sem: float, n: int, bounds: Bounds = UNBOUNDED) -> tuple[float, float]:
    """The 95 % confidence interval of a mean by Student's t with n - 1 degrees of freedom.

    Between two bounds the interval is computed on the logit scale: the mean's position between the bounds is
    transformed, its standard error by the delta method, and the ends are transformed back. Above a lower bound the
    scale is logarithmic. The ends thus stay within the bounds, and the interval is longer away from the nearer one.

    Args:
        mean: Mean.
        sem: Its standard error.
        n: Number of values, at least 2.
        bounds: Range of possible values. A mean outside of it gets the interval without bounds.
    """
    half_width = t_quantile(n - 1) * sem
    low, high = bounds.low, bounds.high
    if sem == 0 or low is None or mean <= low or (high is not None and mean >= high):
        return mean - half_width, mean + half_width
    above = mean - low
    if high is None:
        shrink = math.exp(-half_width / above)
        return low + above * shrink, low + above / shrink
    below, size = high - mean, high - low
    shrink = math.exp(-half_width * size / (above * below))  # of the odds; exp(-x) can't overflow
    ends = low + size * above * shrink / (above * shrink + below), low + size * above / (above + below * shrink)
    return bounds.clip(ends[0]), bounds.clip(ends[1])


# --- Student's t


def t_tail(t: float, degrees: int) -> float:
    """P(|T| ≥ t) for Student's t distribution, by its finite series (Abramowitz & Stegun 1964, 26.7.3 and 26.7.4).

    Args:
        t: At least 0.
        degrees: Degrees of freedom, at least 1.
    """
    angle = math.atan(t / math.sqrt(degrees))
    cosine, sine = math.cos(angle), math.sin(angle)
    odd = degrees % 2
    term = total = cosine if odd else 1.0
    for k in range(2 + odd, degrees, 2):
        term *= cosine**2 * (k - 1) / k
        total += term
    series = sine * total if degrees > 1 else 0.0
    inside = 2 / math.pi * (angle + series) if odd else series
    return min(1.0, max(0.0, 1.0 - inside))


@cache
def t_quantile(degrees: int) -> float:
    """The t with P(|T| < t) = 0.95 for Student's t distribution, by bisection.

    Args:
        degrees: Degrees of freedom, at least 1.
    """
    low, high = 0.0, math.pi / 2  # of the angle whose tangent is t / √degrees
    for _ in range(60):
        middle = (low + high) / 2
        if t_tail(math.sqrt(degrees) * math.tan(middle), degrees) > 0.05:
            low = middle
        else:
            high = middle
    return math.sqrt(degrees) * math.tan(low)


# --- paired differences


def paired_summary(differences: Sequence[float], bounds: Bounds = UNBOUNDED) -> Summary | None:
    """Statistics of paired differences with a t interval; None if there are no values.

    Args:
        differences: A difference per common seed.
        bounds: Range of possible differences. The interval is cut there, which doesn't change its coverage.
    """
    summary = summarize(differences)
    if summary is None or summary.interval is None:
        return summary
    low, high = map(bounds.clip, summary.interval)
    return replace(summary, interval=(low, high))


def paired_p_value(differences: Summary | None) -> float | None:
    """Two-sided p value of the paired t-test; None below `MIN_SEEDS` values, without spread, or for NaN."""
    if differences is None or differences.sem is None or not differences.sem > _ROUNDING:
        return None
    return t_tail(abs(differences.mean) / differences.sem, differences.n - 1)


def holm(p_values: Sequence[float]) -> list[float]:
    """p values adjusted for their number (Holm 1979): the family-wise error rate is that of the test.

    >>> [round(p, 3) for p in holm([0.01, 0.04, 0.03])]
    [0.03, 0.06, 0.06]
    """
    order = sorted(range(len(p_values)), key=p_values.__getitem__)
    adjusted, largest = [0.0] * len(p_values), 0.0
    for rank, i in enumerate(order):
        largest = max(largest, min(1.0, (len(p_values) - rank) * p_values[i]))
        adjusted[i] = largest
    return adjusted
