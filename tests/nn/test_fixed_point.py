"""Sums in integers are exact: in any order, and after a sample was taken out."""

import pytest
import torch

from gr_cli.errors import DataError
from gr_cli.nn.fixed_point import as_floats, check_sum_fits, sum_of_products, to_fixed_point


def exact(q):
    """The sum of outer products in Python's integers, its lower triangle."""
    rows = q.tolist()
    return [[sum(row[i] * row[j] for row in rows) for j in range(i + 1)] for i in range(q.shape[1])]


def lower(matrix):
    return [row[: i + 1] for i, row in enumerate(matrix.tolist())]


@pytest.mark.parametrize("size", [1.0, 4095.0])
def test_sums_of_products_are_those_of_integers(size):
    generator = torch.Generator().manual_seed(0)
    x = size * (2 * torch.rand(300, 5, generator=generator, dtype=torch.float64) - 1)
    q = to_fixed_point(x)
    assert lower(sum_of_products(q)) == exact(q)
    # Without a sample: the same as without it from the start, which is not so for floats.
    without = torch.cat([q[:7], q[8:]])
    assert torch.equal(sum_of_products(q) - sum_of_products(q[7:8]), sum_of_products(without))
    assert torch.equal(sum_of_products(q[torch.randperm(300, generator=generator)]), sum_of_products(q))
    expected = (x.T @ x).tril()
    torch.testing.assert_close(as_floats(sum_of_products(q), 2).tril(), expected, rtol=1e-3, atol=300 * size * 2.0**-12)


def test_a_value_is_rounded_to_the_nearest_step():
    x = torch.tensor([1.0, 1.5, 2.5, -0.49]) * 2.0**-12
    assert to_fixed_point(x).tolist() == [1, 2, 2, 0]
    assert torch.equal(as_floats(torch.tensor([4096])), torch.tensor([1.0], dtype=torch.float64))


@pytest.mark.parametrize("value", [4096.0, -5000.0, float("nan"), float("inf")])
def test_values_without_an_exact_sum_are_refused(value):
    with pytest.raises(DataError, match="beyond 4096 or that are not finite; scale them"):
        to_fixed_point(torch.tensor([0.0, value]))


def test_sums_beyond_int64_are_refused():
    check_sum_fits(torch.tensor([[2**61, 0], [2**60, 0]]))
    with pytest.raises(DataError, match="exceeds 2\\*\\*62 steps"):
        check_sum_fits(torch.tensor([[2**61, 0], [2**61, 0]]))
