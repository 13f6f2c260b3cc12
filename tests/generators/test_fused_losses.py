"""Fused losses of fully connected VAEs, compared with their plain losses."""

import pytest
import torch

from gr_cli.generators import CVAE, VAE, WGANGP, ClassVAE
from gr_cli.nn.fused import direct_gradients, evaluate, fused_values
from gr_cli.nn.linear import Linear
from gr_cli.nn.losses import weighted_sum
from gr_cli.nn.replicas import Replicas
from gr_cli.nn.sample_spec import SampleSpec

SPECS = {
    "bernoulli": SampleSpec((2, 3)),
    "binomial": SampleSpec((6,), binomial_trials=16),
    "range": SampleSpec((6,), (-1.0, 1.0)),
    "gaussian": SampleSpec((6,), None),
}
KINDS = {
    "vae": lambda spec: VAE(spec, [7, 5], 3, dropout=0.3),
    "vae without hidden layers": lambda spec: VAE(spec, [], 3),
    "cvae": lambda spec: CVAE(spec, 4, [7], 3, dropout=0.2),
    "class_vae": lambda spec: ClassVAE(spec, 4, [7], 3),
}


def generators(kind, spec, num_replicas=1):
    torch.manual_seed(0)
    return Replicas([KINDS[kind](spec).double() for _ in range(num_replicas)])


def arguments(replicas, spec, num_samples=6, seed=1):
    """Samples, noise, and labels for conditional generators, with the replica axis."""
    random, num_replicas = torch.Generator().manual_seed(seed), len(replicas.modules)
    x = torch.rand(num_replicas, num_samples, *spec.shape, generator=random).double()
    noise = {
        name: (torch.randn if noise.distribution == "normal" else torch.rand)(
            num_replicas, *noise.shape, generator=random
        ).double()
        for name, noise in replicas.noise_specs("training_noise", num_samples).items()
    }
    labels = torch.randint(0, 4, (num_replicas, num_samples), generator=random)
    return x, noise, labels if replicas.modules[0].conditional else None


def plain_terms(replicas, x, noise, labels, weights=None):
    terms = replicas.call("losses", "vae", x, noise, *([] if labels is None else [labels]))
    return {name: weighted_sum(value, weights) for name, value in terms.items()}


def assert_matches_plain(replicas, x, noise, labels, weights=None):
    fused = replicas.call("fused_losses", "vae", x, noise, labels, weights)
    values, expected = fused_values(fused), plain_terms(replicas, x, noise, labels, weights)
    assert fused.names == tuple(expected)
    tensors = [value.differentiable for value in values]
    torch.testing.assert_close(tensors, list(expected.values()), rtol=1e-12, atol=1e-12)
    factors = [0.5 + torch.arange(len(x)).double(), 1.7]
    parameters = [p for p in replicas.select_parameters(lambda network: network.parameters()) if p.requires_grad]
    loss = sum((f * v).sum() for f, v in zip(factors, expected.values(), strict=True))
    plain = torch.autograd.grad(loss, parameters, allow_unused=True)
    direct = direct_gradients(list(zip(values, factors, strict=True)), parameters)
    loss = sum((f * v).sum() for f, v in zip(factors, tensors, strict=True))
    by_engine = torch.autograd.grad(loss, parameters, allow_unused=True)
    for gradients in (direct, by_engine):
        for parameter, gradient, exact in zip(parameters, gradients, plain, strict=True):
            assert (gradient is None) == (exact is None)
            if gradient is not None:
                torch.testing.assert_close(gradient, exact, rtol=1e-12, atol=1e-12)
                assert gradient.stride() == parameter.stride()


@pytest.mark.parametrize("num_replicas", [1, 3])
@pytest.mark.parametrize("spec", SPECS)
@pytest.mark.parametrize("kind", KINDS)
def test_fused_losses_match_plain_autograd(kind, spec, num_replicas):
    replicas = generators(kind, SPECS[spec], num_replicas)
    assert_matches_plain(replicas, *arguments(replicas, SPECS[spec]))


