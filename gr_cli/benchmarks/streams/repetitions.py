"""Classes that come again: the samples of each are dealt out among several rounds of a stream."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from gr_cli.benchmarks.base import Samples
from gr_cli.errors import DataError
from gr_cli.nn.random_streams import RandomStreams, StreamNames


def split_into_rounds(
    train: Samples, names: Sequence[str], repetitions: int, draws: RandomStreams, group: int
) -> list[Samples]:
    """The samples of each class dealt out evenly among the rounds, the first ones getting one more.

    Raises:
        DataError: a class has fewer samples than there are rounds.
    """
    if repetitions == 1:
        return [train]
    order = draws.permutation(StreamNames.REPETITION_SPLIT, group, n=len(train))
    nth = torch.empty_like(train.y)
    for label, name in enumerate(names):
        members = order[train.y[order] == label]
        if len(members) < repetitions:
            raise DataError(
                f"benchmark.repetitions={repetitions}: class {name!r} has only {len(members)} training samples; "
                "try fewer repetitions"
            )
        nth[members] = torch.arange(len(members)) % repetitions
    return [train.select((nth == i).nonzero().squeeze(1)) for i in range(repetitions)]


def round_name(name: str, round_index: int, repetitions: int) -> str:
    """The name of a task in its `nth` round."""
    return f"{name}, round {round_index + 1}" if repetitions > 1 else name
