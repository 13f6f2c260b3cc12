"""Convolutional stacks shared by models, generators and feature extractors."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch.nn.functional as F
from torch import Tensor, nn

from gr_cli.nn.initialization import init_he_

_MIN_MAP_SIZE = 2  # smallest height and width of feature maps
_MAX_CHANNELS = 256


def build_convolutions(channels: Sequence[int]) -> nn.ModuleList:
    """3x3 convolutions between consecutive numbers of channels, all but the first with stride 2."""
    return nn.ModuleList(
        nn.Conv2d(a, b, 3, stride=1 if i == 0 else 2, padding=1) for i, (a, b) in enumerate(pairwise(channels))
    )


def match_image_shape(x: Tensor, shape: Sequence[int]) -> Tensor:
    """Images (B, C, H, W) resized to `shape` (C, H, W); other numbers of channels become grey."""
    depth, *size = shape
    if x.shape[1] != depth:
        x = x.mean(1, keepdim=True).expand(-1, depth, -1, -1)
    return x if list(x.shape[2:]) == size else F.interpolate(x, size, mode="bilinear", antialias=True)


class Convolutions(nn.Module):
    """3x3 convolutions with ReLU, all but the first with stride 2: (B, C, H, W) -> (B, F)."""

    def __init__(self, depth: int, channels: Sequence[int]) -> None:
        super().__init__()
        self.convolutions = build_convolutions([depth, *channels])
        init_he_(*self.convolutions)

    def forward(self, x: Tensor) -> Tensor:
        for convolution in self.convolutions:
            x = F.relu(convolution(x), inplace=True)
        return x.flatten(1)


def doubling_channels(height: int, width: int) -> list[int]:
    """Channels 16, 32, ... doubled with each halving of the image, to maps of 2 pixels or 256 channels."""
    channels, side = [16], min(height, width)
    while (side + 1) // 2 >= _MIN_MAP_SIZE and side > _MIN_MAP_SIZE:
        side = (side + 1) // 2
        channels.append(min(2 * channels[-1], _MAX_CHANNELS))
    return channels