@pytest.mark.parametrize("num_replicas", [1, 3])
@pytest.mark.parametrize("kind", KINDS)
def test_weights_of_samples(kind, num_replicas):
    replicas, spec = generators(kind, SPECS["bernoulli"], num_replicas), SPECS["bernoulli"]
    weights = torch.rand(num_replicas, 6, generator=torch.Generator().manual_seed(4)).double()
    assert_matches_plain(replicas, *arguments(replicas, spec), weights)


def test_gradcheck():
    replicas, spec = generators("vae", SPECS["bernoulli"]), SPECS["bernoulli"]
    for parameter in replicas.modules[0].parameters():
        parameter.data += 0.1 * torch.randn_like(parameter)  # biases of 0 put units on the ReLU's kink
    x, noise, _ = arguments(replicas, spec, 3)
    fused = replicas.call("fused_losses", "vae", x, noise)
    split = len(fused.inputs) - 6

    def values(*parameters):
        fresh = replicas.call("fused_losses", "vae", x, noise)
        for stack, own in ((fresh._encoder, parameters[:split]), (fresh._decoder, parameters[split:])):
            stack.parameters, stack.weights, stack.biases = own, own[::2], own[1::2]
        fresh.inputs = parameters
        return evaluate(fresh)

    assert torch.autograd.gradcheck(values, fused.inputs)


@pytest.mark.parametrize("frozen", ["encoder", "posterior", "decoder", "output", "encoder.0.weight"])
def test_frozen_layers(frozen):
    replicas = generators("vae", SPECS["bernoulli"])
    for name, parameter in replicas.modules[0].named_parameters():
        parameter.requires_grad_(not name.startswith(frozen))
    assert_matches_plain(replicas, *arguments(replicas, SPECS["bernoulli"]))


def test_only_a_frozen_encoder_spares_its_gradients():
    replicas = generators("vae", SPECS["bernoulli"])
    vae = replicas.modules[0]
    for layer in (*vae.encoder, vae.posterior):
        layer.requires_grad_(False)
    assert_matches_plain(replicas, *arguments(replicas, SPECS["bernoulli"]))


def test_classes_that_are_not_trained_get_no_gradient():
    replicas = generators("class_vae", SPECS["bernoulli"])
    replicas.modules[0].restrict_to([1, 3])
    assert_matches_plain(replicas, *arguments(replicas, SPECS["bernoulli"]))


class OwnLosses(VAE):
    def losses(self, objective, x, noise, labels=None):
        return super().losses(objective, x, noise, labels) | {"kl": torch.zeros(len(x))}


class OwnEncoder(CVAE):
    def encode(self, x, noise=None):
        return super().encode(2 * x, noise)


class OwnLayer(Linear):
    def forward(self, x):
        return super().forward(x) + 1


def with_own_layer():
    vae = VAE((6,), [7], 3)
    vae.decoder[0] = OwnLayer(3, 7)
    return vae


@pytest.mark.parametrize(
    "generator",
    [
        OwnLosses((6,), [7], 3),
        OwnEncoder((6,), 4, [7], 3),
        with_own_layer(),
        VAE(SampleSpec((6,), categories=(2, 3)), [7], 3),
        WGANGP((6,), [7], 3),
    ],
    ids=lambda generator: type(generator).__name__,
)
def test_generators_of_another_kind_are_not_fused(generator):
    replicas = Replicas([generator.double()])
    x, noise, labels = arguments(replicas, SampleSpec((6,)))
    assert replicas.call("fused_losses", next(iter(generator.objectives())), x, noise, labels) is None


def test_autocast_and_no_grad_are_not_fused():
    replicas = generators("vae", SPECS["bernoulli"])
    x, noise, _ = arguments(replicas, SPECS["bernoulli"])
    with torch.autocast("cpu", torch.bfloat16):
        assert replicas.call("fused_losses", "vae", x, noise) is None
    with torch.no_grad():
        assert replicas.call("fused_losses", "vae", x, noise) is None
