"""Selection of samples within replicas, and sums over the parameters of each."""

import pytest
import torch

from gr_cli.nn.gradient_projection import scale_replicas, sum_products
from gr_cli.nn.replicas import select_samples


@pytest.mark.parametrize("replicas", [1, 3])
@pytest.mark.parametrize("shape", [(), (4,), (2, 3)])
def test_samples_are_selected_within_each_replica(replicas, shape):
    torch.manual_seed(0)
    values, index = torch.randn(replicas, 5, *shape), torch.randint(5, (replicas, 7))
    selected = select_samples(values, index)
    assert selected.shape == (replicas, 7, *shape)
    for replica in range(replicas):
        for position in range(7):
            assert torch.equal(selected[replica, position], values[replica, index[replica, position]])


def test_labels_common_to_all_replicas_are_selected():
    labels, index = torch.arange(5).expand(2, -1), torch.tensor([[4, 0], [1, 1]])
    assert select_samples(labels, index).tolist() == index.tolist()


@pytest.mark.parametrize("replicas", [1, 2])
def test_sums_and_factors_of_replicas(replicas):
    torch.manual_seed(0)
    axis = [] if replicas == 1 else [replicas]
    first, second = ([torch.randn([*axis, *shape]).double() for shape in [(3, 4), (4,), ()]] for _ in range(2))
    first[0] = first[0].transpose(-1, -2).contiguous().transpose(-1, -2)  # another memory layout
    factors = torch.arange(1.0, replicas + 1).double()
    sums, scaled = sum_products(first, second, replicas), scale_replicas(first, factors)
    for i in range(replicas):
        pairs = [(a, b) if replicas == 1 else (a[i], b[i]) for a, b in zip(first, second, strict=True)]
        torch.testing.assert_close(sums[i], sum((a * b).sum() for a, b in pairs))
        for result, (a, _) in zip(scaled, pairs, strict=True):
            assert torch.equal(result if replicas == 1 else result[i], a * (i + 1))
