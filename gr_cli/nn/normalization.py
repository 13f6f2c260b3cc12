"""Normalization of samples by channel."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn


@dataclass(frozen=True)
class ChannelMoments:
    """Mean and standard deviation of each channel of images, or of each entry of vectors.

    Attributes:
        mean: Means.
        deviation: Standard deviations.
        num_axes: Number of axes of a sample: 3 for images (C, H, W).
    """

    mean: Sequence[float]
    deviation: Sequence[float]
    num_axes: int


class InputNormalization(nn.Module):
    """Subtract a mean and divide by a standard deviation, by channel.

    Args:
        moments: Means and standard deviations, stored as buffers; None: samples are not changed.
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
        """Samples (B, ...), or (R, B, ...) if the buffers have a replica axis."""
        if self.num_axes == 0:
            return x
        batch = -self.num_axes - 1
        return (x - self.mean.unsqueeze(batch)) / self.deviation.unsqueeze(batch)
