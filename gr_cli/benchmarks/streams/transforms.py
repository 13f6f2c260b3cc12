"""Streams whose tasks are views of the same images: nothing is stored but what makes a view."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

from torch import Tensor

from gr_cli.benchmarks.base import Benchmark, Task, hold_out
from gr_cli.benchmarks.sources.base import Data
from gr_cli.benchmarks.streams.rounds import called, dealt
from gr_cli.errors import DataError
from gr_cli.nn.random_streams import Draws

Shape = tuple[int, int, int]


def image_shape(data: Data, what: str) -> Shape:
    """(C, H, W) of the samples of `data`.

    Raises:
        DataError: they are no images, which `what` needs.
    """
    shape = data.spec.shape
    if len(shape) != 3:
        raise DataError(
            f"benchmark.source: {what} tasks need images (C, H, W), not samples of shape {shape}; "
            "name a source of images"
        )
    return shape


View = Callable[[Tensor], Tensor]


def seen_as(
    data: Data,
    views: Sequence[tuple[str, View]],
    shape: Shape,
    validation_share: float,
    draws: Draws,
    rounds: int = 1,
) -> Benchmark:
    """A task for each view and its name: all samples of `data`, seen so, as images of `shape`. With `rounds` all views
    come so often, each time with other training samples."""
    train, validation = hold_out(data.train, validation_share, draws, 0)
    tasks = [
        Task(
            nth * len(views) + i,
            called(name, nth, rounds),
            data.classes,
            replace(part, transform=view),
            replace(data.test, transform=view),
            None if validation is None else replace(validation, transform=view),
            repeats=i if nth else None,
        )
        for nth, part in enumerate(dealt(train, data.classes, rounds, draws, 0))
        for i, (name, view) in enumerate(views)
    ]
    return Benchmark(tuple(tasks), replace(data.spec, shape=shape))
