"""Training sets by draw, for membership inference: which of the training samples a run is trained on."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from gr_cli.benchmarks.base import Benchmark, Candidates, Task
from gr_cli.errors import ConfigError
from gr_cli.nn.random_streams import RandomStreams, StreamNames


def with_membership_draw(benchmark: Benchmark, seed: int, settings: Mapping[str, Any]) -> Benchmark:
    """The benchmark whose tasks are trained on the members of the draw `membership.draw`; all samples without a draw.

    Members are a share of each class of each task, of the same size for all draws. Draws 2k and 2k + 1 take the two
    ends of the same random order: with a share of 1/2 each sample is a member in exactly one of them, and so in half of
    any even number of draws. One sample of each class with an odd number of samples is left out of all draws.

    Args:
        benchmark: The tasks.
        seed: Seed of the random orders; also of the benchmark, so that all draws have the same candidates.
        settings: The settings `membership.*`.

    Raises:
        ConfigError: A class of a task has too few samples, or tasks exchange samples.
    """
    draw, share = settings["draw"], settings["share"]
    if draw is None:
        return benchmark
    if benchmark.has_task_overlap:
        raise ConfigError(
            "membership.draw",
            draw,
            "tasks exchange samples, and members are drawn in each",
            "set benchmark.task_overlap=0",
        )
    random_streams = RandomStreams(seed)

    def select(task: Task) -> Task:
        is_candidate, is_member = _masks(task, random_streams, draw, share)
        if settings["candidates"] is not None:
            is_candidate = _evenly_chosen(task.train.y, is_candidate, settings["candidates"])
        index = is_candidate.nonzero().squeeze(1)
        candidates = Candidates(task.train.select(index), is_member[index])
        return replace(task, train=task.train.select(is_member.nonzero().squeeze(1)), candidates=candidates)

    return replace(benchmark, tasks=tuple(map(select, benchmark.tasks)))


def _masks(task: Task, random_streams: RandomStreams, draw: int, share: float) -> tuple[Tensor, Tensor]:
    """Which training samples of a task may be members, and which are, bool (N,) each."""
    y, n = task.train.y, len(task.train)
    is_candidate, is_member = torch.zeros(n, dtype=torch.bool), torch.zeros(n, dtype=torch.bool)
    kept = random_streams.permutation(StreamNames.MEMBERSHIP_CANDIDATES, task.id, n=n)
    rank = torch.empty(n, dtype=torch.long)
    rank[random_streams.permutation(StreamNames.MEMBERSHIP, task.id, draw // 2, n=n)] = torch.arange(n)
    for label in y.unique():
        of_class = kept[y[kept] == label]
        of_class = of_class[: len(of_class) // 2 * 2]
        of_class = of_class[rank[of_class].argsort()]
        size = round(share * len(of_class))
        if not 0 < size < len(of_class):
            raise ConfigError(
                "membership.share",
                share,
                f"of {len(of_class)} samples of class {task.classes[int(label)]} in task {task.id}, {size} would be "
                "members, and members and others are needed",
                "try a share nearer to 0.5, or more samples of each class",
            )
        is_candidate[of_class] = True
        is_member[of_class[:size] if draw % 2 == 0 else of_class[-size:]] = True
    return is_candidate, is_member


def _evenly_chosen(y: Tensor, mask: Tensor, per_class: int) -> Tensor:
    """A mask of at most `per_class` samples of each class among those of `mask`, at equal intervals."""
    chosen = torch.zeros_like(mask)
    for label in y.unique():
        of_class = (mask & (y == label)).nonzero().squeeze(1)
        number = min(per_class, len(of_class))
        chosen[of_class[torch.arange(number) * len(of_class) // number]] = True
    return chosen
