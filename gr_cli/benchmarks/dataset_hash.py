"""A hash of a benchmark's samples, independent of file names."""

from __future__ import annotations

from torch import Tensor
from torch.utils.weak import WeakIdKeyDictionary

from gr_cli.benchmarks.base import Benchmark
from gr_cli.system.cache import content_hash

# Hashes by tensor: runs of a sweep share stores, and transformed tasks share labels.
_tensor_hashes: WeakIdKeyDictionary = WeakIdKeyDictionary()


def dataset_hash(benchmark: Benchmark) -> str:
    """Hash of all stored samples and labels by task.

    Transforms are left out: settings and seed determine them.
    """
    hashes = []
    for task in benchmark.tasks:
        for split in (task.train, task.test, task.validation):
            if split is not None:
                hashes += [
                    _tensor_hash(split.store),
                    _tensor_hash(split.y),
                    "" if split.index is None else _tensor_hash(split.index),
                ]
    return content_hash(*hashes)


def _tensor_hash(tensor: Tensor) -> str:
    if tensor not in _tensor_hashes:
        _tensor_hashes[tensor] = content_hash(tensor)
    return str(_tensor_hashes[tensor])
