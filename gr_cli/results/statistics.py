"""Mean, standard error and confidence interval of a few numbers."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist, fmean, stdev


@dataclass(frozen=True)
class Summary:
    """Of `n` numbers. `sem` and `half`, half the width of the confidence interval, are None where n is 1.

    One NaN makes all of it NaN: it shall be seen.
    """

    mean: float
    sem: float | None
    half_width: float | None
    n: int

    @property
    def interval(self) -> tuple[float, float] | None:
        """The confidence interval of the mean."""
        return None if self.half_width is None else (self.mean - self.half_width, self.mean + self.half_width)


def summarize(values: Sequence[float]) -> Summary | None:
    """Mean, standard error (n - 1) and 95 % confidence interval (Student's t); None of nothing."""
    n = len(values)
    if n < 2:
        return Summary(values[0], None, None, 1) if values else None
    if not all(map(math.isfinite, values)):
        return Summary(math.nan, math.nan, math.nan, n)
    sem = stdev(values) / math.sqrt(n)
    return Summary(fmean(values), sem, t_quantile(n - 1) * sem, n)


def t_quantile(degrees: int) -> float:
    """The t with P(|T| < t) = 0.95 for Student's T of so many degrees of freedom, to 1e-6.

    Few are in the table; for others Abramowitz & Stegun (1964), 26.7.5, an expansion around the normal distribution.
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
