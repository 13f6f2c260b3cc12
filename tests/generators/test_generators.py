"""VAEs, and the contract that all generators share."""

import copy

import pytest
import torch
from torch.func import functional_call, stack_module_state, vmap

from gr_cli.errors import ConfigError
from gr_cli.generators import VAE, ConvVAE, Generator
from gr_cli.nn.random_streams import RandomStreams, ReplicaStreams
from gr_cli.nn.replicas import Replicas
from gr_cli.nn.sample_spec import SampleSpec

SHAPES = [(1, 8, 8), (3, 8, 8), (1, 9, 13), (1, 28, 28), (3, 32, 32), (3, 64, 48)]


def make(name: str, spec: SampleSpec | tuple[int, ...], **settings) -> Generator:
    small = {"hidden_dims": [8, 16], "latent_dim": 4} | settings
    return VAE(spec, **small) if name == "vae" else ConvVAE(spec, **small)


def noise_of(generator: Generator, batch: int, seed: int = 0) -> dict[str, torch.Tensor]:
    return {
        name: value[0]
        for name, value in ReplicaStreams([RandomStreams(seed)])
        .noise_at(generator.training_noise(batch), "test", 0, 0)
        .items()
    }


@pytest.mark.parametrize("name", ["vae", "conv_vae"])
@pytest.mark.parametrize("shape", SHAPES)
def test_generated_images_have_shape_and_range_of_the_spec(name, shape):
    generator = make(name, shape)
    x = generator.generate(5)
    assert x.shape == (5, *shape)
    assert x.min() >= 0
    assert x.max() <= 1
    assert not x.requires_grad
    terms = generator.losses("vae", torch.rand(3, *shape), noise_of(generator, 3))
    assert {name: value.shape for name, value in terms.items()} == {"reconstruction": (3,), "kl": (3,)}


def test_default_conv_vae_accepts_the_smallest_images():
    assert ConvVAE((1, 8, 8)).generate(2).shape == (2, 1, 8, 8)


@pytest.mark.parametrize("name", ["vae", "conv_vae"])
def test_vae_loss_is_the_negative_elbo_per_value(name):
    generator = make(name, (1, 8, 8), dropout=0.0)
    x, noise = torch.rand(6, 1, 8, 8), noise_of(generator, 6)
    mean, log_variance = generator.encode(x)
    q = torch.distributions.Normal(mean, (0.5 * log_variance).exp())
    z = mean + q.scale * noise["z"]
    p = torch.distributions.Bernoulli(logits=generator.reconstruct(z), validate_args=False)
    prior = torch.distributions.Normal(torch.zeros_like(mean), 1.0)
    elbo = p.log_prob(x).flatten(1).sum(1) - torch.distributions.kl_divergence(q, prior).sum(1)
    result = sum(generator.losses("vae", x, noise).values())
    torch.testing.assert_close(result, -elbo / 64, rtol=1e-5, atol=1e-6)


def test_binomial_likelihood_scales_with_its_trials():
    torch.manual_seed(0)
    one, sixteen = (make("vae", SampleSpec((1, 8, 8), binomial_trials=trials), dropout=0.0) for trials in (1, 16))
    sixteen.load_state_dict(one.state_dict())
    x, noise = torch.rand(4, 1, 8, 8), noise_of(one, 4)
    a, b = one.losses("vae", x, noise), sixteen.losses("vae", x, noise)
    torch.testing.assert_close(b["reconstruction"], 16 * a["reconstruction"])
    torch.testing.assert_close(b["kl"], a["kl"])


def test_unbounded_data_is_modelled_as_gaussian():
    generator = make("vae", SampleSpec((5,), None), dropout=0.0)
    assert generator.generate(400).min() < 0
    x, noise = 10 * torch.randn(3, 5), noise_of(generator, 3)
    mean, log_variance = generator.encode(x)
    out = generator.reconstruct(mean + (0.5 * log_variance).exp() * noise["z"])
    torch.testing.assert_close(generator.losses("vae", x, noise)["reconstruction"], 0.5 * (out - x).square().mean(1))


