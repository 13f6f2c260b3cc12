"""Tensors in one buffer, compared with the same tensors apart."""

import doctest

import pytest
import torch

from gr_cli.nn import flat_tensors
from gr_cli.nn.flat_tensors import FlatTensors


@pytest.mark.parametrize("replicas", [1, 3])
def test_views_and_buffer_are_the_same_values(replicas):
    torch.manual_seed(0)
    tensors = [torch.randn(replicas, *shape, dtype=torch.float64) for shape in [(4, 3), (5,), ()]]
    buffer = FlatTensors(tensors).copy_(tensors)
    for view, tensor in zip(buffer.views, tensors, strict=True):
        assert torch.equal(view, tensor) and view.is_contiguous()
    assert torch.equal(buffer.flat, torch.cat([tensor.flatten() for tensor in tensors]))
    expected = torch.stack([sum(tensor[i].sum() for tensor in tensors) for i in range(replicas)])
    torch.testing.assert_close(buffer.sum_per_replica(), expected)
    buffer.flat.mul_(2)
    assert all(torch.equal(view, 2 * tensor) for view, tensor in zip(buffer.views, tensors, strict=True))


def test_values_broadcast_and_keep_no_memory_layout():
    like = [torch.zeros(2, 4, 3).transpose(1, 2), torch.zeros(2, 5)]
    buffer = FlatTensors(like).copy_([torch.arange(2.0).view(2, 1, 1), torch.arange(5.0)])
    assert buffer.views[0].shape == (2, 3, 4) and buffer.views[0].is_contiguous()
    assert buffer.views[0][:, 1, 2].tolist() == [0, 1] and buffer.views[1].tolist() == [[0, 1, 2, 3, 4]] * 2


def test_docstring_example_runs():
    result = doctest.testmod(flat_tensors)
    assert result.attempted > 0 and result.failed == 0
