"""What tells the samples of a benchmark from others, whatever the files are called that they come from."""

from __future__ import annotations

from torch import Tensor
from torch.utils.weak import WeakIdKeyDictionary

from gr_cli.benchmarks.base import Benchmark
from gr_cli.system.cache import content_hash

# The runs of a sweep share stores, and the tasks of a stream of views their labels, too: these are gone through once.
_tensor_hashes: WeakIdKeyDictionary = WeakIdKeyDictionary()


def dataset_hash(benchmark: Benchmark) -> str:
    """A name for all samples and labels, in their tasks. How a task sees them is left out: settings and seed tell."""
    found = []
    for task in benchmark.tasks:
        for part in (task.train, task.test, task.validation):
            if part is not None:
                found += [
                    _tensor_hash(part.store),
                    _tensor_hash(part.y),
                    "" if part.index is None else _tensor_hash(part.index),
                ]
    return content_hash(*found)


def _tensor_hash(tensor: Tensor) -> str:
    if tensor not in _tensor_hashes:
        _tensor_hashes[tensor] = content_hash(tensor)
    return str(_tensor_hashes[tensor])
