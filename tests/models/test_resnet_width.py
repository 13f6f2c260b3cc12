"""ResNet-18 of other widths."""

import pytest
import torch

from gr_cli.models.resnet import ResNet18


@pytest.mark.parametrize("norm", ["group", "batch"])
def test_width_scales_the_channels_of_all_blocks(norm):
    network = ResNet18((3, 8, 8), 4, width=20, norm=norm)
    shapes = [p.shape[0] for name, p in network.named_parameters() if name.endswith(("conv1.weight", "conv2.weight"))]
    assert shapes == [20] * 5 + [40] * 4 + [80] * 4 + [160] * 4
    assert network.feature_size == 160 and network(torch.zeros(2, 3, 8, 8)).shape == (2, 4)


def test_the_published_width_has_torchvisions_layers():
    from torchvision.models import resnet18

    torch.manual_seed(0)
    network = ResNet18((3, 8, 8), 10)
    torch.manual_seed(0)
    original = resnet18(num_classes=10, norm_layer=lambda channels: torch.nn.GroupNorm(32, channels))
    for name, value in original.state_dict().items():
        if name not in ("conv1.weight", "fc.weight", "fc.bias"):
            assert torch.equal(network.net.state_dict()[name], value), name
    assert torch.equal(network.output.weight, original.fc.weight)
