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


def overlapping_tasks(tasks: Sequence[Task], task_overlap: float, random_streams: RandomStreams) -> list[Task]:
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
    counts = [round(task_overlap * len(task.train)) for task in tasks]
    largest = counts.index(max(counts))
    counts[largest] = min(counts[largest], sum(counts) - counts[largest])
    given_and_kept = [
        random_streams.permutation(StreamNames.OVERLAP_SELECTION, i, n=len(task.train)).tensor_split([count])
        for i, (task, count) in enumerate(zip(tasks, counts, strict=True))
    ]
    pool = Samples.concatenate(
        [task.train.select(given) for task, (given, _) in zip(tasks, given_and_kept, strict=True)]
    )
    source_task = torch.arange(len(tasks)).repeat_interleave(torch.tensor(counts))
    receives = _exchange_permutation(source_task, random_streams).split(counts)
    overlapped = []
    for i, (task, (_, kept), received) in enumerate(zip(tasks, given_and_kept, receives, strict=True)):
        train = Samples.concatenate([task.train.select(kept.sort().values), pool.select(received)])
        origin = torch.cat([torch.full_like(kept, i), source_task[received]])
        overlapped.append(replace(task, train=train, origin_task=origin))
    return overlapped


def _exchange_permutation(source_task: Tensor, random_streams: RandomStreams) -> Tensor:
    """For each slot of the pool the sample that it receives, (n,); never one of the slot's own task.

    Args:
        source_task: Task of the sample in each slot, ascending, (n,); no task has more than half of the slots.
        random_streams: Random streams of the benchmark.
    """
    n = len(source_task)
    # Rotated by the largest count, no sample stays in a slot of its own task.
    receives = torch.arange(n).roll(int(torch.bincount(source_task).max()) if n else 0)
    for swap_pass in range(_SWAP_PASSES):
        a, b = random_streams.permutation(StreamNames.OVERLAP_EXCHANGE, swap_pass, n=n)[: n // 2 * 2].view(2, -1)
        valid = (source_task[receives[a]] != source_task[b]) & (source_task[receives[b]] != source_task[a])
        a, b = a[valid], b[valid]
        receives[a], receives[b] = receives[b], receives[a]
    return receives
