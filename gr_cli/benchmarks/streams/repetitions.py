"""Streams with repetition: the training samples of each class are divided among several rounds of all tasks."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from gr_cli.benchmarks.base import Samples
from gr_cli.errors import DataError
from gr_cli.nn.random_streams import RandomStreams, StreamNames


def split_into_rounds(
    train: Samples, names: Sequence[str], repetitions: int, random_streams: RandomStreams, group: int
) -> list[Samples]:
    """Divide the samples of each class evenly among rounds; earlier rounds get the remainder.

    Args:
        train: Training samples of one task.
        names: Names of the classes, by label.
        repetitions: Number of rounds.
        random_streams: Random streams of the benchmark.
        group: Index of the task, for the random stream.

    Returns:
        The samples of each round.

    Raises:
        DataError: A class has fewer samples than there are rounds.
    """
    if repetitions == 1:
        return [train]
    order = random_streams.permutation(StreamNames.REPETITION_SPLIT, group, n=len(train))
    round_of = torch.empty_like(train.y)
    for label, name in enumerate(names):
        members = order[train.y[order] == label]
        if len(members) < repetitions:
            raise DataError(
                f"benchmark.repetitions={repetitions}: class {name!r} has only {len(members)} training samples; "
                "try fewer repetitions"
            )
        round_of[members] = torch.arange(len(members)) % repetitions
    return [train.select((round_of == i).nonzero().squeeze(1)) for i in range(repetitions)]


def round_name(name: str, round_index: int, repetitions: int) -> str:
    """The name of a task in round `round_index` (from 0)."""
    return f"{name}, round {round_index + 1}" if repetitions > 1 else name
