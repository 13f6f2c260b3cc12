from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Literal

import torch
from torch import Tensor

from gr_cli.benchmarks.base import Benchmark, Samples, Task, hold_out
from gr_cli.benchmarks.feature_extractors import FeatureExtractor
from gr_cli.benchmarks.sources.base import Source
from gr_cli.benchmarks.sources.load import load_dataset
from gr_cli.benchmarks.sources.validation import join_names
from gr_cli.benchmarks.streams.repetitions import round_name, split_into_rounds
from gr_cli.benchmarks.streams.task_overlap import overlapping_tasks
from gr_cli.config.arguments import validate_arguments
from gr_cli.errors import ConfigError, suggestion
from gr_cli.nn.random_streams import RandomStreams, StreamNames
from gr_cli.types import FractionBelowOne, PositiveInt

_MAX_NAMED_CLASSES = 10  # classes that a task is named after


@validate_arguments
def split(
    source: Source,
    seed: int,
    classes_per_task: PositiveInt | Sequence[PositiveInt] = 2,
    class_order: Literal["fixed", "shuffled"] | Sequence[str | int] = "fixed",
    repetitions: PositiveInt = 1,
    task_overlap: FractionBelowOne = 0.0,
    validation_share: FractionBelowOne = 0.0,
    features: FeatureExtractor | None = None,
) -> Benchmark:
    """The classes of a data set, divided among tasks.

    Args:
        source: where the samples come from.
        seed: of the class order, of what is exchanged and of what is held out.
        classes_per_task: how many classes each task brings: one number that divides them evenly, or a list with a
            number for each task, [50, 10, 10, 10, 10, 10] for a large first one.
        class_order: as the data set has them, or shuffled by the seed, or all of them in a list, by name or by number,
            counting from 0.
        rounds: how often all classes come, each time with other samples: each class's training samples are dealt out
            evenly. With all classes in one task this is the data-incremental stream.
        blur: share of each task's training samples that is exchanged for samples of other tasks.
        validation_share: part of each class's training samples that is held out for validation.
        features: a frozen network through which all see the samples.
    """
    data, draws = load_dataset(source), RandomStreams(seed)
    if features is not None:
        data = features.extract(data, getattr(source, "cache_name", ""))
    groups = _ordered_labels(data.classes, class_order, draws).split(_class_counts(classes_per_task, len(data.classes)))
    stream: list[list[Task]] = [[] for _ in range(repetitions)]
    for i, labels in enumerate(groups):
        train, validation = hold_out(_relabelled_subset(data.train, labels), validation_share, draws, i)
        test, names = _relabelled_subset(data.test, labels), tuple(data.classes[label] for label in labels.tolist())
        for nth, part in enumerate(split_into_rounds(train, names, repetitions, draws, i)):
            name, repeats = round_name(_task_name(names), nth, repetitions), i if nth else None
            stream[nth].append(Task(nth * len(groups) + i, name, names, part, test, validation, repeats))
    tasks = overlapping_tasks([task for tasks in stream for task in tasks], task_overlap, draws)
    return Benchmark(tuple(tasks), data.spec)


def _class_counts(classes_per_task: int | Sequence[int], count: int) -> list[int]:
    """How many of `count` classes each task gets."""
    field = "benchmark.classes_per_task"
    if isinstance(classes_per_task, int):
        if count % classes_per_task:
            fitting = [k for k in range(1, count + 1) if count % k == 0]
            rest = [classes_per_task] * (count // classes_per_task) + [count % classes_per_task]
            shown = ",".join(map(str, rest)) if len(rest) <= _MAX_NAMED_CLASSES else "..."
            raise ConfigError(
                field,
                classes_per_task,
                f"must divide the {count} classes: one of {fitting}",
                f"or give a number for each task: {field}=[{shown}]",
            )
        return [classes_per_task] * (count // classes_per_task)
    if sum(classes_per_task) != count:
        raise ConfigError(
            field, list(classes_per_task), f"must add up to the {count} classes, and comes to {sum(classes_per_task)}"
        )
    return list(classes_per_task)


def _ordered_labels(classes: Sequence[str], order: str | Sequence[str | int], draws: RandomStreams) -> Tensor:
    """The labels of all classes in the order in which they come."""
    if order == "fixed":
        return torch.arange(len(classes))
    if order == "shuffled":
        return draws.permutation(StreamNames.CLASS_ORDER, n=len(classes))
    labels = [_label(classes, wanted) for wanted in order]
    twice = [classes[label] for i, label in enumerate(labels) if label in labels[:i]]
    missing = [name for label, name in enumerate(classes) if label not in labels]
    if twice or missing:
        fault = f"has {twice[0]!r} twice" if twice else f"lacks {join_names(list(map(repr, missing)))}"
        raise ConfigError("benchmark.class_order", list(order), f"must name each class once, and {fault}")
    return torch.tensor(labels)


def _label(classes: Sequence[str], wanted: str | int) -> int:
    """The label of a class that is given by its name, or else by its number."""
    # A name made of digits reaches us as a number.
    if str(wanted) in classes:
        return classes.index(str(wanted))
    if isinstance(wanted, int) and 0 <= wanted < len(classes):
        return wanted
    raise ConfigError(
        "benchmark.class_order",
        wanted,
        f"is neither the name of a class ({join_names(classes)}) nor a number from 0 to {len(classes) - 1}",
        suggestion(str(wanted), classes),
    )


def _task_name(classes: Sequence[str]) -> str:
    if len(classes) <= _MAX_NAMED_CLASSES:
        return (", " if any(" " in name for name in classes) else " ").join(classes)
    return f"{classes[0]} ... {classes[-1]} ({len(classes)} classes)"


def _relabelled_subset(samples: Samples, labels: Tensor) -> Samples:
    """The samples of the classes `labels`, relabelled 0, 1, ... in that order."""
    member = samples.y.unsqueeze(1) == labels  # (N, k)
    chosen = samples.select(member.any(1).nonzero().squeeze(1))
    return replace(chosen, y=member[member.any(1)].long().argmax(1))
