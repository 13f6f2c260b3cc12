from __future__ import annotations

from dataclasses import replace
from typing import Literal

import torch
from torch import Tensor

from gr_cli.benchmarks.base import Benchmark, Kind, Samples, Task, hold_out
from gr_cli.benchmarks.features import Features
from gr_cli.benchmarks.sources import Source, load
from gr_cli.checks import PositiveInt, Share
from gr_cli.errors import ConfigError
from gr_cli.randomness import Draws


def split(
    source: Source,
    seed: int,
    classes_per_task: PositiveInt = 2,
    class_order: Literal["fixed", "shuffled"] = "fixed",
    validation_share: Share = 0.0,
    features: Features | None = None,
) -> Benchmark:
    """The classes of a data set, divided among tasks.

    Args:
        source: where the samples come from.
        seed: of the class order and of what is held out.
        classes_per_task: how many classes each task brings; must divide their number.
        class_order: as the data set has them, or shuffled by the seed.
        validation_share: part of each class's training samples that is held out for validation.
        features: a frozen network through which all see the samples.
    """
    data, draws = load(source), Draws(seed)
    if features is not None:
        data = features.of(data)
    count = len(data.classes)
    if count % classes_per_task:
        fitting = [k for k in range(1, count + 1) if count % k == 0]
        raise ConfigError(
            "benchmark.classes_per_task", classes_per_task, f"must divide the {count} classes: one of {fitting}"
        )
    order = torch.arange(count) if class_order == "fixed" else draws.permutation("class_order", n=count)
    tasks = []
    for i, labels in enumerate(order.split(classes_per_task)):
        train, validation = hold_out(_only(data.train, labels), validation_share, draws, i)
        test = _only(data.test, labels)
        names = tuple(data.classes[label] for label in labels.tolist())
        tasks.append(Task(i, " ".join(names), names, train, test, validation))
    return Benchmark(tuple(tasks), Kind(tuple(data.train.store.shape[1:]), data.value_range, data.trials))


def _only(samples: Samples, labels: Tensor) -> Samples:
    """The samples of the classes `labels`, relabelled 0, 1, ... in that order."""
    member = samples.y.unsqueeze(1) == labels  # (N, k)
    chosen = samples.at(member.any(1).nonzero().squeeze(1))
    return replace(chosen, y=member[member.any(1)].long().argmax(1))
