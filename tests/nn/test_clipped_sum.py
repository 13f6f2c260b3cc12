"""Clipped sums: norms that rounding never makes too small, gradients that are not finite, and checks of networks."""

import math
from fractions import Fraction

import pytest
import torch
from torch import nn

from gr_cli.errors import ConfigError
from gr_cli.nn import per_sample
from gr_cli.nn.gradient_rules.clipped_sum import ClippedGradients
from gr_cli.nn.gradient_rules.dp_sgd import _metrics
from gr_cli.nn.layer_calls import record_layer_calls
from gr_cli.nn.linear import Linear
from gr_cli.nn.per_sample import DenseGradients, ProductGradients, join_calls
from gr_cli.nn.replicas import Replicas


def clipped(networks, x, losses=lambda out: out.flatten(2).square().sum(-1)):
    with record_layer_calls(networks) as calls:
        out = networks.call("__call__", x)
    return ClippedGradients(losses(out), calls, networks.select_parameters(lambda network: network.parameters()))


def total(gradients, max_norm=0.5):
    factors, _ = gradients.clip_factors(max_norm)
    return torch.cat([each.flatten() for each in gradients.weighted_sum(factors)])


# --- norms


def exact_squared_norm(left, right):
    """Squared norm of sum over l of left[l] right[l]^T in rational numbers."""
    left, right = ([[Fraction(v) for v in row] for row in side.tolist()] for side in (left, right))
    pairs = list(zip(left, right, strict=True))
    entries = (sum(a[i] * b[j] for a, b in pairs) for i in range(len(left[0])) for j in range(len(right[0])))
    return sum(value**2 for value in entries)


