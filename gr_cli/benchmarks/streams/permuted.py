from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import torch
import torch.nn.functional as F
from annotated_types import Le
from torch import Tensor

from gr_cli.benchmarks.base import Benchmark
from gr_cli.benchmarks.sources.base import Source
from gr_cli.benchmarks.sources.load import load_dataset
from gr_cli.benchmarks.streams.transforms import image_shape, transformed_tasks
from gr_cli.config.arguments import validate_arguments
from gr_cli.nn.random_streams import RandomStreams, StreamNames
from gr_cli.types import FractionBelowOne, NonNegativeInt, PositiveInt


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


@validate_arguments
def permuted(
    source: Source,
    seed: int,
    tasks: Annotated[PositiveInt, Le(1000)] = 10,
    pad: NonNegativeInt = 2,
    repetitions: PositiveInt = 1,
    validation_share: FractionBelowOne = 0.0,
) -> Benchmark:
    """The same images in every task, their pixels in an order of the task's own, in the first task too.

    Args:
        source: where the samples come from.
        seed: of the permutations and of what is held out.
        tasks: how many tasks; all share the stored images.
        pad: zero pixels added on each side before permuting (28x28 becomes 32x32 with 2).
        rounds: how often all tasks come, each time with other samples: each class's training samples are dealt out
            evenly.
        validation_share: part of each class's training samples that is held out for validation.
    """
    data, draws = load_dataset(source), RandomStreams(seed)
    channels, height, width = image_shape(data, "permuted")
    shape = (channels, height + 2 * pad, width + 2 * pad)
    views = [
        (f"permutation {i}", Permute(draws.permutation(StreamNames.PIXEL_PERMUTATION, i, n=shape[1] * shape[2]), pad))
        for i in range(tasks)
    ]
    return transformed_tasks(data, views, shape, validation_share, draws, repetitions)
