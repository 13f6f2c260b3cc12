"""Canaries for privacy audits: samples of which independent coin flips decide whether they are trained on."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from gr_cli.benchmarks.base import Benchmark, Candidates, Samples, Task
from gr_cli.errors import ConfigError
from gr_cli.nn.random_streams import RandomStreams, StreamNames


def with_canaries(benchmark: Benchmark, seed: int, settings: Mapping[str, Any]) -> Benchmark:
    """The benchmark with canaries among the training samples of each task, by the settings `canaries.*`.

    Some training samples of each task are taken out. With `mislabelled` each gets another class of its task. A coin
    flip for each decides whether it returns. All are the task's candidates, so that the run writes scores of them.

    Args:
        benchmark: The tasks, with labels from 0 in each.
        seed: Seed of the choice of canaries and their labels; with `draw`, of the coin flips.
        settings: The settings `canaries.*`.

    Raises:
        ConfigError: A task is too small or has a single class, tasks exchange samples, or have candidates already.
    """
    count, draw = settings["count"], settings["draw"]
    if count is None:
        return benchmark
    _check(benchmark, count, settings["mislabelled"])
    streams = RandomStreams(seed)

    def insert(task: Task) -> Task:
        order = streams.permutation(StreamNames.CANARIES, task.id, n=len(task.train))
        canaries, others = task.train.select(order[:count]), task.train.select(order[count:].sort().values)
        if settings["mislabelled"]:
            canaries = replace(canaries, y=_other_class(canaries.y, len(task.classes), streams, task.id))
        flips = streams.draw("uniform", StreamNames.CANARY_FLIPS, task.id, draw, shape=(count,)) < 0.5
        train = _joined(others, canaries.select(flips.nonzero().squeeze(1)))
        return replace(task, train=train, candidates=Candidates(canaries, flips))

    return replace(benchmark, tasks=tuple(map(insert, benchmark.tasks)))


def _check(benchmark: Benchmark, count: int, mislabelled: bool) -> None:
    if benchmark.has_task_overlap:
        exchange = "tasks exchange samples, and canaries are drawn in each"
        raise ConfigError("canaries.count", count, exchange, "set benchmark.task_overlap=0")
    for task in benchmark.tasks:
        label = f"task {task.id} ({task.name})"
        if task.candidates is not None:
            both = "can't be combined with a membership draw, which has candidates of its own"
            raise ConfigError("canaries.count", count, both, "set membership.draw=null")
        if count > len(task.train) // 2:
            too_many = f"{label} has {len(task.train)} training samples, of which half are left as they are"
            raise ConfigError("canaries.count", count, too_many, f"try {len(task.train) // 2} or fewer")
        if mislabelled and len(task.classes) == 1:
            one_class = f"{label} has one class, and a wrong label is another class of its task"
            raise ConfigError("canaries.mislabelled", True, one_class, "set canaries.mislabelled=false")


def _other_class(y: Tensor, num_classes: int, streams: RandomStreams, task: int) -> Tensor:
    """Another class for each label, with equal probabilities."""
    uniform = streams.draw("uniform", StreamNames.CANARY_CLASSES, task, shape=(len(y),))
    return (y + 1 + (uniform.double() * (num_classes - 1)).long()) % num_classes


def _joined(first: Samples, second: Samples) -> Samples:
    """Both of the same store; transforms are the same."""
    rows = [part.store_rows(torch.arange(len(part))) for part in (first, second)]
    return replace(first, y=torch.cat([first.y, second.y]), index=torch.cat(rows))
