"""The classes of a benchmark as an evaluation tells them apart, whatever the scenario calls them."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from gr_cli.benchmarks.base import Benchmark


@dataclass(frozen=True)
class Classes:
    """What there is to tell apart in a benchmark: a class of one data set in one view of it is the same in all tasks.

    `first` (C,): the first task that has it. `units` bool (C, U): the output units that stand for it.
    `of`: for each task, the numbers (k,) of its classes in the order of their labels.
    """

    first: Tensor
    units: Tensor
    of: tuple[Tensor, ...]

    def __len__(self) -> int:
        return len(self.first)


def classes_of(benchmark: Benchmark, offsets: list[int], units: int) -> Classes:
    """The classes of a benchmark whose tasks' labels begin at `offsets`, of so many output units.

    Their numbers do not depend on the order in which a data set's classes come.
    """
    views = _views(benchmark)
    keys = [[(view, name) for name in task.classes] for view, task in zip(views, benchmark.tasks, strict=True)]
    numbers = {key: i for i, key in enumerate(sorted({key for mine in keys for key in mine}))}
    of = [[numbers[key] for key in mine] for mine in keys]
    first = [next(t for t, mine in enumerate(of) if number in mine) for number in range(len(numbers))]
    table = torch.zeros(len(numbers), units, dtype=torch.bool)
    for offset, mine in zip(offsets, of, strict=True):
        table[mine, range(offset, offset + len(mine))] = True
    device = benchmark.tasks[0].train.y.device
    return Classes(torch.tensor(first).to(device), table.to(device), tuple(torch.tensor(m).to(device) for m in of))


def _views(benchmark: Benchmark) -> list[int]:
    """For each task, which view of which samples it has, counted as they come."""
    numbers: dict[tuple[int, int], int] = {}
    found: list[int] = []
    for task in benchmark.tasks:
        if task.repeats is not None:
            found.append(found[task.repeats])
            continue
        key = (id(task.train.store), id(task.train.transform))
        found.append(numbers.setdefault(key, len(numbers)))
    return found
