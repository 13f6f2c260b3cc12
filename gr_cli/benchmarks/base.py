"""The values that a benchmark is made of."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor
from torch.utils.weak import WeakIdKeyDictionary

from gr_cli.errors import DataError
from gr_cli.nn.random_streams import RandomStreams, StreamNames
from gr_cli.nn.sample_spec import SampleSpec, as_floats

EVALUATION_BATCH = 1000


@runtime_checkable
class MovableTransform(Protocol):
    """A transform that has tensors of its own, which must lie where the samples do."""

    def to(self, device: torch.device) -> Callable[[Tensor], Tensor]:
        """The same transform on `device`."""
        ...


@dataclass(frozen=True)
class Samples:
    """Samples as rows of a `store` (M, ...) uint8 or float, kept whole on one device, and their labels `y` (N,) int64.

    `index` (N,) says which rows they are; None: all, in order. Tasks and replicas share a store, which is never
    copied. `transform` maps raw rows to raw rows of the task's view of them, when they are asked for.
    """

    store: Tensor
    y: Tensor
    transform: Callable[[Tensor], Tensor] | None = None
    index: Tensor | None = None

    def __len__(self) -> int:
        return self.y.shape[0]

    @property
    def x(self) -> Tensor:
        """The raw rows (N, ...) of the samples, before any transform."""
        return self.store if self.index is None else self.store[self.index]

    def store_rows(self, index: Tensor) -> Tensor:
        """The rows of the store that the samples at `index` are."""
        return index if self.index is None else self.index[index]

    def values_at_rows(self, rows: Tensor) -> Tensor:
        """Rows (...) of the store as a network gets them, (..., *shape): float, bytes scaled to [0, 1]."""
        # Flat, because then torch copies whole rows.
        flat = self.store.flatten(1).index_select(0, rows.flatten())
        raw = flat.view(*rows.shape, *self.store.shape[1:])
        if self.transform is not None:
            raw = self.transform(raw)
        return as_floats(raw)

    def batch(self, index: Tensor) -> tuple[Tensor, Tensor]:
        """The samples at `index`: x float32, bytes scaled to [0, 1], and y."""
        return self.values_at_rows(self.store_rows(index)), self.y[index]

    def batches(self, size: int = EVALUATION_BATCH) -> Iterator[tuple[Tensor, Tensor]]:
        """All samples in order, in batches of at most `size`."""
        for index in torch.arange(len(self), device=self.y.device).split(size):
            yield self.batch(index)

    def select(self, index: Tensor) -> Samples:
        """Only the samples at `index`."""
        return replace(self, y=self.y[index], index=self.store_rows(index))

    def subsample(self, max_samples: int | None) -> Samples:
        """At most so many samples, in equal steps through all of them; None: all."""
        if max_samples is None or len(self) <= max_samples:
            return self
        return self.select(torch.arange(max_samples, device=self.y.device) * len(self) // max_samples)

    def to(self, device: torch.device, offset: int | Tensor) -> Samples:
        """The same samples on `device`, `offset`, one for all or (N,), added to each label."""
        transform = self.transform.to(device) if isinstance(self.transform, MovableTransform) else self.transform
        index = None if self.index is None else self.index.to(device)
        y = self.y.to(device)
        if isinstance(offset, Tensor):
            y = y + offset.to(device)
        elif offset:  # where nothing changes, tasks go on sharing their labels
            y = y + offset
        return Samples(_store_on(self.store, device), y, transform, index)

    def with_transform_applied(self) -> Samples:
        """The same samples with the transform carried out."""
        if self.transform is None:
            return Samples(self.x, self.y)
        parts = [self.transform(part) for part in self.x.split(EVALUATION_BATCH)]
        return Samples(torch.cat(parts), self.y)

    @staticmethod
    def concatenate(parts: Sequence[Samples]) -> Samples:
        """All samples of `parts`, one after the other."""
        first = parts[0]
        if all(part.store is first.store and part.index is not None and part.transform is None for part in parts):
            rows = torch.cat([part.index for part in parts if part.index is not None])
            return replace(first, y=torch.cat([part.y for part in parts]), index=rows)
        whole = [part.with_transform_applied() for part in parts]
        return Samples(torch.cat([p.x for p in whole]), torch.cat([p.y for p in whole]))


# Stores on other devices, by where they came from: the tasks and runs that share a store share them, too.
_device_copies: WeakIdKeyDictionary = WeakIdKeyDictionary()


def _store_on(store: Tensor, device: torch.device) -> Tensor:
    if store.device == device:
        return store
    mine: dict[torch.device, Tensor] = _device_copies.setdefault(store, {})
    if device not in mine:
        mine[device] = store.to(device)
    return mine[device]


@dataclass(frozen=True)
class Task:
    """One task: its `classes` by name; labels `y` of its samples count from 0 in the order of `classes`.

    `repeats`: the earlier task whose classes these are again; None: they are its own.
    `origin` (N,): the task that each training sample is from, in whose classes its label counts; None: this one.
    """

    id: int
    name: str
    classes: tuple[str, ...]
    train: Samples
    test: Samples
    validation: Samples | None = None
    repeated_task: int | None = None
    origin_task: Tensor | None = None

    def map(self, function: Callable[[Samples], Samples]) -> Task:
        """The same task with `function` applied to all its samples."""
        held_out = None if self.validation is None else function(self.validation)
        return replace(self, train=function(self.train), test=function(self.test), validation=held_out)

    def evaluation_splits(self) -> dict[str, Samples]:
        """What can be evaluated, by name."""
        held_out = {} if self.validation is None else {"validation": self.validation}
        return {"test": self.test} | held_out


@dataclass(frozen=True)
class Benchmark:
    """A stream of tasks over samples that are what `spec` says."""

    tasks: tuple[Task, ...]
    spec: SampleSpec

    @property
    def class_counts(self) -> list[int]:
        """Number of classes of each task."""
        return [len(task.classes) for task in self.tasks]

    @property
    def repeated_tasks(self) -> list[int | None]:
        """For each task the earlier one whose classes come again in it, if they do."""
        return [task.repeated_task for task in self.tasks]

    @property
    def has_task_overlap(self) -> bool:
        """Whether tasks hold training samples of each other."""
        return any(task.origin_task is not None for task in self.tasks)

    def to(self, device: torch.device, offsets: Sequence[int]) -> Benchmark:
        """The same stream on `device`, the labels raised by the offset of the task that they count in."""
        moved, each = [], torch.tensor(offsets)
        for task, offset in zip(self.tasks, offsets, strict=True):
            there = task.map(lambda samples, offset=offset: samples.to(device, offset))  # type: ignore[misc]
            if task.origin_task is not None:
                there = replace(there, train=task.train.to(device, each[task.origin_task]))
            moved.append(there)
        return replace(self, tasks=tuple(moved))


def hold_out(samples: Samples, share: float, draws: RandomStreams, task: int) -> tuple[Samples, Samples | None]:
    """Split off `share` of each class for validation: (train, validation), validation None for a share of 0."""
    if share == 0:
        return samples, None
    held = stratified_mask(samples.y, share, draws.permutation(StreamNames.VALIDATION_SPLIT, task, n=len(samples)))
    if not held.any() or len(samples.y[~held].unique()) < len(samples.y.unique()):
        raise DataError(
            f"benchmark.validation_share={share}: leaves {int((~held).sum())} samples of task {task} for training "
            f"and {int(held.sum())} for validation; both need some, and training some of each class"
        )
    return samples.select((~held).nonzero().squeeze(1)), samples.select(held.nonzero().squeeze(1))


def stratified_mask(y: Tensor, share: float, order: Tensor, min_per_class: int = 0) -> Tensor:
    """Which of samples with labels `y` (N,) are the first in `order` (N,), up to `share` of each class: bool (N,).

    Of each class it is at least so many.
    """
    shuffled, chosen = y[order], torch.zeros(len(y), dtype=torch.bool, device=y.device)
    for label in shuffled.unique():
        members = order[shuffled == label]
        chosen[members[: max(min_per_class, round(share * len(members)))]] = True
    return chosen
