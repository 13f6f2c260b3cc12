"""Blurry task boundaries: some training samples are exchanged between tasks (Aljundi et al. 2019)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from gr_cli.benchmarks.base import Samples, Task
from gr_cli.errors import ConfigError
from gr_cli.nn.random_streams import RandomStreams, StreamNames

_SWAP_PASSES = 32  # random swaps of every sample, enough for a nearly uniform exchange


def overlapping_tasks(tasks: Sequence[Task], task_overlap: float, draws: RandomStreams) -> list[Task]:
    """The tasks, with a random share of their training samples exchanged for samples of other tasks.

    Each task gives `task_overlap` of its samples and receives as many, none of them its own. A task that is larger than
    all others together gives only as many as they do. Test and validation samples are unchanged.

    Args:
        tasks: Tasks over one store, without transforms.
        task_overlap: Share of each task's training samples, in [0, 1).
        random_streams: Random streams of the benchmark.

    Raises:
        ConfigError: There is only one task.
    """
    if task_overlap == 0:
        return list(tasks)
    if len(tasks) == 1:
        raise ConfigError(
            "benchmark.task_overlap",
            task_overlap,
            "exchanges samples between tasks, and there is only one",
            "try benchmark.task_overlap=0",
        )
    numbers = [round(task_overlap * len(task.train)) for task in tasks]
    largest = numbers.index(max(numbers))
    numbers[largest] = min(numbers[largest], sum(numbers) - numbers[largest])
    parts = [
        draws.permutation(StreamNames.OVERLAP_SELECTION, i, n=len(task.train)).tensor_split([number])
        for i, (task, number) in enumerate(zip(tasks, numbers, strict=True))
    ]
    pool = Samples.concatenate([task.train.select(given) for task, (given, _) in zip(tasks, parts, strict=True)])
    giver = torch.arange(len(tasks)).repeat_interleave(torch.tensor(numbers))
    got = _exchange_permutation(giver, draws).split(numbers)
    found = []
    for i, (task, (_, kept), received) in enumerate(zip(tasks, parts, got, strict=True)):
        train = Samples.concatenate([task.train.select(kept.sort().values), pool.select(received)])
        origin = torch.cat([torch.full_like(kept, i), giver[received]])
        found.append(replace(task, train=train, origin_task=origin))
    return found


def _exchange_permutation(source_task: Tensor, draws: RandomStreams) -> Tensor:
    """For each slot of the pool the sample that it receives, (n,); never one of the slot's own task.

    Args:
        source_task: Task of the sample in each slot, ascending, (n,); no task has more than half of the slots.
        random_streams: Random streams of the benchmark.
    """
    n = len(source_task)
    # Rotated by the largest count, no sample stays in a slot of its own task.
    got = torch.arange(n).roll(int(torch.bincount(source_task).max()) if n else 0)
    for turn in range(_SWAP_PASSES):
        a, b = draws.permutation(StreamNames.OVERLAP_EXCHANGE, turn, n=n)[: n // 2 * 2].view(2, -1)
        fits = (source_task[got[a]] != source_task[b]) & (source_task[got[b]] != source_task[a])
        a, b = a[fits], b[fits]
        got[a], got[b] = got[b], got[a]
    return got
