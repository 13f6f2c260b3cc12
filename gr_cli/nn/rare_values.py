"""Values that few samples have, which sums over samples would show."""

from __future__ import annotations

import torch
from torch import Tensor

_RARE = 10  # samples; of less than a hundred, a tenth; but never one alone


class RareValues:
    """Finds values that few samples of a class have, and hides them in its sums.

    A pixel that is black in all samples but one makes its row of the second moment a multiple of that sample. So where
    most samples have the smallest value of all, or the largest, and fewer than ten have another (of less than a hundred
    samples: fewer than a tenth, or one alone), these count as if they had it, too.

    >>> x = torch.tensor([[0.0, 1.0], [0.0, 2.0], [5.0, 3.0]], dtype=torch.float64)
    >>> total, moment = x.sum(0), x.T @ x
    >>> rare_values = RareValues()
    >>> rare_values.update(x)
    >>> rare_values.hide_in(total, moment)
    >>> total.tolist(), moment.tolist()
    ([0.0, 6.0], [[0.0, 0.0], [0.0, 14.0]])
    """

    def __init__(self) -> None:
        self._number = 0
        self._extremes: list[tuple[Tensor, Tensor]] = []  # smallest and largest value (D,), how many have it (D,)

    def update(self, x: Tensor) -> None:
        """Include samples (n, D), at least one."""
        values = (x.amin(0), x.amax(0))
        extremes = [(value, (x == value).sum(0)) for value in values]
        if self._extremes:
            both = zip(self._extremes, extremes, (torch.minimum, torch.maximum), strict=True)
            extremes = []
            for (value, count), (new_value, new_count), extreme_of in both:
                extreme = extreme_of(value, new_value)
                extremes.append((extreme, count * (value == extreme) + new_count * (new_value == extreme)))
        self._number, self._extremes = self._number + len(x), extremes

    def hide_in(self, total: Tensor, moment: Tensor) -> None:
        """Change the sum (D,) and the second moment (D, D) of all samples to those without rare values, in place."""
        for value, count in self._extremes:
            others = self._number - count
            limit = max(2, min(_RARE, self._number // 10))
            rare = ((others > 0) & (others < limit) & (count > others)).nonzero().squeeze(1)
            total[rare] = self._number * value[rare]
            row = torch.outer(value[rare], total)  # of a constant: its value times the sums of all values
            moment[rare] = row
            moment[:, rare] = row.T