def cancelling(scale, rows, seed):
    """Products (1, L, 8) whose terms have a large common component that cancels, up to values of about 1 / `scale`."""
    generator = torch.Generator().manual_seed(seed)
    draw = lambda *shape: torch.randn(*shape, generator=generator)  # noqa: E731
    signs = torch.tensor([1.0, -1.0]).repeat(rows // 2).unsqueeze(1)
    left = scale * draw(1, 8) + draw(rows, 8) / scale
    right = signs * (scale * draw(1, 8) + draw(rows, 8) / scale)
    return left.unsqueeze(0), right.unsqueeze(0)


@pytest.mark.parametrize("rows", [2, 4, 12], ids=["Gram matrices", "Gram matrices of 4", "product"])
@pytest.mark.parametrize("scale", [1.0, 30.0, 1e3, 1e5])
def test_norms_are_never_below_the_exact_ones_where_terms_cancel(rows, scale):
    for seed in range(20):
        left, right = cancelling(scale, rows, seed)
        squared = Fraction(float(ProductGradients(left, right).squared_norms()))
        exact = exact_squared_norm(left[0], right[0])
        lengths = float((left.double().norm(dim=-1) * right.double().norm(dim=-1)).sum())
        assert exact <= squared <= exact * Fraction(1 + 1e-9) + Fraction(1e-12 * lengths**2)


def test_single_precision_would_not_do():
    """The cases above are hard ones: Gram matrices in float32 give squares that are far too small."""
    ratios = []
    for seed in range(20):
        left, right = cancelling(1e3, 4, seed)
        squared = float(((left @ left.mT) * (right @ right.mT)).sum())
        ratios.append(squared / float(exact_squared_norm(left[0], right[0])))
    assert min(ratios) < 0.5


def test_norms_of_dense_gradients_and_of_single_rows_are_not_below_the_exact_ones():
    torch.manual_seed(0)
    for _ in range(20):
        left, right = torch.randn(1, 1, 50) * 1e3, torch.randn(1, 1, 70) / 3
        assert exact_squared_norm(left[0], right[0]) <= Fraction(float(ProductGradients(left, right).squared_norms()))
        values = left[0]
        assert sum(Fraction(v) ** 2 for v in values[0].tolist()) <= Fraction(
            float(DenseGradients(values).squared_norms())
        )


def test_norms_in_chunks_equal_those_of_each_sample(monkeypatch):
    torch.manual_seed(0)
    left, right = torch.randn(2, 7, 3, 4), torch.randn(2, 7, 3, 5)  # two replicas of a layer that was called thrice
    calls = [ProductGradients(left[..., i : i + 1, :], right[..., i : i + 1, :]) for i in range(3)]
    monkeypatch.setitem(per_sample._CHUNK, "cpu", 31)
    norms = join_calls(calls).squared_norms()
    expected = torch.einsum("rblm,rbln->rbmn", left.double(), right.double()).square().sum((-2, -1))
    torch.testing.assert_close(norms, expected, rtol=1e-12, atol=0)


def test_factors_leave_room_for_rounding():
    """A convolution in single precision whose gradients cancel: each scaled gradient has at most the norm."""
    torch.manual_seed(0)
    network = nn.Conv2d(3, 8, 3)
    x = 50 + torch.randn(1, 40, 3, 8, 8)
    gradients = clipped(Replicas([network]), x, lambda out: (out - out.mean((-2, -1), True)).pow(3).sum((-3, -2, -1)))
    factors, norms = gradients.clip_factors(0.5)
    assert (factors < 1).all() and factors.dtype == torch.float32
    weight, bias = (block.gradients for block in gradients._blocks)
    scaled = weight.left * factors[0, :, None, None]  # as it is summed
    exact = torch.einsum("blm,bln->bmn", scaled.double(), weight.right.double()).square().sum((-2, -1))
    exact += (factors[0, :, None] * bias.values).double().square().sum(-1)
    assert (exact.sqrt() <= 0.5).all() and exact.sqrt().max() > 0.5 * (1 - 1e-6)
    assert norms.dtype == torch.float64


# --- values that are not finite


def root(out):
    """A loss that is finite at 0, where its derivative is not: infinity times 0."""
    return out.flatten(2).sum(-1).abs().sqrt()


def without_bias(layer):
    nn.init.zeros_(layer.bias)
    return layer


@pytest.mark.parametrize("make", [lambda: Linear(3, 2), lambda: nn.Conv2d(1, 2, 2)], ids=["linear", "convolution"])
@pytest.mark.parametrize("value", [0.0, math.nan, math.inf])
@pytest.mark.parametrize("replicas", [1, 2])
def test_a_gradient_that_is_not_finite_counts_as_0(make, value, replicas):
    torch.manual_seed(0)
    layers = [without_bias(make()) for _ in range(replicas)]
    x = torch.randn(replicas, 5, *((3,) if isinstance(layers[0], Linear) else (1, 3, 3)))
    x[0, 2] = value  # of one replica
    networks, others = Replicas(layers), x.clone()
    others[0, 2] = 1.0
    gradients = clipped(networks, x, root)
    factors, norms = gradients.clip_factors(0.5)
    is_bad = torch.zeros(replicas, 5, dtype=torch.bool)
    is_bad[0, 2] = True
    assert torch.equal(norms.isinf(), is_bad) and torch.equal(factors == 0, is_bad)
    reference = clipped(networks, others, root)
    expected = reference.weighted_sum(reference.clip_factors(0.5)[0] * ~is_bad)
    for value, other in zip(gradients.weighted_sum(factors), expected, strict=True):
        assert value.isfinite().all()
        torch.testing.assert_close(value, other, rtol=1e-6, atol=1e-7)


def test_a_gradient_whose_square_overflows_is_scaled_down():
    layer = without_bias(Linear(3, 2))
    gradients = clipped(Replicas([layer]), torch.full((1, 2, 3), 1e25), lambda out: out.sum(-1))
    assert total(gradients, 0.5).norm().item() == pytest.approx(2 * 0.5, rel=1e-5)


def test_values_whose_sum_overflows_count_as_0():
    """The gradient of a bias is a sum over positions, here of 3e38 each: infinite in single precision."""
    layer = without_bias(nn.Conv2d(1, 1, 1))
    gradients = clipped(Replicas([layer]), torch.full((1, 1, 1, 2, 2), 1e-30), lambda out: 3e38 * out.sum((-3, -2, -1)))
    factors, norms = gradients.clip_factors(0.5)
    assert norms.isinf().all() and not factors.any() and not total(gradients).any()


def test_metrics_of_a_step_leave_out_norms_that_are_not_finite():
    values = _metrics(torch.tensor([[1.0, 0.5, 0.0, 1.0]]), torch.tensor([[1.0, 2.0, math.inf, 0.0]]))
    assert values["gradient_norm"].tolist() == [1.5] and values["clipped"].tolist() == pytest.approx([2 / 3])


# --- checks of networks


class WeightTwice(nn.Module):
    """A network that uses the weight of a layer once more without calling it, for a small part of the output."""

    def __init__(self, share):
        super().__init__()
        self.layer, self.share = without_bias(Linear(3, 3)), share

    def forward(self, x):
        return self.layer(x) + self.share * (x @ self.layer.weight)


@pytest.mark.parametrize("share", [1.0, 1e-2, 1e-3])
def test_a_small_part_of_a_gradient_that_layers_do_not_have_is_refused(share):
    torch.manual_seed(0)
    with pytest.raises(ConfigError, match="don't add up to that of their batch"):
        clipped(Replicas([WeightTwice(share)]), torch.randn(1, 6, 3)).check_sum()


def test_the_check_waits_for_gradients_that_are_finite_and_not_all_0():
    torch.manual_seed(0)
    networks, x = Replicas([WeightTwice(1.0)]), torch.randn(1, 6, 3)
    x[0, 1] = math.nan
    assert not clipped(networks, x).check_sum()
    assert not clipped(networks, x.nan_to_num(), lambda out: 0 * out.sum(-1)).check_sum()
    with pytest.raises(ConfigError, match="don't add up"):
        clipped(networks, x.nan_to_num()).check_sum()


def test_gradients_that_nearly_cancel_are_no_false_alarm():
    torch.manual_seed(0)
    networks = Replicas([nn.Sequential(Linear(30, 40), nn.Tanh(), Linear(40, 10))])
    x = torch.randn(1, 64, 30)
    x, signs = torch.cat([x, x + 1e-6 * torch.randn_like(x)], 1), torch.tensor([1.0, -1.0]).repeat_interleave(64)
    gradients = clipped(networks, x, lambda out: out.square().sum(-1) * signs)
    assert gradients.check_sum()
    plain = torch.autograd.grad(gradients._losses.sum(), networks.modules[0].parameters(), retain_graph=True)
    assert torch.cat([g.flatten() for g in plain]).norm() < 1e-5 * gradients.norms.sum()
