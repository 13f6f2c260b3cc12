"""Classes that come again: the samples of each are dealt out among several rounds of a stream."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from gr_cli.benchmarks.base import Samples
from gr_cli.errors import DataError
from gr_cli.nn.random_streams import Draws


def dealt(train: Samples, names: Sequence[str], rounds: int, draws: Draws, group: int) -> list[Samples]:
    """The samples of each class dealt out evenly among the rounds, the first ones getting one more.

    Raises:
        DataError: a class has fewer samples than there are rounds.
    """
    if rounds == 1:
        return [train]
    order = draws.permutation("rounds", group, n=len(train))
    nth = torch.empty_like(train.y)
    for label, name in enumerate(names):
        members = order[train.y[order] == label]
        if len(members) < rounds:
            raise DataError(
                f"benchmark.rounds={rounds}: class {name!r} has only {len(members)} training samples; try fewer rounds"
            )
        nth[members] = torch.arange(len(members)) % rounds
    return [train.at((nth == i).nonzero().squeeze(1)) for i in range(rounds)]


def called(name: str, nth: int, rounds: int) -> str:
    """The name of a task in its `nth` round."""
    return f"{name}, round {nth + 1}" if rounds > 1 else name
