"""ResNet-18 for small images."""

from __future__ import annotations

from collections.abc import Sequence
from math import gcd
from typing import Any, Literal

from torch import Tensor, nn
from torchvision.models.resnet import BasicBlock, ResNet

from gr_cli.errors import ConfigError
from gr_cli.nn.normalization import ChannelMoments, InputNormalization
from gr_cli.types import PositiveInt


def _group_norm(channels: int) -> nn.Module:
    return nn.GroupNorm(gcd(32, channels), channels)


class _ResNet(ResNet):  # type: ignore[misc]  # torchvision has no types
    """torchvision's ResNet-18 with `width` channels in its first block, and a stem for small images."""

    def __init__(self, depth: int, width: int, output_size: int, norm_layer: Any) -> None:
        self._width = width
        super().__init__(BasicBlock, [2, 2, 2, 2], num_classes=output_size, norm_layer=norm_layer)
        self.conv1 = nn.Conv2d(depth, width, 3, stride=1, padding=1, bias=False)
        if width != 64:
            self.bn1, self.fc = norm_layer(width), nn.Linear(8 * width, output_size)
        self.maxpool = nn.Identity()

    def _make_layer(self, block: Any, planes: int, *arguments: Any, **settings: Any) -> nn.Sequential:
        if planes == 64:  # the first block
            self.inplanes = self._width
        layer: nn.Sequential = super()._make_layer(block, planes * self._width // 64, *arguments, **settings)
        return layer


class ResNet18(nn.Module):
    """ResNet-18 (He et al. 2016) from torchvision, with a stem for small images: 3x3, stride 1, no pooling.

    Args:
        input_shape: Shape (C, H, W) of an image.
        output_size: Number of output units.
        width: Channels of the first block; each of the other three has twice as many.
        norm: Normalization layers. `group` (Wu & He 2018) has no running statistics; `batch` has, and they mix tasks.
        moments: Mean and standard deviation by which images are normalised first. `null`: they are not.
    """

    def __init__(
        self,
        input_shape: Sequence[PositiveInt] = (3, 32, 32),
        output_size: PositiveInt = 10,
        width: PositiveInt = 64,
        norm: Literal["group", "batch"] = "group",
        moments: ChannelMoments | None = None,
    ) -> None:
        super().__init__()
        self.normalised = InputNormalization(moments)
        if len(input_shape) != 3:
            raise ConfigError(
                "model", "resnet18", f"needs images (C, H, W), samples have shape {tuple(input_shape)}", "try model=mlp"
            )
        layer = _group_norm if norm == "group" else nn.BatchNorm2d
        net: Any = _ResNet(input_shape[0], width, output_size, layer)
        self.net = net
        self.output = net.fc
        net.fc = nn.Identity()

    @property
    def feature_size(self) -> int:
        """Number of features: inputs of the output layer."""
        return int(self.output.in_features)

    def features(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> input of the output layer, (B, 8 width)."""
        features: Tensor = self.net(self.normalised(x))
        return features

    def readout(self, features: Tensor) -> Tensor:
        """(B, 8 width) -> logits (B, output_size)."""
        logits: Tensor = self.output(features)
        return logits

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> logits (B, output_size)."""
        return self.readout(self.features(x))
