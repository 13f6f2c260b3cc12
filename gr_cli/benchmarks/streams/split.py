"""Class-split streams: each task brings some of the classes of a data set."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Literal

import torch
from torch import Tensor

from gr_cli.benchmarks.base import Benchmark, Samples, Task, hold_out
from gr_cli.benchmarks.features.base import FeatureExtractor
from gr_cli.benchmarks.sources.base import Dataset, Source
from gr_cli.benchmarks.sources.load import load_dataset
from gr_cli.benchmarks.sources.validation import join_names
from gr_cli.benchmarks.streams.repetitions import round_name, split_into_rounds
from gr_cli.benchmarks.streams.task_overlap import overlapping_tasks
from gr_cli.config.arguments import validate_arguments
from gr_cli.errors import ConfigError, suggestion
from gr_cli.nn.random_streams import RandomStreams, StreamNames
from gr_cli.types import FractionBelowOne, PositiveInt

_MAX_NAMED_CLASSES = 10  # classes that a task's name lists


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
    """Split stream: the classes of a data set are divided among tasks (Zenke et al. 2017).

    With all classes in one task and several `repetitions` this is a data-incremental stream.

    Args:
        source: Data set whose classes are divided.
        seed: Seed of the class order, of the exchange of samples and of the validation split.
        classes_per_task: Classes of each task: one number that divides all classes evenly, or a list with one number
            per task, such as `[50, 10, 10, 10, 10, 10]`.
        class_order: Order in which classes arrive: that of the data set, one shuffled by the seed, or a list of all
            classes by name or by index from 0.
        repetitions: Rounds through all tasks. Each round has other training samples of the same classes; the samples of
            each class are divided evenly among the rounds.
        task_overlap: Share of each task's training samples that is exchanged for samples of other tasks, as in blurry
            streams (Aljundi et al. 2019). 0: sharp boundaries.
        validation_share: Share of each class's training samples that is held out for validation. 0: none.
        features: Frozen feature extractor that maps images to vectors before training. null: raw samples.
    """
    data, random_streams = load_dataset(source), RandomStreams(seed)
    groups = _ordered_labels(data.classes, class_order, random_streams).split(
        _class_counts(classes_per_task, len(data.classes))
    )

    def tasks_of(dataset: Dataset) -> list[Task]:
        tasks = _divide(dataset, groups, repetitions, validation_share, random_streams)
        return overlapping_tasks(tasks, task_overlap, random_streams)

    tasks = tasks_of(data)
    if features is not None:  # fitted on the first task; which samples it has depends on the labels alone
        data = features.extract(data, tasks[0].train, getattr(source, "cache_name", ""))
        tasks = tasks_of(data)
    stores_raw_samples = features is not None and features.stores_raw_samples
    return Benchmark(
        tuple(tasks), data.spec, data.shared_fits, data.extraction, stores_raw_samples, data.files,
        data.classes_follow_labels, data.format_follows_samples,
    )  # fmt: skip


def _divide(
    data: Dataset,
    groups: Sequence[Tensor],
    repetitions: int,
    validation_share: float,
    random_streams: RandomStreams,
) -> list[Task]:
    """The tasks, each with the classes of a group of labels, in as many rounds as there are repetitions."""
    rounds: list[list[Task]] = [[] for _ in range(repetitions)]
    for i, labels in enumerate(groups):
        train, validation = hold_out(_relabelled_subset(data.train, labels), validation_share, random_streams, i)
        test, names = _relabelled_subset(data.test, labels), tuple(data.classes[label] for label in labels.tolist())
        for round_index, samples in enumerate(split_into_rounds(train, names, repetitions, random_streams, i)):
            name, repeated_task = round_name(_task_name(names), round_index, repetitions), i if round_index else None
            rounds[round_index].append(
                Task(round_index * len(groups) + i, name, names, samples, test, validation, repeated_task)
            )
    return [task for tasks in rounds for task in tasks]


def _class_counts(classes_per_task: int | Sequence[int], count: int) -> list[int]:
    """Number of classes of each task, for `count` classes in all.

    Raises:
        ConfigError: The classes can't be divided as requested.
    """
    field = "benchmark.classes_per_task"
    if isinstance(classes_per_task, int):
        if count == 1 != classes_per_task:
            raise ConfigError(field, classes_per_task, "must be 1: there is a single class", f"try {field}=1")
        if count % classes_per_task:
            divisors = [k for k in range(1, count + 1) if count % k == 0]
            uneven = [classes_per_task] * (count // classes_per_task) + [count % classes_per_task]
            example = ",".join(map(str, uneven)) if len(uneven) <= _MAX_NAMED_CLASSES else "..."
            raise ConfigError(
                field,
                classes_per_task,
                f"must divide the {count} classes: one of {divisors}",
                f"or give a number for each task: {field}=[{example}]",
            )
        return [classes_per_task] * (count // classes_per_task)
    if sum(classes_per_task) != count:
        raise ConfigError(
            field, list(classes_per_task), f"must add up to the {count} classes, but adds up to {sum(classes_per_task)}"
        )
    return list(classes_per_task)


def _ordered_labels(classes: Sequence[str], order: str | Sequence[str | int], random_streams: RandomStreams) -> Tensor:
    """The labels of all classes in the order in which they arrive, int64 (C,).

    Raises:
        ConfigError: A list of classes has one twice, lacks one, or has an unknown one.
    """
    if order == "fixed":
        return torch.arange(len(classes))
    if order == "shuffled":
        return random_streams.permutation(StreamNames.CLASS_ORDER, n=len(classes))
    labels = [_label(classes, name_or_index) for name_or_index in order]
    duplicates = [classes[label] for i, label in enumerate(labels) if label in labels[:i]]
    missing = [name for label, name in enumerate(classes) if label not in labels]
    if duplicates or missing:
        problem = f"has {duplicates[0]!r} twice" if duplicates else f"lacks {join_names(list(map(repr, missing)))}"
        raise ConfigError("benchmark.class_order", list(order), f"must name each class once, and {problem}")
    return torch.tensor(labels)


def _label(classes: Sequence[str], name_or_index: str | int) -> int:
    """The label of a class that is given by name or by index.

    Raises:
        ConfigError: There is no such class.
    """
    # YAML parses names of digits as numbers.
    if str(name_or_index) in classes:
        return classes.index(str(name_or_index))
    if isinstance(name_or_index, int) and 0 <= name_or_index < len(classes):
        return name_or_index
    raise ConfigError(
        "benchmark.class_order",
        name_or_index,
        f"is neither the name of a class ({join_names(classes)}) nor a number from 0 to {len(classes) - 1}",
        suggestion(str(name_or_index), classes),
    )


def _task_name(classes: Sequence[str]) -> str:
    """The names of a task's classes, shortened where there are many."""
    if len(classes) <= _MAX_NAMED_CLASSES:
        return (", " if any(" " in name for name in classes) else " ").join(classes)
    return f"{classes[0]} ... {classes[-1]} ({len(classes)} classes)"


def _relabelled_subset(samples: Samples, labels: Tensor) -> Samples:
    """The samples of the classes `labels` (k,), relabelled 0 to k - 1 in that order."""
    new_label = torch.full((int(max(samples.y.max(), labels.max())) + 1,), -1)  # -1: of another task
    new_label[labels] = torch.arange(len(labels))
    y = new_label[samples.y]
    members = (y >= 0).nonzero().squeeze(1)
    return replace(samples.select(members), y=y[members])
