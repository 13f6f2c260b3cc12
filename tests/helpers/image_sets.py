"""Data sets of random images in memory."""

import torch

from gr_cli.benchmarks import Samples
from gr_cli.benchmarks.sources.base import Dataset
from gr_cli.nn.sample_spec import SampleSpec


def images(shape: tuple[int, ...] = (1, 8, 8), n: int = 12, seed: int = 0) -> Dataset:
    """`n` training images of two classes, and half as many test images."""
    x = torch.rand(n, *shape, generator=torch.Generator().manual_seed(seed))
    return Dataset(
        Samples(x, torch.arange(n) % 2),
        Samples(1 - x[: n // 2], torch.arange(n // 2) % 2),
        ("a", "b"),
        SampleSpec(tuple(x.shape[1:])),
    )


class Fixed:
    """A source of a given data set."""

    def __init__(self, data: Dataset) -> None:
        self.data = data

    def load(self) -> Dataset:
        return self.data
