"""Fewer labels and wrong labels in training; test and validation samples are left as they are."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any, Literal

import torch
from torch import Tensor

from gr_cli.benchmarks.base import Benchmark, Task, stratified_mask
from gr_cli.errors import ConfigError
from gr_cli.nn.random_streams import RandomStreams, StreamNames

NoiseType = Literal["symmetric", "pair"]

# By how much a wrong label differs from the right one, modulo the number of classes, int64 (n,), from uniform numbers
# (n,) in [0, 1) and the number of classes (n,) of each sample's task.
_SHIFTS: Mapping[NoiseType, Callable[[Tensor, Tensor], Tensor]] = {
    "symmetric": lambda uniform, num_classes: 1 + (uniform.double() * (num_classes - 1)).long(),
    "pair": lambda uniform, num_classes: torch.ones_like(num_classes),
}


def with_label_settings(benchmark: Benchmark, seed: int, settings: Mapping[str, Any]) -> Benchmark:
    """The benchmark with the labels of the settings `labels.*`: first fewer, then some of these wrong.

    Raises:
        ConfigError: Settings don't go together, or don't fit the benchmark.
    """
    per_class, share, noise = settings["per_class"], settings["share"], settings["noise"]
    if per_class is not None and share is not None:
        raise ConfigError("labels.share", share, "can't be combined with labels.per_class", "set one of them to null")
    if per_class is not None or share is not None:
        benchmark = with_few_labels(benchmark, seed, per_class, share)
    return with_label_noise(benchmark, seed, noise, settings["noise_type"]) if noise else benchmark


def with_few_labels(
    benchmark: Benchmark, seed: int, per_class: int | None = None, share: float | None = None
) -> Benchmark:
    """The benchmark with some of the training samples of each class and task, drawn by the seed; others are left out.

    Args:
        benchmark: The tasks, with labels from 0 in each.
        seed: Seed of the random choice.
        per_class: Samples of each class of a task, or all if there are fewer.
        share: Share of the samples of each class of a task, rounded, at least one; None: all.
    """
    random_streams = RandomStreams(seed)

    def select(task: Task) -> Task:
        order = random_streams.permutation(StreamNames.LABELLED_SAMPLES, task.id, n=len(task.train))
        classes = task.train.y
        if task.origin_task is not None:  # labels count within the classes of that task
            classes = classes + task.origin_task * (int(classes.max()) + 1)
        mask = stratified_mask(
            classes, 1.0 if share is None else share, order, min_per_class=1, max_per_class=per_class
        )
        index = mask.nonzero().squeeze(1)
        origin = None if task.origin_task is None else task.origin_task[index]
        return _changed(task, replace(task, train=task.train.select(index), origin_task=origin))

    return replace(benchmark, tasks=tuple(map(select, benchmark.tasks)))


def with_label_noise(benchmark: Benchmark, seed: int, share: float, noise_type: NoiseType = "symmetric") -> Benchmark:
    """The benchmark with a share of each task's training labels replaced by other classes of the task.

    Args:
        benchmark: The tasks, with labels from 0 in each.
        seed: Seed of the random choice, which is drawn anew for each task.
        share: Share of the labels of a task that are wrong, rounded to a number of samples.
        noise_type: `symmetric`: any other class of the task with the same probability. `pair`: the next class of the
            task, after the last one the first (Han et al. 2018).

    Raises:
        ConfigError: A task has a single class.
    """
    random_streams = RandomStreams(seed)
    num_classes = torch.tensor(benchmark.class_counts)

    def relabel(task: Task) -> Task:
        y, n = task.train.y, len(task.train)
        selected = random_streams.permutation(StreamNames.LABEL_NOISE, task.id, n=n)[: round(share * n)]
        classes = num_classes[task.id] if task.origin_task is None else num_classes[task.origin_task[selected]]
        classes = classes.expand(len(selected))
        if (classes == 1).any():
            problem = f"task {task.id} ({task.name}) has one class, and a wrong label is another class of its task"
            raise ConfigError("labels.noise", share, problem, "try labels.noise=0 or more benchmark.classes_per_task")
        uniform = random_streams.draw("uniform", StreamNames.LABEL_NOISE_CLASS, task.id, shape=(len(selected),))
        wrong = y.clone()
        wrong[selected] = (y[selected] + _SHIFTS[noise_type](uniform, classes)) % classes
        return _changed(task, replace(task, train=replace(task.train, y=wrong)))

    return replace(benchmark, tasks=tuple(map(relabel, benchmark.tasks)))


def _changed(before: Task, after: Task) -> Task:
    """`after` with the task that it was before its labels were changed for the first time."""
    return replace(after, complete=before.complete or before)


def describe_labels(benchmark: Benchmark) -> tuple[str, ...]:
    """How many training labels there are and how many are wrong, as sentences for readers; empty for all and none."""
    changed = [(task, task.complete) for task in benchmark.tasks if task.complete is not None]
    if not changed:
        return ()
    labelled, total = (sum(len(pair[side].train) for pair in changed) for side in (0, 1))
    wrong = sum(_num_wrong(task, complete) for task, complete in changed)
    texts = [f"{labelled:,} of {total:,} training samples have a label, the others are left out"] * (labelled < total)
    texts += [f"{wrong:,} of {labelled:,} training labels are wrong; those of test and validation are not"] * (
        wrong > 0
    )
    return tuple(texts)


def _num_wrong(task: Task, complete: Task) -> int:
    rows = task.train.store_rows(torch.arange(len(task.train)))
    all_rows = complete.train.store_rows(torch.arange(len(complete.train)))
    right = torch.zeros(len(task.train.store), dtype=torch.long)
    right[all_rows] = complete.train.y
    return int((right[rows] != task.train.y).sum())
