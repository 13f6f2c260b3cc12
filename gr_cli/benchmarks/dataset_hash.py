"""A hash of a benchmark's samples, independent of file names."""

from __future__ import annotations

from gr_cli.benchmarks.base import Benchmark
from gr_cli.system.cache import content_hash, tensor_hash


def dataset_hash(benchmark: Benchmark) -> str:
    """Hash of all stored samples and labels by task.

    Transforms are left out: settings and seed determine them.
    """
    hashes = []
    for task in benchmark.tasks:
        for split in (task.train, task.test, task.validation):
            if split is not None:
                hashes += [
                    tensor_hash(split.store),
                    tensor_hash(split.y),
                    "" if split.index is None else tensor_hash(split.index),
                ]
    return content_hash(*hashes)
