"""Mean, standard error and 95 % confidence interval over seeds."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist, fmean, stdev


@dataclass(frozen=True)
class Summary:
    """Statistics of n values. All are NaN if one value is NaN.

    Attributes:
        mean: Mean.
        sem: Standard error of the mean, with n - 1 degrees of freedom; None if n is 1.
        half_width: Half the width of the 95 % confidence interval of the mean; None if n is 1.
        n: Number of values.
    """

    mean: float
    sem: float | None
    half_width: float | None
    n: int

    @property
    def interval(self) -> tuple[float, float] | None:
        """Ends of the confidence interval; None if n is 1."""
        return None if self.half_width is None else (self.mean - self.half_width, self.mean + self.half_width)


def summarize(values: Sequence[float]) -> Summary | None:
    """Mean, standard error and 95 % confidence interval by Student's t; None if there are no values.

    >>> summary = summarize([1.0, 2.0, 3.0])
    >>> summary.mean, round(summary.sem, 3), [round(end, 2) for end in summary.interval]
    (2.0, 0.577, [-0.48, 4.48])
    """
    n = len(values)
    if n < 2:
        return Summary(values[0], None, None, 1) if values else None
    if not all(map(math.isfinite, values)):
        return Summary(math.nan, math.nan, math.nan, n)
    sem = stdev(values) / math.sqrt(n)
    return Summary(fmean(values), sem, t_quantile(n - 1) * sem, n)


def t_quantile(degrees: int) -> float:
    """The t with P(|T| < t) = 0.95 for Student's t distribution, to 1e-6.

    Up to 15 degrees of freedom from a table; above by an expansion around the normal distribution
    (Abramowitz & Stegun 1964, 26.7.5).

    Args:
        degrees: Degrees of freedom, at least 1.
    """
    if degrees <= len(_T_QUANTILES):
        return _T_QUANTILES[degrees - 1]
    z, v = NormalDist().inv_cdf(0.975), degrees
    terms = (
        (z**3 + z) / (4 * v),
        (5 * z**5 + 16 * z**3 + 3 * z) / (96 * v**2),
        (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / (384 * v**3),
        (79 * z**9 + 776 * z**7 + 1482 * z**5 - 1920 * z**3 - 945 * z) / (92160 * v**4),
    )
    return z + sum(terms)


_T_QUANTILES = (
    12.706205, 4.302653, 3.182446, 2.776445, 2.570582, 2.446912, 2.364624, 2.306004,
    2.262157, 2.228139, 2.200985, 2.178813, 2.160369, 2.144787, 2.131450,
)  # fmt: skip
