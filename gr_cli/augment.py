"""What is done at random to the samples that the solver learns; generators see them as they are."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from gr_cli.checks import Count, NonNegative
from gr_cli.randomness import Noise, Streams


@dataclass(frozen=True)
class Augment:
    """Random changes of training samples, current and replayed ones alike.

    Args:
        noise: standard deviation of the Gaussian noise that is added, in units of the data.
        shift: images are shifted by up to so many pixels each way; what comes in is zero.
    """

    noise: NonNegative = 0.0
    shift: Count = 0

    def __call__(self, x: Tensor, streams: Streams, task: int, step: int) -> Tensor:
        """Samples (R, B, ...) as the solver sees them in that step of the task."""
        if self.shift:
            wanted = Noise("uniform", (x.shape[1], 2))
            uniform = streams.rows(wanted, "augment.shift", task, step)
            x = shifted(x, (uniform * (2 * self.shift + 1)).long() - self.shift)
        if self.noise:
            wanted = Noise("normal", tuple(x.shape[1:]))
            x = x + self.noise * streams.rows(wanted, "augment.noise", task, step)
        return x


def shifted(x: Tensor, by: Tensor) -> Tensor:
    """Images (..., C, H, W) moved down and right by the pixels in `by` (..., 2)."""
    for axis in (0, 1):
        size = x.shape[axis - 2]
        source = torch.arange(size, device=x.device) - by[..., axis : axis + 1]  # (..., H) or (..., W)
        inside = (source >= 0) & (source < size)
        shape = (*source.shape[:-1], 1, size, 1) if axis == 0 else (*source.shape[:-1], 1, 1, size)
        index = source.clamp(0, size - 1).view(shape).expand_as(x)
        x = x.gather(axis - 2, index) * inside.view(shape)
    return x
