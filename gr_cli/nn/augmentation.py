"""What is done at random to the samples that the solver learns; generators see them as they are."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated

import torch
from annotated_types import Ge, Le
from torch import Tensor

from gr_cli.errors import ConfigError
from gr_cli.nn.random_streams import NoiseSpec, ReplicaStreams
from gr_cli.types import NonNegative, NonNegativeInt

Fraction = Annotated[float, Ge(0), Le(1)]


@dataclass(frozen=True)
class Augmentation:
    """Random changes of training samples, current and replayed ones alike, in this order.

    Args:
        flip: part of the images that are mirrored, left to right.
        shift: images are shifted by up to so many pixels each way; what comes in is zero.
        contrast: differences from the mean of an image become up to this part larger or smaller.
        brightness: all its values become up to this part larger or smaller. They may leave their range.
        noise: standard deviation of the Gaussian noise that is added, in units of the data.
    """

    noise: NonNegative = 0.0
    shift: NonNegativeInt = 0
    flip: Fraction = 0.0
    brightness: Fraction = 0.0
    contrast: Fraction = 0.0

    def check(self, shape: Sequence[int]) -> None:
        """Refuse what makes no sense for samples of that shape.

        Raises:
            ConfigError: says what.
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
                "augment.shift", self.shift, f"moves images of {size} pixels out of sight", "try augment.shift=1"
            )

    def __call__(self, x: Tensor, streams: ReplicaStreams, task: int, step: int) -> Tensor:
        """Samples (R, B, ...) as the solver sees them in that step of the task."""

        def uniform(name: str, *more: int) -> Tensor:
            return streams.values_at(NoiseSpec("uniform", (x.shape[1], *more)), f"augment.{name}", task, step)

        if self.flip:
            x = flip_images(x, uniform("flip") < self.flip)
        if self.shift:
            x = shift_images(x, (uniform("shift", 2) * (2 * self.shift + 1)).long() - self.shift)
        if self.contrast:
            mean = x.mean((-3, -2, -1), keepdim=True)
            x = mean + (x - mean) * _factors_around_one(self.contrast, uniform("contrast"))
        if self.brightness:
            x = x * _factors_around_one(self.brightness, uniform("brightness"))
        if self.noise:
            x = x + self.noise * streams.values_at(NoiseSpec("normal", tuple(x.shape[1:])), "augment.noise", task, step)
        return x


def _factors_around_one(part: float, uniform: Tensor) -> Tensor:
    """Factors from 1 - part to 1 + part for images: (..., 1, 1, 1)."""
    return (1 + part * (2 * uniform - 1))[..., None, None, None]


def flip_images(x: Tensor, flipped: Tensor) -> Tensor:
    """Images (..., C, H, W), those of `which` bool (...) left to right."""
    return torch.where(flipped[..., None, None, None], x.flip(-1), x)


def shift_images(x: Tensor, offsets: Tensor) -> Tensor:
    """Images (..., C, H, W) moved down and right by the pixels in `by` (..., 2)."""
    for axis in (0, 1):
        size = x.shape[axis - 2]
        source = torch.arange(size, device=x.device) - offsets[..., axis : axis + 1]  # (..., H) or (..., W)
        inside = (source >= 0) & (source < size)
        shape = (*source.shape[:-1], 1, size, 1) if axis == 0 else (*source.shape[:-1], 1, 1, size)
        index = source.clamp(0, size - 1).view(shape).expand_as(x)
        x = x.gather(axis - 2, index) * inside.view(shape)
    return x
