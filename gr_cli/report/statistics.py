"""Mean, standard error and confidence interval of a few numbers."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from statistics import fmean, stdev

CONFIDENCE = 0.95


@dataclass(frozen=True)
class Summary:
    """Of `n` numbers. `sem` and `half`, half the width of the confidence interval, are None where n is 1.

    One NaN makes all of it NaN: it shall be seen.
    """

    mean: float
    sem: float | None
    half: float | None
    n: int

    @property
    def interval(self) -> tuple[float, float] | None:
        """The confidence interval of the mean."""
        return None if self.half is None else (self.mean - self.half, self.mean + self.half)


def summarised(values: Sequence[float]) -> Summary | None:
    """Mean, standard error (n - 1) and confidence interval (Student's t); None of nothing."""
    n = len(values)
    if n < 2:
        return Summary(values[0], None, None, 1) if values else None
    if not all(map(math.isfinite, values)):
        return Summary(math.nan, math.nan, math.nan, n)
    sem = stdev(values) / math.sqrt(n)
    return Summary(fmean(values), sem, t_quantile(n - 1) * sem, n)


@lru_cache
def t_quantile(degrees: int, confidence: float = CONFIDENCE) -> float:
    """The t with P(|T| < t) = `confidence` for Student's T of so many degrees of freedom, found by bisection."""
    low, high = 0.0, math.pi / 2
    for _ in range(100):
        angle = (low + high) / 2
        low, high = (angle, high) if _within(angle, degrees) < confidence else (low, angle)
    return math.sqrt(degrees) * math.tan(low)


def _within(angle: float, degrees: int) -> float:
    """P(|T| < t) by the angle whose tangent is t / sqrt(degrees): Abramowitz & Stegun (1964), 26.7.3 and 26.7.4."""
    sine, cosine, odd = math.sin(angle), math.cos(angle), degrees % 2
    term, total = (cosine if odd else 1.0), 0.0
    for power in range(1 if odd else 0, degrees - 1, 2):
        total += term
        term *= cosine * cosine * (power + 1) / (power + 2)
    return 2 / math.pi * (angle + sine * total) if odd else sine * total
