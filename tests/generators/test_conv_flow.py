"""Flow matching with a U-Net: shapes, losses by hand, replicas, separate samples."""

import pytest
import torch

from gr_cli.errors import ConfigError
from gr_cli.generators import ConvFlowMatching
from gr_cli.nn.replicas import Replicas
from gr_cli.nn.sample_spec import SampleSpec
from gr_cli.nn.unet import UNet


def flow_of(shape, seed=0, **settings):
    torch.manual_seed(seed)
    return ConvFlowMatching(shape, 3, **({"channels": [4, 8], "steps": 2} | settings)).double()


def noise_for(flow, batch):
    return {"z": torch.randn(*batch, flow.spec.size).double(), "time": torch.rand(*batch, 1).double()}


@pytest.mark.parametrize("shape", [(1, 8, 8), (3, 9, 13), (1, 28, 28), (3, 32, 32)], ids=str)
@pytest.mark.parametrize("settings", [{}, {"channels": [4], "patch_size": 1}, {"channels": [4, 4, 8]}], ids=str)
def test_images_of_any_size(shape, settings):
    x = flow_of(shape, **settings).generate(3)
    assert x.shape == (3, *shape) and 0 <= x.min() <= x.max() <= 1


def test_one_image_with_feature_maps_of_one_position():
    assert flow_of((1, 8, 8), channels=[4, 4, 4]).generate(1).isfinite().all()


def test_loss_is_the_squared_error_of_the_velocity():
    flow = flow_of((2, 8, 8))
    x, labels, noise = (
        torch.rand(5, 2, 8, 8).double(),
        torch.tensor([0, 1, 2, 0, 1]),
        noise_for(flow_of((2, 8, 8)), (5,)),
    )
    scaled = 2 * x.flatten(1) - 1
    points = noise["z"] + noise["time"] * (scaled - noise["z"])
    expected = (flow.velocity(points, noise["time"], labels) - (scaled - noise["z"])).square().mean(1)
    torch.testing.assert_close(flow.losses("flow", x, noise, labels)["flow"], expected)


def test_a_straight_flow_ends_at_its_samples():
    flow = flow_of((1, 8, 8), steps=3)
    x, z = torch.rand(4, 1, 8, 8).double(), torch.randn(4, 64).double()
    flow.predict = lambda *_: (2 * x.flatten(1) - 1) - z  # the velocity that leads each z to its sample
    torch.testing.assert_close(flow.decode({"z": z}, torch.zeros(4, dtype=torch.long)), x)


def test_samples_of_a_batch_do_not_depend_on_each_other():
    flow = flow_of((3, 9, 13))
    x, labels, noise = (
        torch.rand(4, 3, 9, 13).double(),
        torch.tensor([0, 1, 2, 0]),
        noise_for(flow_of((3, 9, 13)), (4,)),
    )
    together = flow.losses("flow", x, noise, labels)["flow"]
    for i in range(4):
        alone = {name: value[i : i + 1] for name, value in noise.items()}
        torch.testing.assert_close(
            flow.losses("flow", x[i : i + 1], alone, labels[i : i + 1])["flow"], together[i : i + 1]
        )


def test_replicas_equal_single_networks():
    networks = [flow_of((3, 9, 13), seed) for seed in range(2)]
    singles = [flow_of((3, 9, 13), seed) for seed in range(2)]
    replicas = Replicas(networks)
    x, labels = torch.rand(2, 4, 3, 9, 13).double(), torch.tensor([[0, 1, 2, 0], [2, 1, 1, 0]])
    noise = noise_for(singles[0], (2, 4))
    losses = replicas.call("losses", "flow", x, noise, labels)["flow"]
    samples = replicas.call("decode", {"z": noise["z"]}, labels)
    parameters = replicas.select_parameters(lambda network: network.parameters())
    gradients = torch.autograd.grad(losses.sum(), parameters)
    for i, single in enumerate(singles):
        loss = single.losses("flow", x[i], {name: value[i] for name, value in noise.items()}, labels[i])["flow"]
        torch.testing.assert_close(losses[i], loss)
        torch.testing.assert_close(samples[i], single.decode({"z": noise["z"][i]}, labels[i]))
        for gradient, own in zip(gradients, torch.autograd.grad(loss.sum(), list(single.parameters())), strict=True):
            torch.testing.assert_close(gradient[i], own)


def test_learns_the_mean_of_each_class():
    """Two classes, each one constant image: a few hundred steps are enough to tell them apart."""
    flow = flow_of((1, 8, 8), channels=[4, 4], steps=3)
    optimizer, labels = torch.optim.Adam(flow.parameters(), lr=0.02), torch.arange(16) % 2
    x = torch.where(labels == 0, 0.1, 0.9).double().view(-1, 1, 1, 1).expand(-1, 1, 8, 8)
    torch.manual_seed(1)
    for _ in range(60):
        loss = flow.losses("flow", x, noise_for(flow, (16,)), labels)["flow"].mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    means = flow.generate(16, labels=labels, generator=torch.Generator().manual_seed(0)).flatten(1).mean(1)
    assert means[labels == 0].max() < 0.4 < 0.6 < means[labels == 1].min()


def test_vectors_and_empty_networks_are_refused():
    with pytest.raises(ConfigError, match=r"needs images \(C, H, W\).*try generator=flow"):
        ConvFlowMatching(SampleSpec((12,)), 3)
    with pytest.raises(ConfigError, match="needs at least one level"):
        ConvFlowMatching((1, 8, 8), 3, channels=[])


def test_condition_changes_the_output_of_a_unet():
    torch.manual_seed(0)
    network, x = UNet(3, [4, 8], 2, 5), torch.rand(2, 3, 9, 9)
    assert network(x, torch.zeros(2, 5)).shape == x.shape
    assert not torch.allclose(network(x, torch.zeros(2, 5)), network(x, torch.ones(2, 5)))
