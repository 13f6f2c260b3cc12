"""ResNet-18 for small images."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from torch import Tensor, nn
from torchvision.models import resnet18

from gr_cli.errors import ConfigError
from gr_cli.nn.normalization import ChannelMoments, InputNormalization
from gr_cli.types import PositiveInt


def _group_norm(channels: int) -> nn.Module:
    return nn.GroupNorm(min(32, channels // 2), channels)


class ResNet18(nn.Module):
    """ResNet-18 (He et al. 2016) from torchvision, with a stem for small images: 3x3, stride 1, no pooling.

    Args:
        input_shape: Shape (C, H, W) of an image.
        output_size: Number of output units.
        norm: Normalization layers. `group` (Wu & He 2018) has no running statistics; `batch` has, and they mix tasks.
        moments: Mean and standard deviation by which images are normalised first. `null`: they are not.
    """

    def __init__(
        self,
        input_shape: Sequence[PositiveInt] = (3, 32, 32),
        output_size: PositiveInt = 10,
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
        self.net = resnet18(num_classes=output_size, norm_layer=layer)
        self.net.conv1 = nn.Conv2d(input_shape[0], 64, 3, stride=1, padding=1, bias=False)
        self.net.maxpool = nn.Identity()
        self.output = self.net.fc
        self.net.fc = nn.Identity()

    @property
    def feature_size(self) -> int:
        """Number of features: inputs of the output layer."""
        return int(self.output.in_features)

    def features(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> input of the output layer, (B, 512)."""
        features: Tensor = self.net(self.normalised(x))
        return features

    def readout(self, features: Tensor) -> Tensor:
        """(B, 512) -> logits (B, output_size)."""
        logits: Tensor = self.output(features)
        return logits

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> logits (B, output_size)."""
        return self.readout(self.features(x))
