"""A convolutional VAE per class: loss and likelihood against closed forms, replicas, own samples only."""

import copy
import math

import pytest
import torch

from gr_cli.errors import ConfigError
from gr_cli.generators import ClassConvVAE, ClassVAE
from gr_cli.nn.replicas import Replicas
from gr_cli.nn.sample_spec import SampleSpec

SHAPE = (2, 8, 8)


def vae_of(spec=SHAPE, seed=0, **settings):
    torch.manual_seed(seed)
    return ClassConvVAE(spec, 3, [4, 4], 3, **{"norm": "none"} | settings).double()


@pytest.mark.parametrize("value_range", [(0.0, 1.0), (-1.0, 3.0)])
def test_loss_is_the_negative_elbo_with_a_gaussian_likelihood(value_range):
    generator = vae_of(SampleSpec(SHAPE, value_range), deviation=0.2)
    low, high = value_range
    unit, labels, z = torch.rand(5, *SHAPE).double(), torch.tensor([0, 1, 2, 2, 0]), torch.randn(5, 3).double()
    terms = generator.losses("vae", low + (high - low) * unit, {"z": z}, labels)
    for i, label in enumerate(labels.tolist()):
        vae, x = generator.members[label], (unit[i : i + 1] - 0.5) / 0.2
        mean, log_variance = vae.encode(x)
        q = torch.distributions.Normal(mean, (0.5 * log_variance).exp())
        image = 0.5 + 0.2 * vae.reconstruct(mean + q.scale * z[i])
        log_p = torch.distributions.Normal(image, 0.2).log_prob(unit[i : i + 1]).sum()
        constant = -math.log(0.2 * math.sqrt(2 * math.pi)) * 128
        kl = torch.distributions.kl_divergence(q, torch.distributions.Normal(torch.zeros(1, 3).double(), 1.0)).sum()
        expected = -(log_p - constant - kl) / 128
        torch.testing.assert_close(terms["reconstruction"][i] + terms["kl"][i], expected)


def test_likelihood_of_a_decoder_that_ignores_its_latent_variables():
    """p(x | z) = N(x; c, deviation^2) for every z, whatever the posterior: the estimate has no variance at q = p."""
    generator = vae_of(deviation=0.5)
    x, values = torch.rand(4, *SHAPE).double(), [-0.4, 0.0, 0.6]
    with torch.no_grad():
        for vae, value in zip(generator.members, values, strict=True):
            for layer in (vae.posterior, vae.decoder[-1]):
                layer.weight.zero_()
                layer.bias.zero_()
            vae.decoder[-1].bias.fill_(value)
    generator.mark_learned(torch.tensor([True, False, True]))
    result = generator.estimate_log_likelihoods(x, torch.Generator().manual_seed(0), 7)
    for label in (0, 2):
        expected = -0.5 * ((x - 0.5 - 0.5 * values[label]) / 0.5).square().flatten(1).sum(1)
        torch.testing.assert_close(result[:, label], expected)
    assert (result[:, 1] < -1e8).all()


def test_gradients_reach_the_vae_of_a_sample_only():
    generator = vae_of()
    loss = generator.losses(
        "vae", torch.rand(4, *SHAPE).double(), {"z": torch.randn(4, 3).double()}, torch.ones(4).long()
    )
    sum(loss.values()).sum().backward()
    for label, vae in enumerate(generator.members):
        assert all((p.grad is not None and p.grad.abs().max() > 0) == (label == 1) for p in vae.parameters())


def test_replicas_equal_single_networks():
    networks, singles = [vae_of(seed=seed) for seed in range(2)], [vae_of(seed=seed) for seed in range(2)]
    replicas = Replicas(networks)
    x, labels = torch.rand(2, 4, *SHAPE).double(), torch.tensor([[0, 1, 2, 0], [2, 1, 1, 0]])
    z = torch.randn(2, 4, 3).double()
    losses, samples = replicas.call("losses", "vae", x, {"z": z}, labels), replicas.call("decode", {"z": z}, labels)
    for i, single in enumerate(singles):
        for name, value in single.losses("vae", x[i], {"z": z[i]}, labels[i]).items():
            torch.testing.assert_close(losses[name][i], value)
        torch.testing.assert_close(samples[i], single.decode({"z": z[i]}, labels[i]))


