"""Blurred boundaries between tasks: some samples of each come while another one is learnt."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from gr_cli.benchmarks.base import Samples, Task
from gr_cli.errors import ConfigError
from gr_cli.nn.random_streams import RandomStreams, StreamNames

_SWAP_PASSES = 32  # each lets every sample change places once, which makes any exchange about as likely as any other


def overlapping_tasks(tasks: Sequence[Task], task_overlap: float, draws: RandomStreams) -> list[Task]:
    """The tasks, which show one store as it is, with a share of their training samples exchanged at random.

    Each gives that share of its samples, and gets as many of the others' for them, none of its own. One that is larger
    than all others together gives only as many as they do. Test and validation samples stay where they are.

    Raises:
        ConfigError: there is no other task.
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
    """Which sample of the pool each place in it gets, (n,): from another giver than the one whose place it is.

    `giver` (n,) is in order, and none holds more than half of the places.
    """
    n = len(source_task)
    # Turned by the length of the longest part, no part meets itself.
    got = torch.arange(n).roll(int(torch.bincount(source_task).max()) if n else 0)
    for turn in range(_SWAP_PASSES):
        a, b = draws.permutation(StreamNames.OVERLAP_EXCHANGE, turn, n=n)[: n // 2 * 2].view(2, -1)
        fits = (source_task[got[a]] != source_task[b]) & (source_task[got[b]] != source_task[a])
        a, b = a[fits], b[fits]
        got[a], got[b] = got[b], got[a]
    return got
