from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Annotated

import torch
import torch.nn.functional as F
from annotated_types import Le
from torch import Tensor

from gr_cli.benchmarks.base import Benchmark, Kind, Task, hold_out
from gr_cli.benchmarks.sources import Source, load
from gr_cli.checks import Count, PositiveInt, Share
from gr_cli.errors import DataError
from gr_cli.randomness import Draws


@dataclass(frozen=True)
class Permute:
    """Pads images with zeros and puts their pixels into another order: `order` (H', W' flattened,)."""

    order: Tensor
    pad: int

    def to(self, device: torch.device) -> Permute:
        """The same view for samples on `device`."""
        return Permute(self.order.to(device), self.pad)

    def __call__(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, C, H + 2 pad, W + 2 pad)."""
        padded = F.pad(x, (self.pad,) * 4)
        return padded.flatten(2)[..., self.order].view(padded.shape)


def permuted(
    source: Source,
    seed: int,
    tasks: Annotated[PositiveInt, Le(1000)] = 10,
    pad: Count = 2,
    validation_share: Share = 0.0,
) -> Benchmark:
    """The same images in every task, their pixels in an order of the task's own, in the first task too.

    Args:
        source: where the samples come from.
        seed: of the permutations and of what is held out.
        tasks: how many tasks; all share the stored images.
        pad: zero pixels added on each side before permuting (28x28 becomes 32x32 with 2).
        validation_share: part of each class's training samples that is held out for validation.
    """
    data, draws = load(source), Draws(seed)
    train, validation = hold_out(data.train, validation_share, draws, 0)
    image = tuple(data.train.store.shape[1:])
    if len(image) != 3:
        raise DataError(f"benchmark.source: permuted tasks need images (C, H, W), not samples of shape {image}")
    channels, height, width = image
    shape = (channels, height + 2 * pad, width + 2 * pad)
    stream = []
    for i in range(tasks):
        view = Permute(draws.permutation("permutation", i, n=shape[1] * shape[2]), pad)
        held_out = None if validation is None else replace(validation, transform=view)
        stream.append(
            Task(
                i,
                f"permutation {i}",
                data.classes,
                replace(train, transform=view),
                replace(data.test, transform=view),
                held_out,
            )
        )
    return Benchmark(tuple(stream), Kind(shape, data.value_range, data.trials))
