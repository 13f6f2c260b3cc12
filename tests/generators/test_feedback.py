"""Feedback connections with class priors and gates, against closed forms."""

import pytest
import torch

from gr_cli.generators import Feedback
from gr_cli.nn.losses import bernoulli_nll


def test_kl_divergence_from_a_class_prior():
    torch.manual_seed(0)
    generator = Feedback((6,), 5, 3, [8], 4, "class").double()
    features, labels = torch.randn(1, 5, dtype=torch.double), torch.tensor([2])
    with torch.no_grad():
        generator.prior_log_variance.normal_(0, 0.3)
    mean, log_variance = generator.encode(features)
    q = torch.distributions.Normal(mean, (0.5 * log_variance).exp())
    p = torch.distributions.Normal(generator.prior_mean[2], (0.5 * generator.prior_log_variance[2]).exp())
    exact = torch.distributions.kl_divergence(q, p).sum() / 6
    n = 200_000
    noise = {"z": torch.randn(n, 4, dtype=torch.double)}
    x = torch.rand(1, 6, dtype=torch.double).expand(n, -1)
    with torch.no_grad():
        result = generator.losses("vae", x, noise, labels.expand(n), features.expand(n, -1))["kl"]
    assert float(result.mean()) == pytest.approx(exact.item(), rel=0.01)


def test_kl_weight_scales_the_divergence_alone():
    arguments = (torch.rand(4, 6), {"z": torch.randn(4, 4)}, torch.tensor([0, 1, 2, 0]), torch.randn(4, 5))
    losses = []
    for weight in (1.0, 0.25):
        torch.manual_seed(0)
        losses.append(Feedback((6,), 5, 3, [8], 4, "class", kl_weight=weight).losses("vae", *arguments))
    torch.testing.assert_close(losses[1]["kl"], 0.25 * losses[0]["kl"])
    torch.testing.assert_close(losses[1]["reconstruction"], losses[0]["reconstruction"])


def test_soft_labels_mix_class_priors():
    torch.manual_seed(0)
    generator = Feedback((6,), 5, 3, [8], 4, "class")
    z, class_probabilities = torch.randn(2, 4), torch.tensor([[0.2, 0.0, 0.8], [0.0, 1.0, 0.0]])
    class_priors = torch.distributions.Normal(generator.prior_mean, (0.5 * generator.prior_log_variance).exp())
    densities = class_priors.log_prob(z.unsqueeze(1)).sum(-1).exp()  # (2, 3)
    torch.testing.assert_close(
        generator._log_prior(z, class_probabilities),
        (class_probabilities * densities).sum(1).log(),
        rtol=1e-4,
        atol=1e-4,
    )
    # A class of probability 0 is left out, also where its Gaussian is the nearest.
    with torch.no_grad():
        generator.prior_mean[0] += 50.0
    at = generator.prior_mean[:1].detach()
    far = class_priors.log_prob(at).sum(-1)[1]
    result = generator._log_prior(at, torch.tensor([[0.0, 1.0, 0.0]]))
    torch.testing.assert_close(result, far.view(1), rtol=1e-4, atol=1e-3)


def test_gates_zero_fixed_units_per_class():
    torch.manual_seed(0)
    generator = Feedback((6,), 5, 3, [10, 20], 4, "standard", 0.8)
    assert [generator.gate0.sum(1).tolist(), generator.gate1.sum(1).tolist()] == [[4.0] * 3, [2.0] * 3]
    assert not torch.equal(generator.gate0[0], generator.gate0[1])
    z, one_hot = torch.randn(1, 4), torch.tensor([[0.0, 1.0, 0.0]])
    out = generator.reconstruct(z, one_hot).sum()
    (gradient,) = torch.autograd.grad(out, generator.output.weight)
    assert (gradient[:, generator.gate1[1] == 0] == 0).all()
    assert Feedback((6,), 5, 3, [10], 4).conditional is False


def test_soft_labels_mix_gates():
    torch.manual_seed(0)
    generator = Feedback((6,), 5, 3, [10, 20], 4, "class", 0.5)
    x, features, noise = torch.rand(2, 6), torch.randn(2, 5), {"z": torch.zeros(2, 4)}
    labels, class_probabilities = torch.tensor([0, 2]), torch.tensor([[0.0, 1.0, 0.0], [0.3, 0.0, 0.7]])
    mixed = generator.losses("vae", x, noise, labels, features, class_probabilities)
    z = generator.encode(features)[0]
    expected = bernoulli_nll(generator.reconstruct(z, class_probabilities), x)
    torch.testing.assert_close(mixed["reconstruction"], expected)
    # Soft labels replace the labels: for the first sample they are a one-hot of class 1.
    sure = generator.losses("vae", x[:1], {"z": torch.zeros(1, 4)}, torch.tensor([1]), features[:1])
    torch.testing.assert_close(mixed["reconstruction"][:1], sure["reconstruction"])


def test_generated_samples_pass_gates_of_learned_tasks():
    torch.manual_seed(0)
    generator = Feedback((6,), 5, 2, [10, 20], 4, "standard", 0.5, num_tasks=3)
    assert generator.gated_by_task and not generator.conditional and generator.gate0.shape == (3, 20)
    latent = {"z": torch.randn(6, 4), "task": torch.tensor([0.0, 0.3, 0.5, 0.7, 0.9, 0.999])}
    assert generator.gating_tasks(latent).tolist() == [0] * 6  # no task is learned yet
    for num_learned, expected in ((1, [0, 0, 0, 0, 0, 0]), (2, [0, 0, 1, 1, 1, 1]), (3, [0, 0, 1, 2, 2, 2])):
        generator.mark_learned(torch.tensor([True, True]))
        assert generator.num_learned_tasks == num_learned
        assert generator.gating_tasks(latent).tolist() == expected
        by_hand = generator.spec.point_estimate(generator.reconstruct(latent["z"], torch.eye(3)[expected]))
        torch.testing.assert_close(generator.decode(latent), by_hand)
    x, features, noise = torch.rand(6, 6), torch.randn(6, 5), {"z": torch.zeros(6, 4)}
    tasks = torch.tensor([2, 0, 1, 1, 2, 0])
    result = generator.losses("vae", x, noise, None, features, None, tasks)["reconstruction"]
    z = generator.encode(features)[0]
    torch.testing.assert_close(result, bernoulli_nll(generator.reconstruct(z, torch.eye(3)[tasks]), x))
    # With class priors too, labels are needed, and gates are still those of tasks.
    both = Feedback((6,), 5, 2, [10], 4, "class", 0.5, num_tasks=3)
    assert both.conditional and both.gate0.shape == (3, 10)
    with pytest.raises(ValueError, match="tasks are needed"):
        both.losses("vae", x, noise, tasks % 2, features)
