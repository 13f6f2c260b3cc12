"""Blurred boundaries between tasks: some samples of each come while another one is learnt."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from gr_cli.benchmarks.base import Samples, Task
from gr_cli.errors import ConfigError
from gr_cli.nn.random_streams import Draws

_TURNS = 32  # each lets every sample change places once, which makes any exchange about as likely as any other


def blurred(tasks: Sequence[Task], share: float, draws: Draws) -> list[Task]:
    """The tasks, which show one store as it is, with a share of their training samples exchanged at random.

    Each gives that share of its samples, and gets as many of the others' for them, none of its own. One that is larger
    than all others together gives only as many as they do. Test and validation samples stay where they are.

    Raises:
        ConfigError: there is no other task.
    """
    if share == 0:
        return list(tasks)
    if len(tasks) == 1:
        raise ConfigError(
            "benchmark.blur", share, "exchanges samples between tasks, and there is only one", "try benchmark.blur=0"
        )
    numbers = [round(share * len(task.train)) for task in tasks]
    largest = numbers.index(max(numbers))
    numbers[largest] = min(numbers[largest], sum(numbers) - numbers[largest])
    parts = [
        draws.permutation("blur.given", i, n=len(task.train)).tensor_split([number])
        for i, (task, number) in enumerate(zip(tasks, numbers, strict=True))
    ]
    pool = Samples.concatenated([task.train.at(given) for task, (given, _) in zip(tasks, parts, strict=True)])
    giver = torch.arange(len(tasks)).repeat_interleave(torch.tensor(numbers))
    got = _exchange(giver, draws).split(numbers)
    found = []
    for i, (task, (_, kept), received) in enumerate(zip(tasks, parts, got, strict=True)):
        train = Samples.concatenated([task.train.at(kept.sort().values), pool.at(received)])
        origin = torch.cat([torch.full_like(kept, i), giver[received]])
        found.append(replace(task, train=train, origin=origin))
    return found


def _exchange(giver: Tensor, draws: Draws) -> Tensor:
    """Which sample of the pool each place in it gets, (n,): from another giver than the one whose place it is.

    `giver` (n,) is in order, and none holds more than half of the places.
    """
    n = len(giver)
    # Turned by the length of the longest part, no part meets itself.
    got = torch.arange(n).roll(int(torch.bincount(giver).max()) if n else 0)
    for turn in range(_TURNS):
        a, b = draws.permutation("blur.exchange", turn, n=n)[: n // 2 * 2].view(2, -1)
        fits = (giver[got[a]] != giver[b]) & (giver[got[b]] != giver[a])
        a, b = a[fits], b[fits]
        got[a], got[b] = got[b], got[a]
    return got
