"""Data augmentation of the solver's training samples. Generators are trained on samples without augmentation."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated

import torch
import torch.nn.functional as F
from annotated_types import Ge, Le
from torch import Tensor

from gr_cli.errors import ConfigError
from gr_cli.nn.random_streams import NoiseSpec, ReplicaStreams, StreamNames
from gr_cli.types import NonNegative, NonNegativeInt

Fraction = Annotated[float, Ge(0), Le(1)]


@dataclass(frozen=True)
class Augmentation:
    """Random augmentation of the solver's training samples, current and replayed.

    Applied in the order flip, shift, contrast, brightness, noise.

    Args:
        noise: Standard deviation of Gaussian noise added to each value, in units of the data.
        shift: Largest shift of images in each direction, in pixels; the border is filled with zeros.
        flip: Probability of a horizontal flip of an image.
        brightness: Largest relative change of all values of an image; values may leave their range.
        contrast: Largest relative change of the differences from an image's mean.
    """

    noise: NonNegative = 0.0
    shift: NonNegativeInt = 0
    flip: Fraction = 0.0
    brightness: Fraction = 0.0
    contrast: Fraction = 0.0

    def check(self, shape: Sequence[int]) -> None:
        """Refuse settings that can't be applied to samples of this shape.

        Raises:
            ConfigError: An augmentation of images for other samples, or a shift larger than the image.
        """
        for name in ("shift", "flip", "brightness", "contrast"):
            if len(shape) != 3 and (value := getattr(self, name)):
                raise ConfigError(
                    f"augment.{name}",
                    value,
                    f"needs images (C, H, W), not samples of shape {tuple(shape)}",
                    f"try augment.{name}=0",
                )
        if self.shift and self.shift >= max(shape[1:]):
            size = "x".join(map(str, shape[1:]))
            raise ConfigError(
                "augment.shift", self.shift, f"shifts images of {size} pixels out of view", "try augment.shift=1"
            )

    def __call__(self, x: Tensor, streams: ReplicaStreams, task: int, step: int) -> Tensor:
        """Augmented samples (R, B, ...) for one step of a task."""

        def uniform(name: str, *more: int) -> Tensor:
            return streams.values_at(
                NoiseSpec("uniform", (x.shape[1], *more)), f"{StreamNames.AUGMENTATION}.{name}", task, step
            )

        if self.flip:
            x = flip_images(x, uniform("flip") < self.flip)
        if self.shift:
            x = shift_images(x, (uniform("shift", 2) * (2 * self.shift + 1)).long() - self.shift, self.shift)
        if self.contrast:
            mean = x.mean((-3, -2, -1), keepdim=True)
            x = mean + (x - mean) * _factors_around_one(self.contrast, uniform("contrast"))
        if self.brightness:
            x = x * _factors_around_one(self.brightness, uniform("brightness"))
        if self.noise:
            spec = NoiseSpec("normal", tuple(x.shape[1:]))
            noise = streams.values_at(spec, f"{StreamNames.AUGMENTATION}.noise", task, step)
            x = torch.add(x, noise, alpha=self.noise)
        return x


def _factors_around_one(amplitude: float, uniform: Tensor) -> Tensor:
    """Factors (..., 1, 1, 1) in [1 - amplitude, 1 + amplitude] for images."""
    return (1 + amplitude * (2 * uniform - 1))[..., None, None, None]


def flip_images(x: Tensor, flipped: Tensor) -> Tensor:
    """Images (..., C, H, W), flipped left to right where `flipped` bool (...)."""
    return torch.where(flipped[..., None, None, None], x.flip(-1), x)


def shift_images(x: Tensor, offsets: Tensor, largest: int) -> Tensor:
    """Images (..., C, H, W) shifted down and right by `offsets` (..., 2) pixels, zeros beyond the border.

    Args:
        x: Images.
        offsets: Whole numbers from -S to S.
        largest: S.
    """
    height, width = x.shape[-2:]
    padded = F.pad(x.flatten(0, -4), (largest,) * 4)  # (N, C, H + 2 S, W + 2 S)
    windows = padded.unfold(2, height, 1).unfold(3, width, 1)  # (N, C, 2 S + 1, 2 S + 1, H, W), without a copy
    down, right = (largest - offsets).flatten(0, -2).unbind(-1)
    return windows[torch.arange(len(padded), device=x.device), :, down, right].view(x.shape)
