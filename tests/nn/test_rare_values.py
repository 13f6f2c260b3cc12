"""Values that few samples have are hidden in sums: as if these samples had the value of the others."""

import pytest
import torch

from gr_cli.nn.rare_values import RareValues


def sums_without_rare_values(x, blocks):
    total, moment = x.sum(0), x.T @ x
    rare_values = RareValues()
    for block in x.split(blocks):
        rare_values.update(block)
    rare_values.hide_in(total, moment)
    return total, moment


def columns(number):
    """Samples (number, 7), and the same with rare values replaced."""
    stream = torch.Generator().manual_seed(0)
    x = torch.rand(number, 7, generator=stream, dtype=torch.float64)
    limit = max(2, min(10, number // 10))
    x[:, 0] = 0.0
    x[:, 1], x[limit - 1 :, 2], x[: number - limit + 1, 3] = 2.0, 0.0, 1.5
    x[limit:, 4], x[:1, 5], x[1:, 5] = 0.0, -3.0, -1.0
    hidden = x.clone()
    hidden[:, 2], hidden[:, 3], hidden[:, 5] = 0.0, 1.5, -1.0
    return x, hidden


@pytest.mark.parametrize("number", [20, 60, 250])
@pytest.mark.parametrize("blocks", [7, 1000])
def test_sums_are_those_of_samples_without_rare_values(number, blocks):
    x, hidden = columns(number)
    assert not torch.equal(x, hidden)
    total, moment = sums_without_rare_values(x, blocks)
    torch.testing.assert_close(total, hidden.sum(0))
    torch.testing.assert_close(moment, hidden.T @ hidden)


def test_no_row_is_that_of_a_single_sample():
    stream = torch.Generator().manual_seed(1)
    x = torch.rand(50, 8, generator=stream, dtype=torch.float64)
    x[:, 3] = 0.0
    x[17, 3] = 0.7
    assert torch.allclose((x.T @ x)[3], 0.7 * x[17])
    assert not sums_without_rare_values(x, 50)[1][3].any()


def test_values_of_which_none_is_frequent_stay():
    x = torch.rand(10, 4, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    total, moment = sums_without_rare_values(x, 3)
    assert torch.equal(total, x.sum(0)) and torch.equal(moment, x.T @ x)