def test_vectors_are_refused():
    with pytest.raises(ConfigError, match=r"needs images \(C, H, W\).*try generator=class_vae"):
        ClassConvVAE(SampleSpec((12,)), 3)


def test_losses_of_own_samples_equal_those_of_all_samples_masked():
    generator, x, labels = vae_of(), torch.rand(6, *SHAPE).double(), torch.tensor([2, 0, 0, 2, 2, 0])  # none of class 1
    noise = {"z": torch.randn(6, 3).double()}
    masked = ClassVAE.losses(generator, "vae", x, noise, labels)
    for name, value in generator.losses("vae", x, noise, labels).items():
        torch.testing.assert_close(value, masked[name])


def test_batch_normalization_has_the_statistics_of_the_images_of_a_class():
    generator, x, labels = vae_of(norm="batch"), torch.rand(6, *SHAPE).double(), torch.tensor([2, 0, 0, 2, 2, 0])
    noise = {"z": torch.randn(6, 3).double()}
    before = copy.deepcopy(generator.state_dict())
    terms = generator.losses("vae", x, noise, labels)
    for label in (0, 2):
        alone, rows = vae_of(norm="batch"), labels == label
        expected = alone.losses("vae", x[rows], {"z": noise["z"][rows]}, labels[rows])
        for name, value in expected.items():
            torch.testing.assert_close(terms[name][rows], value)
        # Of the first layer: running averages with weight 0.1, of the variance without bias.
        vae, norm = generator.members[label], generator.members[label].encoder_norms[0]
        hidden = vae.encoder[0](generator.to_members(x[rows]))
        torch.testing.assert_close(norm.running_mean, 0.1 * hidden.mean((0, 2, 3)))
        torch.testing.assert_close(norm.running_var, 0.9 + 0.1 * hidden.var((0, 2, 3)))
    for name, value in generator.state_dict().items():
        if name.startswith("members.1."):  # of which there was no image
            assert value.equal(before[name]), name


def test_batch_normalization_depends_on_no_other_sample_after_training():
    generator, x = vae_of(norm="batch"), torch.rand(5, *SHAPE).double()
    generator.losses("vae", x, {"z": torch.randn(5, 3).double()}, torch.zeros(5).long())
    generator.mark_learned(torch.tensor([True, False, False]))
    z, labels, state = torch.randn(4, 3).double(), torch.tensor([0, 0, 1, 2]), copy.deepcopy(generator.state_dict())
    samples = generator.decode({"z": z}, labels)
    torch.testing.assert_close(samples[:1], generator.decode({"z": z[:1]}, labels[:1]))
    one, all_at_once = (generator.estimate_log_likelihoods(y, torch.Generator().manual_seed(0), 1) for y in (x[:1], x))
    assert generator.training and all(value.equal(state[name]) for name, value in generator.state_dict().items())
    assert one.shape == (1, 3) and all_at_once.shape == (5, 3)
    generator.eval()
    scores = [generator.losses("vae", x[:n], {"z": torch.zeros(n, 3).double()}, labels[:1].expand(n)) for n in (1, 5)]
    for name, value in scores[0].items():
        torch.testing.assert_close(value, scores[1][name][:1])


def test_a_single_image_is_normalised_by_running_statistics():
    generator = ClassConvVAE((1, 2, 2), 2, [3, 3], 2)  # feature maps of one value
    terms = generator.losses("vae", torch.rand(3, 1, 2, 2), {"z": torch.randn(3, 2)}, torch.tensor([0, 1, 1]))
    assert all(value.isfinite().all() for value in terms.values())
    counts = [int(vae.encoder_norms[0].num_batches_tracked) for vae in generator.members]
    assert counts == [0, 1]
