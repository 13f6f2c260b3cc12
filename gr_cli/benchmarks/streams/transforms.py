"""Streams whose tasks apply different transforms to the same images; only the transforms are stored."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

from torch import Tensor

from gr_cli.benchmarks.base import Benchmark, Task, hold_out
from gr_cli.benchmarks.sources.base import Dataset
from gr_cli.benchmarks.streams.repetitions import round_name, split_into_rounds
from gr_cli.errors import DataError
from gr_cli.nn.random_streams import RandomStreams

Shape = tuple[int, int, int]


def image_shape(data: Dataset, stream_name: str) -> Shape:
    """(C, H, W) of the samples of `data`.

    Raises:
        DataError: The samples are not images, which the stream `stream_name` needs.
    """
    shape = data.spec.shape
    if len(shape) != 3:
        raise DataError(
            f"benchmark.source: {stream_name} tasks need images (C, H, W), not samples of shape {shape}; "
            "name a source of images"
        )
    return shape


SampleTransform = Callable[[Tensor], Tensor]


def transformed_tasks(
    data: Dataset,
    transforms: Sequence[tuple[str, SampleTransform]],
    shape: Shape,
    validation_share: float,
    random_streams: RandomStreams,
    repetitions: int = 1,
) -> Benchmark:
    """A benchmark with one task per transform, each over all samples of `data`.

    Args:
        data: Data set that the tasks share.
        transforms: Name and transform of each task.
        shape: (C, H, W) after the transform.
        validation_share: Share of each class's training samples that is held out for validation.
        random_streams: Random streams of the benchmark.
        repetitions: Rounds through all tasks, each with other training samples.
    """
    train, validation = hold_out(data.train, validation_share, random_streams, 0)
    tasks = [
        Task(
            round_index * len(transforms) + i,
            round_name(name, round_index, repetitions),
            data.classes,
            replace(samples, transform=transform),
            replace(data.test, transform=transform),
            None if validation is None else replace(validation, transform=transform),
            repeated_task=i if round_index else None,
        )
        for round_index, samples in enumerate(split_into_rounds(train, data.classes, repetitions, random_streams, 0))
        for i, (name, transform) in enumerate(transforms)
    ]
    return Benchmark(
        tuple(tasks), replace(data.spec, shape=shape), data.shared_fits, files=data.files,
        classes_follow_labels=data.classes_follow_labels, format_follows_samples=data.format_follows_samples,
    )  # fmt: skip
