"""Class-conditional flow matching of images with a small U-Net."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gr_cli.config.arguments import validate_arguments
from gr_cli.errors import ConfigError
from gr_cli.generators.flow import TIME_FEATURES, StraightFlow, time_features
from gr_cli.nn.sample_spec import SampleSpec
from gr_cli.nn.unet import UNet
from gr_cli.types import LayerSizes, PositiveInt


class ConvFlowMatching(StraightFlow):
    """Flow matching of images with a U-Net, conditional on the class (Lipman et al. 2023; Liu et al. 2023).

    The network predicts the velocity x - z from x_t = (1 - t) z + t x, with z from N(0, I), by least squares. Sampling
    integrates it from z at t = 0 to t = 1 by Heun's method in a few steps. Time and class scale and shift the channels
    of every block; normalization is by groups of channels of one image.

    Args:
        spec: Shape (C, H, W) and value range of an image, or the shape alone for values in [0, 1].
        num_classes: Number of classes; labels are 0 to `num_classes` - 1.
        channels: Channels of each level of the U-Net, first to last; each level halves height and width.
        patch_size: Height and width of the patches that are one position of the first level. 2 takes a quarter of the
            time of 1.
        steps: Integration steps from noise to sample. Each but the last evaluates the network twice.
    """

    @validate_arguments
    def __init__(
        self,
        spec: SampleSpec | Sequence[PositiveInt] = (1, 28, 28),
        num_classes: PositiveInt = 10,
        channels: LayerSizes = (32, 64),
        patch_size: PositiveInt = 2,
        steps: PositiveInt = 8,
    ) -> None:
        super().__init__()
        self.spec, self.num_classes, self.steps = SampleSpec.coerce(spec), num_classes, steps
        if not self.spec.is_image:
            raise ConfigError(
                "generator",
                "conv_flow",
                f"needs images (C, H, W), samples have shape {self.spec.shape}",
                "try generator=flow",
            )
        if not channels:
            raise ConfigError("generator.channels", list(channels), "needs at least one level")
        size = 2 * channels[-1]
        self.class_embedding = nn.Embedding(num_classes, size)
        self.time_embedding = nn.Sequential(nn.Linear(TIME_FEATURES, size), nn.SiLU(), nn.Linear(size, size))
        self.network = UNet(self.spec.shape[0], channels, patch_size, size)
        self.register_buffer("learned_classes", torch.zeros(num_classes, dtype=torch.bool))

    def predict(self, x: Tensor, time: Tensor, labels: Tensor) -> Tensor:
        condition = F.silu(self.time_embedding(time_features(time)) + self.class_embedding(labels))
        predicted: Tensor = self.network(x.unflatten(-1, self.spec.shape), condition)
        return predicted.flatten(-3).to(x.dtype)

    def regression_target(self, x: Tensor, z: Tensor) -> Tensor:
        return x - z

    def velocity(self, x: Tensor, time: Tensor, labels: Tensor) -> Tensor:
        return self.predict(x, time, labels)
