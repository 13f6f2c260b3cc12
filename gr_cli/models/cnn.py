"""Small convolutional network."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated

import torch.nn.functional as F
from torch import Tensor, nn

from gr_cli.errors import ConfigError
from gr_cli.nn.convolutions import build_convolutions
from gr_cli.nn.layers import dropout
from gr_cli.nn.normalization import ChannelMoments, InputNormalization
from gr_cli.nn.random_streams import NoiseSpec
from gr_cli.types import FractionBelowOne, LayerSizes, PositiveInt, VariesPerReplica


class CNN(nn.Module):
    """Convolutional network: 3x3 convolutions and one fully connected hidden layer.

    All convolutions but the first have stride 2. It has no batch normalization: the output depends on parameters and
    input alone.

    Args:
        input_shape: Shape (C, H, W) of an image.
        output_size: Number of output units.
        channels: Output channels of each convolution, first to last.
        hidden_size: Width of the fully connected hidden layer.
        dropout: Probability that a unit of the fully connected layer is zeroed during training.
        moments: Mean and standard deviation by which images are normalised first. `null`: they are not.
    """

    def __init__(
        self,
        input_shape: Sequence[PositiveInt] = (1, 28, 28),
        output_size: PositiveInt = 10,
        channels: LayerSizes = (32, 64),
        hidden_size: PositiveInt = 128,
        dropout: Annotated[FractionBelowOne, VariesPerReplica] = 0.0,
        moments: ChannelMoments | None = None,
    ) -> None:
        super().__init__()
        self.normalised = InputNormalization(moments)
        if len(input_shape) != 3:
            raise ConfigError(
                "model", "cnn", f"needs images (C, H, W), samples have shape {tuple(input_shape)}", "try model=mlp"
            )
        if not channels:
            raise ConfigError("model.channels", list(channels), "needs at least one convolution")
        depth, height, width = input_shape
        widths = [depth, *channels]
        self.convolutions = build_convolutions(widths)
        for _ in channels[1:]:
            height, width = (height + 1) // 2, (width + 1) // 2
        self.hidden = nn.Linear(widths[-1] * height * width, hidden_size)
        self.output = nn.Linear(hidden_size, output_size)
        self.dropout = dropout

    def training_noise(self, batch_size: int) -> dict[str, NoiseSpec]:
        """The noise of dropout: one uniform number per unit of the hidden layer and sample."""
        return {"hidden": NoiseSpec("uniform", (batch_size, self.hidden.out_features))} if self.dropout else {}

    @property
    def feature_size(self) -> int:
        """Number of features: inputs of the output layer."""
        return self.output.in_features

    def features(self, x: Tensor, noise: Mapping[str, Tensor] | None = None) -> Tensor:
        """(B, C, H, W) -> input of the output layer, (B, hidden_size)."""
        x = self.normalised(x)
        for convolution in self.convolutions:
            x = F.relu(convolution(x))
        return dropout(F.relu(self.hidden(x.flatten(1))), noise, "hidden", self.dropout)

    def readout(self, features: Tensor) -> Tensor:
        """(B, hidden_size) -> logits (B, output_size)."""
        logits: Tensor = self.output(features)
        return logits

    def forward(self, x: Tensor, noise: Mapping[str, Tensor] | None = None) -> Tensor:
        """(B, C, H, W) -> logits (B, output_size)."""
        return self.readout(self.features(x, noise))