def test_generated_samples_in_another_value_range():
    generator = make("vae", SampleSpec((4,), (-1.0, 1.0)))
    x = generator.generate(500)
    assert -1 <= x.min() < 0 < x.max() <= 1


@pytest.mark.parametrize("name", ["vae", "conv_vae"])
def test_dropout_uses_the_given_noise(name):
    generator = make(name, (1, 8, 8), dropout=0.5)
    x = torch.rand(8, 1, 8, 8)
    first, second = noise_of(generator, 8, 0), noise_of(generator, 8, 1)
    again = {**second, "z": first["z"]}
    losses = [generator.losses("vae", x, noise)["reconstruction"] for noise in (first, first, again)]
    torch.testing.assert_close(losses[0], losses[1], rtol=0, atol=0)
    assert not torch.equal(losses[0], losses[2])
    latent = {"z": torch.randn(3, 4)}
    torch.testing.assert_close(generator.decode(latent), generator.decode(latent), rtol=0, atol=0)


def test_generate_uses_its_random_stream():
    generator = make("vae", (4,))
    a, b = (generator.generate(3, generator=torch.Generator().manual_seed(1)) for _ in range(2))
    torch.testing.assert_close(a, b, rtol=0, atol=0)
    assert generator.generate(0).shape == (0, 4)
    with pytest.raises(ValueError, match="num_samples=-1"):
        generator.generate(-1)
    with pytest.raises(ValueError, match="not conditional"):
        generator.generate(2, labels=torch.tensor([0, 1]))


def test_conv_vae_refuses_vectors():
    with pytest.raises(ConfigError, match="needs images"):
        ConvVAE((784,))


@pytest.mark.parametrize("name", ["vae", "conv_vae"])
def test_losses_can_be_stacked_over_replicas(name):
    """The contract of the batched launcher: pure in parameters, batch and noise, so that vmap agrees with a loop."""
    replicas = [make(name, (1, 8, 8)) for _ in range(3)]
    parameters, _ = stack_module_state(replicas)
    x = torch.rand(3, 4, 1, 8, 8)
    noises = [noise_of(r, 4, seed) for seed, r in enumerate(replicas)]
    stacked = {name: torch.stack([noise[name] for noise in noises]) for name in noises[0]}

    class Losses(torch.nn.Module):
        def __init__(self, generator):
            super().__init__()
            self.generator = generator

        def forward(self, x, noise):
            return self.generator.losses("vae", x, noise)

    template = Losses(replicas[0])
    named = {f"generator.{name}": value for name, value in parameters.items()}
    result = vmap(lambda p, x, n: functional_call(template, p, (x, n)))(named, x, stacked)
    for i, replica in enumerate(replicas):
        for name, value in replica.losses("vae", x[i], noises[i]).items():
            torch.testing.assert_close(result[name][i], value, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", ["vae", "conv_vae"])
@pytest.mark.parametrize("shape", [(1, 8, 8), (3, 9, 13)])
def test_stacked_replicas_equal_single_networks(name, shape):
    rates = [0.0, 0.1, 0.5]
    generators = [make(name, shape, dropout=rate) for rate in rates]
    replicas = Replicas(copy.deepcopy(generators), {"dropout": torch.tensor(rates)})
    x, z = torch.rand(3, 4, *shape), torch.randn(3, 5, 4)
    noise = ReplicaStreams([RandomStreams(seed) for seed in range(3)]).noise_at(
        replicas.noise_specs("training_noise", 4), "test", 0, 0
    )
    losses, samples = replicas.call("losses", "vae", x, noise), replicas.call("decode", {"z": z})
    assert samples.shape == (3, 5, *shape)
    for i, generator in enumerate(generators):
        torch.testing.assert_close(samples[i], generator.decode({"z": z[i]}), rtol=1e-4, atol=1e-5)
        for name, value in generator.losses("vae", x[i], noise_of(generator, 4, i)).items():
            torch.testing.assert_close(losses[name][i], value, rtol=1e-4, atol=1e-5)
