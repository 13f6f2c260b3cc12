"""Whether the training samples of classes and tasks are distinct, by position and by content."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from gr_cli.benchmarks.base import Benchmark, Samples

_HASH_BYTES = 16


class SharedSamples(NamedTuple):
    """Training samples that are in several parts of a stream.

    Attributes:
        in_task: Samples that are twice in one task: in two classes, or the same row of the data twice.
        task: The first task with such samples; None: there is none.
        in_tasks: Samples that an earlier task has, too.
        later_task: The first task with such samples; None: there is none.
    """

    in_task: int
    task: int | None
    in_tasks: int
    later_task: int | None


def shared_samples(benchmark: Benchmark) -> SharedSamples:
    """Compare the stored training samples of all classes and tasks by their hashes, before any transform.

    Two equal samples of the same class and task are two samples, unless they are the same row of the data.
    """
    cells: dict[bytes, tuple[int, int]] = {}  # task and label in which a sample was seen first
    repeats: dict[int, int] = {}
    recurrences: dict[int, int] = {}
    for task in benchmark.tasks:
        if (rows := _repeated_rows(task.train)) > 0:
            repeats[task.id] = rows
        for digest, label in zip(_hashes(task.train), task.train.y.tolist(), strict=True):
            first_task, first_label = cells.setdefault(digest, (task.id, label))
            if first_task != task.id:
                recurrences[task.id] = recurrences.get(task.id, 0) + 1
            elif first_label != label:
                repeats[task.id] = repeats.get(task.id, 0) + 1
    return SharedSamples(
        sum(repeats.values()), min(repeats, default=None), sum(recurrences.values()), min(recurrences, default=None)
    )


def _repeated_rows(samples: Samples) -> int:
    """Number of samples whose row of the store occurs before."""
    return 0 if samples.index is None else len(samples) - len(samples.index.unique())


def _hashes(samples: Samples) -> Iterator[bytes]:
    for batch in samples.raw_batches():
        for row in np.ascontiguousarray(batch.cpu().flatten(1).numpy()):
            yield hashlib.blake2b(row, digest_size=_HASH_BYTES).digest()
