"""Normalization of samples by channel."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn


@dataclass(frozen=True)
class ChannelMoments:
    """Mean and deviation of each channel of images, or of each entry of vectors; samples have so many `axes`."""

    mean: Sequence[float]
    deviation: Sequence[float]
    num_axes: int


class InputNormalization(nn.Module):
    """Samples less a mean, divided by a deviation, by channel; without `moments` they stay as they are.

    Args:
        moments: the means and deviations. They are part of the network's state.
    """

    mean: Tensor
    deviation: Tensor

    def __init__(self, moments: ChannelMoments | None) -> None:
        super().__init__()
        self.num_axes = 0 if moments is None else moments.num_axes
        if moments is not None:
            shape = (-1, *[1] * (moments.num_axes - 1))
            self.register_buffer("mean", torch.tensor(moments.mean).view(shape))
            self.register_buffer("deviation", torch.tensor(moments.deviation).view(shape))

    def forward(self, x: Tensor) -> Tensor:
        """Samples (B, ...), or (R, B, ...) where the moments have a leading replica axis."""
        if self.num_axes == 0:
            return x
        batch = -self.num_axes - 1
        return (x - self.mean.unsqueeze(batch)) / self.deviation.unsqueeze(batch)
