"""Losses, compared with closed forms and torch."""

import math

import pytest
import torch
import torch.nn.functional as F

from gr_cli.nn import losses


def test_cross_entropy_over_active_units_matches_the_closed_form():
    logits = torch.tensor([[1.0, 2.0, 50.0]])
    loss = losses.cross_entropy(logits, torch.tensor([0]), torch.tensor([True, True, False]))
    assert loss.item() == pytest.approx(math.log(1 + math.e), abs=1e-6)


def test_an_inactive_unit_gets_no_gradient():
    logits = torch.zeros(1, 3, requires_grad=True)
    losses.cross_entropy(logits, torch.tensor([0]), torch.tensor([True, True, False])).sum().backward()
    assert logits.grad.tolist() == [[-0.5, 0.5, 0.0]]


def test_soft_targets_ignore_unknown_units_and_sum_to_one():
    target = losses.soft_targets(torch.tensor([2.0, 0.0, 9.0]), torch.tensor([True, True, False]), 2.0)
    assert target.tolist() == pytest.approx([math.e / (1 + math.e), 1 / (1 + math.e), 0.0], abs=1e-6)


def test_distillation_loss_has_no_factor_of_the_squared_temperature():
    logits, target = torch.tensor([2.0, 0.0]), torch.tensor([0.25, 0.75])
    loss = losses.distillation_loss(logits, target, torch.tensor([True, True]), 2.0)
    log_p = [1 - math.log(1 + math.e), -math.log(1 + math.e)]
    assert loss.item() == pytest.approx(-(0.25 * log_p[0] + 0.75 * log_p[1]), abs=1e-6)


def test_distillation_loss_with_inactive_units_is_finite():
    logits = torch.randn(4, 1, 6)
    known, active = torch.tensor([[True] * 2 + [False] * 4]), torch.tensor([[True] * 4 + [False] * 2])
    loss = losses.distillation_loss(logits, losses.soft_targets(torch.randn(4, 1, 6), known, 2.0), active, 2.0)
    assert loss.isfinite().all()


@pytest.mark.parametrize("values", [1, 2, 7, 33, 64, 784, 785])
def test_bernoulli_nll_matches_torch_for_any_number_of_values(values):
    generator = torch.Generator().manual_seed(values)
    logits = (30 * torch.randn(20, values, generator=generator)).double().requires_grad_()
    x = torch.rand(20, values, generator=generator).double()
    expected = F.binary_cross_entropy_with_logits(logits, x, reduction="none").mean(-1)
    torch.testing.assert_close(losses.bernoulli_nll(logits, x), expected)
    (exact,) = torch.autograd.grad(expected.sum(), logits)
    torch.testing.assert_close(torch.autograd.grad(losses.bernoulli_nll(logits, x).sum(), logits)[0], exact)
    single = losses.bernoulli_nll(logits.detach().float(), x.float())
    torch.testing.assert_close(single, expected.detach().float(), rtol=1e-5, atol=1e-5)


def test_bernoulli_nll_is_minus_log_likelihood():
    p, x = 0.8, torch.tensor([[1.0, 0.0, 0.25]])
    loss = losses.bernoulli_nll(torch.full((1, 3), math.log(p / (1 - p))), x)
    expected = -(math.log(p) + math.log(1 - p) + 0.25 * math.log(p) + 0.75 * math.log(1 - p)) / 3
    assert loss.item() == pytest.approx(expected, abs=1e-6)


def test_gaussian_nll_is_half_the_mean_square():
    assert losses.gaussian_nll(torch.tensor([1.0, 3.0]), torch.tensor([0.0, 1.0])).item() == pytest.approx(1.25)


def test_kl_agrees_with_torch():
    mean, log_variance = torch.randn(5, 7), torch.randn(5, 7)
    q = torch.distributions.Normal(mean, (0.5 * log_variance).exp())
    expected = torch.distributions.kl_divergence(q, torch.distributions.Normal(0.0, 1.0)).sum(-1)
    torch.testing.assert_close(losses.kl_standard_normal(mean, log_variance), expected)


def test_losses_keep_leading_axes():
    logits, target, active = torch.randn(3, 5, 4), torch.randint(0, 2, (3, 5)), torch.tensor([True, True, True, False])
    stacked = losses.cross_entropy(logits, target, active)
    alone = torch.stack([losses.cross_entropy(a, b, active) for a, b in zip(logits, target, strict=True)])
    torch.testing.assert_close(stacked, alone)
    assert losses.weighted_sum(stacked, None).shape == (3,)


def test_weighted_sum_with_equal_weights_is_the_mean():
    values = torch.randn(8)
    torch.testing.assert_close(losses.weighted_sum(values, torch.full((8,), 1 / 8)), losses.weighted_sum(values, None))


def test_gaussian_log_densities_match_those_of_one_gaussian():
    x, means, log_variances = (torch.randn(2, size, 7, dtype=torch.float64) for size in (5, 3, 3))
    expected = losses.gaussian_log_density(x.unsqueeze(2), means.unsqueeze(1), log_variances.unsqueeze(1))
    torch.testing.assert_close(losses.gaussian_log_densities(x, means, log_variances), expected, rtol=1e-12, atol=1e-12)
    single = losses.gaussian_log_densities(x.float(), means.float(), log_variances.float())
    torch.testing.assert_close(single, expected.float(), rtol=1e-5, atol=1e-4)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(losses.gaussian_log_densities(x.float(), means.float(), log_variances.float()), single)
