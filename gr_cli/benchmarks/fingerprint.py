"""What tells the samples of a benchmark from others, whatever the files are called that they come from."""

from __future__ import annotations

from torch import Tensor
from torch.utils.weak import WeakIdKeyDictionary

from gr_cli.benchmarks.base import Benchmark
from gr_cli.system.cache import digest

# The runs of a sweep share stores, and the tasks of a stream of views their labels, too: these are gone through once.
_known: WeakIdKeyDictionary = WeakIdKeyDictionary()


def fingerprint(benchmark: Benchmark) -> str:
    """A name for all samples and labels, in their tasks. How a task sees them is left out: settings and seed tell."""
    found = []
    for task in benchmark.tasks:
        for part in (task.train, task.test, task.validation):
            if part is not None:
                found += [_print(part.store), _print(part.y), "" if part.index is None else _print(part.index)]
    return digest(*found)


def _print(tensor: Tensor) -> str:
    if tensor not in _known:
        _known[tensor] = digest(tensor)
    return str(_known[tensor])
