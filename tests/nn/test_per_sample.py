"""Gradients of single samples agree with autograd on one sample at a time."""

from functools import partial

import pytest
import torch
from torch import nn

from gr_cli.generators import CVAE, VAE, ClassConvVAE, ClassVAE, ConvFlowMatching, ConvVAE, FlowMatching
from gr_cli.models import CNN, SimpleMLP
from gr_cli.models.resnet import ResNet18
from gr_cli.nn.gradient_rules.clipped_sum import ClippedGradients
from gr_cli.nn.layer_calls import record_layer_calls
from gr_cli.nn.replicas import Replicas

SHAPE, CLASSES, BATCH = (1, 9, 9), 3, 5
GENERATORS = {
    "vae": partial(VAE, SHAPE, [7], 2),
    "cvae": partial(CVAE, SHAPE, CLASSES, [7, 6], 2),
    "conv_vae": partial(ConvVAE, SHAPE, [3, 4], 2),
    "flow": partial(FlowMatching, SHAPE, CLASSES, [7]),
    "conv_flow": partial(ConvFlowMatching, SHAPE, CLASSES, [4, 8]),
    "class_vae": partial(ClassVAE, SHAPE, CLASSES, [7], 2),
    "class_conv_vae": partial(ClassConvVAE, SHAPE, CLASSES, [3], 2),
}
SOLVERS = {
    "mlp": partial(SimpleMLP, 81, [7, 6], CLASSES, 0.25),
    "cnn": partial(CNN, SHAPE, CLASSES, [2, 3], 5),
    "resnet18": partial(ResNet18, SHAPE, CLASSES, width=4, norm="group"),
}


def samples(replicas):
    torch.manual_seed(1)
    return torch.rand(replicas, BATCH, *SHAPE).double(), torch.randint(0, CLASSES, (replicas, BATCH))


def noise_for(networks, x):
    torch.manual_seed(2)
    specs = networks.noise_specs("training_noise", x.shape[1]) if hasattr(networks.modules[0], "training_noise") else {}
    return {name: torch.rand(len(x), *spec.shape).double() for name, spec in specs.items()}


def generator_losses(networks, x, y, noise):
    labels = [y] if networks.modules[0].conditional else []
    (objective,) = networks.modules[0].objectives()
    return sum(networks.call("losses", objective, x, noise, *labels).values())


def solver_losses(networks, x, y, noise):
    logits = networks.call("__call__", x, *([noise] if noise else []))
    return torch.nn.functional.cross_entropy(logits.flatten(0, 1), y.flatten(), reduction="none").view(y.shape)


CASES = [(make, generator_losses) for make in GENERATORS.values()] + [
    (make, solver_losses) for make in SOLVERS.values()
]


def make_networks(make, replicas):
    networks = []
    for seed in range(replicas):
        torch.manual_seed(seed)
        networks.append(make().double())
    return Replicas(networks)


def one_by_one(networks, losses, x, y, noise, parameters):
    """Gradient of each sample of each replica by a batch of that sample alone, as a list (R, B) of vectors."""
    rows = []
    for b in range(x.shape[1]):
        own = losses(networks, x[:, b : b + 1], y[:, b : b + 1], {k: v[:, b : b + 1] for k, v in noise.items()})
        gradients = torch.autograd.grad(own.sum(), parameters, allow_unused=True)
        filled = [torch.zeros_like(p) if g is None else g for p, g in zip(parameters, gradients, strict=True)]
        rows.append(torch.cat([g.reshape(len(x), -1) for g in filled], 1))
    return torch.stack(rows, 1)  # (R, B, P)


@pytest.mark.parametrize("replicas", [1, 2])
@pytest.mark.parametrize(("make", "losses"), CASES, ids=[*GENERATORS, *SOLVERS])
def test_norms_and_weighted_sums_agree_with_gradients_of_single_samples(make, losses, replicas):
    networks = make_networks(make, replicas)
    x, y = samples(replicas)
    noise = noise_for(networks, x)
    parameters = networks.select_parameters(lambda network: network.parameters())
    with record_layer_calls(networks) as calls:
        values = losses(networks, x, y, noise)
    computed = ClippedGradients(values, calls, parameters)
    assert computed.check_sum()
    expected = one_by_one(networks, losses, x, y, noise, parameters)
    torch.testing.assert_close(computed.norms, expected.norm(dim=-1), rtol=1e-6, atol=1e-9)
    weights = torch.linspace(0, 2, replicas * BATCH).double().view(replicas, BATCH)
    sums = computed.weighted_sum(weights)
    flat = [torch.zeros_like(p) if g is None else g for p, g in zip(parameters, sums, strict=True)]
    flat = torch.cat([g.reshape(replicas, -1) for g in flat], 1)
    torch.testing.assert_close(flat, (weights.unsqueeze(-1) * expected).sum(1), rtol=1e-6, atol=1e-9)


class Multiplied(nn.Module):
    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.rand(81))

    def forward(self, x):
        return self.scale * x.flatten(1)


class CalledTwice(nn.Module):
    """An unknown layer that is called twice, one with several positions, and an embedding."""

    def __init__(self):
        super().__init__()
        self.unknown, self.rows, self.output = Multiplied(), nn.Linear(9, 4), nn.Linear(81, CLASSES)
        self.table = nn.Embedding(4, CLASSES)

    def forward(self, x):
        h = self.unknown(self.unknown(x))
        codes = (x.flatten(1)[:, :3] * 4).long()
        return (
            self.output(h)
            + self.rows(x.flatten(1, 2)).tanh().sum((1, 2), keepdim=True)[:, 0]
            + self.table(codes).sum(1)
        )


@pytest.mark.parametrize("replicas", [1, 2])
def test_unknown_layers_and_layers_that_are_called_several_times(replicas):
    test_norms_and_weighted_sums_agree_with_gradients_of_single_samples(CalledTwice, solver_losses, replicas)


def test_gradients_of_positions_by_both_ways():
    """The norm is the same from Gram matrices of positions and from the gradient itself."""
    from gr_cli.nn.per_sample import ProductGradients

    torch.manual_seed(0)
    for positions, (m, n) in ((1, (4, 5)), (2, (4, 5)), (9, (2, 3))):
        left, right = torch.randn(3, positions, m).double(), torch.randn(3, positions, n).double()
        explicit = torch.einsum("blm,bln->bmn", left, right)
        computed = ProductGradients(left, right)
        torch.testing.assert_close(computed.squared_norms(), explicit.square().sum((1, 2)))
        weights = torch.rand(3).double()
        torch.testing.assert_close(computed.weighted_sum(weights), torch.einsum("b,bmn->mn", weights, explicit))
