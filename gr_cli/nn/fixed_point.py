"""Sums of samples in integers: exact in any order, so that single samples can be taken out of them again."""

from __future__ import annotations

import torch
from torch import Tensor

from gr_cli.errors import DataError
from gr_cli.nn.symmetric import lower_product

FRACTION_BITS = 12  # samples are rounded to multiples of 2**-12
_VALUE_BITS = 24  # of a rounded value: largest is 2**24 steps, 4096 in units of the data
_EXACT_BITS = 53  # integers below 2**53 are exact in float64
_SUM_BITS = 62  # of a sum in int64


def to_fixed_point(x: Tensor) -> Tensor:
    """Samples as multiples of 2**-12, int64: the nearest to each value, of two the even one.

    >>> to_fixed_point(torch.tensor([0.5, -1.0, 0.0001]))
    tensor([ 2048, -4096,     0])

    Raises:
        DataError: A value is beyond 4096, or not finite.
    """
    scaled = x.double() * 2**FRACTION_BITS
    if not bool((scaled.abs() < 2**_VALUE_BITS).all()):
        raise DataError(
            f"strategy.arithmetic=fixed_point: samples have values beyond {2 ** (_VALUE_BITS - FRACTION_BITS)} or that "
            "are not finite; scale them, or use strategy.arithmetic=float64"
        )
    rounded: Tensor = scaled.round().to(torch.int64)
    return rounded


def sum_of_products(q: Tensor) -> Tensor:
    """The sum of the outer products of integer samples (N, D) with themselves, exact: int64 (D, D), lower triangle.

    Each block of samples is one matrix product in float64, whose partial sums are integers below 2**53. So they are
    exact, in whichever order they are added.
    """
    largest = max(1, int(q.abs().max())) if q.numel() else 1
    total = q.new_zeros(q.shape[1], q.shape[1])
    for block in q.split(max(1, 2**_EXACT_BITS // largest**2)):
        total += lower_product(block.double()).to(torch.int64)
    return total


def check_sum_fits(diagonals: Tensor) -> None:
    """Check that sums of products fit int64, from their diagonals (..., D), which bound all other entries.

    Args:
        diagonals: Diagonals of the sums that will be added, one in each row.

    Raises:
        DataError: Together they exceed 2**62.
    """
    if float(diagonals.double().sum(0).max()) >= 2.0**_SUM_BITS:
        raise DataError(
            "strategy.arithmetic=fixed_point: the sum of squares of the samples exceeds 2**62 steps; scale them down, "
            "or use strategy.arithmetic=float64"
        )


def as_floats(total: Tensor, factors: int = 1) -> Tensor:
    """Sums in units of the data, float64: integers are multiples of 2**-12, floats are kept.

    Args:
        total: Sums of samples, or of products of their values.
        factors: Number of values in each product; 1 for sums of samples.
    """
    if total.is_floating_point():
        return total
    values: Tensor = total.double()
    return values * 2.0 ** (-FRACTION_BITS * factors)
