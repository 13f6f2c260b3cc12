"""Small U-Net for images, with group normalization, conditional on a vector (Ronneberger et al. 2015)."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

_NUM_GROUPS = (8, 4, 2)  # of channels that are normalized together


def _group_norm(channels: int) -> nn.GroupNorm:
    # At least two channels in a group: the smallest feature maps have one position.
    groups = next((n for n in _NUM_GROUPS if channels % n == 0 and channels // n >= 2), 1)
    return nn.GroupNorm(groups, channels)


class ResidualBlock(nn.Module):
    """Two 3x3 convolutions with a shortcut; between them, each channel is scaled and shifted by the condition.

    Args:
        inputs: Input channels.
        outputs: Output channels.
        condition_size: Length of the condition.
    """

    def __init__(self, inputs: int, outputs: int, condition_size: int) -> None:
        super().__init__()
        self.norms = nn.ModuleList([_group_norm(inputs), _group_norm(outputs)])
        self.convolutions = nn.ModuleList(nn.Conv2d(n, outputs, 3, padding=1) for n in (inputs, outputs))
        self.modulation = nn.Linear(condition_size, 2 * outputs)
        self.shortcut = nn.Identity() if inputs == outputs else nn.Conv2d(inputs, outputs, 1)

    def forward(self, x: Tensor, condition: Tensor) -> Tensor:
        """Feature maps (B, inputs, H, W) and condition (B, E) to (B, outputs, H, W)."""
        h = self.convolutions[0](F.silu(self.norms[0](x)))
        scale, shift = self.modulation(condition)[..., None, None].chunk(2, dim=-3)
        h = self.convolutions[1](F.silu(self.norms[1](h) * (1 + scale) + shift))
        output: Tensor = self.shortcut(x) + h
        return output


class UNet(nn.Module):
    """Image to image of the same shape, conditional on a vector; images of any size, padded with zeros inside.

    Args:
        depth: Channels of the images.
        channels: Channels of each level, largest feature maps first. Each level has half the height and width of the
            level before.
        patch_size: Height and width of the image patches that are one position of the first level.
        condition_size: Length of the condition.
    """

    def __init__(self, depth: int, channels: Sequence[int], patch_size: int, condition_size: int) -> None:
        super().__init__()
        self.patch_size, self._multiple = patch_size, patch_size * 2 ** (len(channels) - 1)
        values = depth * patch_size**2  # of a patch
        steps = list(pairwise(channels))
        self.input = nn.Conv2d(values, channels[0], 3, padding=1)
        self.encoder = nn.ModuleList(ResidualBlock(n, n, condition_size) for n in channels)
        self.down = nn.ModuleList(nn.Conv2d(a, b, 3, stride=2, padding=1) for a, b in steps)
        self.middle = ResidualBlock(channels[-1], channels[-1], condition_size)
        self.up = nn.ModuleList(nn.Conv2d(b, a, 3, padding=1) for a, b in steps)
        self.decoder = nn.ModuleList(ResidualBlock(2 * a, a, condition_size) for a, _ in steps)
        self.norm = _group_norm(channels[0])
        self.output = nn.Conv2d(channels[0], values, 3, padding=1)

    def forward(self, x: Tensor, condition: Tensor) -> Tensor:
        """Images (B, C, H, W) and conditions (B, E) to (B, C, H, W)."""
        height, width = x.shape[-2:]
        x = F.pad(x, (0, -width % self._multiple, 0, -height % self._multiple))
        h = self.input(F.pixel_unshuffle(x, self.patch_size))
        skipped = []
        for level, block in enumerate(self.encoder):
            h = block(h, condition)
            if level < len(self.down):
                skipped.append(h)
                h = self.down[level](h)
        h = self.middle(h, condition)
        for up, block, skip in reversed(list(zip(self.up, self.decoder, skipped, strict=True))):
            h = up(F.interpolate(h, scale_factor=2.0, mode="nearest"))
            h = block(torch.cat([h, skip], -3), condition)
        out = F.pixel_shuffle(self.output(F.silu(self.norm(h))), self.patch_size)
        return out[..., :height, :width]
