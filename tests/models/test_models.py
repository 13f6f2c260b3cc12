"""Shapes, dropout and vectorization of the solvers."""

import pytest
import torch
from torch.func import functional_call, stack_module_state, vmap

import gr_cli
from gr_cli.errors import ConfigError
from gr_cli.models import CNN, SimpleMLP
from gr_cli.models.resnet import ResNet18


@pytest.mark.parametrize("shape", [(1, 8, 8), (3, 9, 13), (3, 32, 32)])
def test_shapes(shape):
    x = torch.rand(2, *shape)
    assert CNN(shape, 7)(x).shape == (2, 7)
    assert SimpleMLP(x[0].numel(), [16], 7)(x).shape == (2, 7)


def test_resnet_small_image_stem_and_group_norm():
    net = ResNet18((1, 8, 8), 5).eval()
    x = torch.rand(2, 1, 8, 8)
    assert net(x).shape == (2, 5)
    assert not list(net.buffers())
    assert net.net.layer1(net.net.conv1(x)).shape[-1] == 8
    assert list(ResNet18((3, 8, 8), 5, norm="batch").buffers())


def test_documented_mlp():
    model = SimpleMLP(input_size=784, hidden_sizes=[256, 128], output_size=10)
    assert sum(p.numel() for p in model.parameters()) == 784 * 256 + 256 + 256 * 128 + 128 + 128 * 10 + 10
    assert SimpleMLP(6, [], 3)(torch.rand(2, 6)).shape == (2, 3)


def test_dropout_rescales_and_needs_noise():
    model = SimpleMLP(4, [1000], 1, dropout=0.5)
    assert set(model.training_noise(3)) == {"hidden0"}
    torch.nn.init.constant_(model.output.weight, 1.0)
    x = torch.rand(1, 4)
    noise = {"hidden0": torch.rand(1, 1000)}
    assert model(x, noise).item() == pytest.approx(model(x).item(), rel=0.25)
    assert model(x, noise).item() != model(x).item()
    assert model(x, {"hidden0": torch.ones(1, 1000)}).item() == pytest.approx(
        2 * model(x).item() - model.output.bias.item(), rel=1e-4
    )


@pytest.mark.parametrize("make", [lambda: SimpleMLP(64, [8], 3, dropout=0.3), lambda: CNN((1, 8, 8), 3, [4, 4], 8)])
def test_solvers_can_be_stacked_over_replicas(make):
    replicas = [make() for _ in range(3)]
    parameters, _ = stack_module_state(replicas)
    x = torch.rand(3, 5, 1, 8, 8)
    result = vmap(lambda p, x: functional_call(replicas[0], p, (x,)))(parameters, x)
    for i, replica in enumerate(replicas):
        torch.testing.assert_close(result[i], replica(x[i]), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("made", "message"),
    [
        (lambda: SimpleMLP(hidden_sizes="25"), '^hidden_sizes="25": must be a list'),
        (lambda: SimpleMLP(hidden_sizes=256), "^hidden_sizes=256: must be a list"),
        (lambda: SimpleMLP(dropout=2), "^dropout=2: must be a number ≥ 0 and < 1"),
        (lambda: gr_cli.VAE(spec=784), "^spec=784: must be SampleSpec or a list"),
        (lambda: gr_cli.VAE(dropout=1.5), r"^dropout=1\.5: must be a number ≥ 0 and < 1"),
        (lambda: gr_cli.ConvVAE(latent_dim=0), "^latent_dim=0: must be a whole number ≥ 1"),
    ],
)
def test_invalid_argument_is_named(made, message):
    with pytest.raises(ConfigError, match=message):
        made()
