"""Samples, tasks and benchmarks."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from math import ceil
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor
from torch.utils.weak import WeakIdKeyDictionary

from gr_cli.errors import DataError
from gr_cli.nn.random_streams import RandomStreams, StreamNames
from gr_cli.nn.sample_spec import SampleSpec, as_floats
from gr_cli.nn.shared_fit import SharedFit
from gr_cli.system.cache import READING_LABEL, TensorBlocks, content_hash, rows_per_block
from gr_cli.system.mapping import is_mapped
from gr_cli.system.messages import with_progress

EVALUATION_BATCH = 1000


@runtime_checkable
class MovableTransform(Protocol):
    """A transform with tensors of its own, which must be on the device of the samples."""

    def to(self, device: torch.device) -> Callable[[Tensor], Tensor]:
        """The same transform on `device`."""
        ...


@dataclass(frozen=True)
class Samples:
    """Labelled samples: indices into a store that stays on one device as one tensor.

    Tasks and replicas share a store without copying it. A memory-mapped store stays on the CPU, and may be larger than
    memory; a batch of it is moved to the device of the labels.

    Attributes:
        store: All stored samples, uint8 or float, (M, ...).
        y: Labels, int64 (N,).
        transform: Maps raw stored samples (B, ...) to those of the task, applied when samples are read.
        index: Rows of the store that belong to these samples, (N,); None: all rows in order.
    """

    store: Tensor
    y: Tensor
    transform: Callable[[Tensor], Tensor] | None = None
    index: Tensor | None = None

    def __len__(self) -> int:
        return self.y.shape[0]

    @property
    def x(self) -> Tensor:
        """The stored samples (N, ...), before the transform; a copy, unless these are all samples of the store."""
        return self.store if self.index is None else self.store[self.index]

    def store_rows(self, index: Tensor) -> Tensor:
        """Rows of the store for the samples at `index`."""
        return index if self.index is None else self.index[index]

    def values_at_rows(self, rows: Tensor) -> Tensor:
        """Transformed samples (..., *shape) of the store's `rows` (...) as floats; bytes are scaled to [0, 1]."""
        return self.from_raw(self.raw_at_rows(rows))

    def raw_at_rows(self, rows: Tensor) -> Tensor:
        """Stored samples (..., *shape) at the store's `rows` (...), on the device of the store."""
        selected = rows.flatten().to(self.store.device)
        if self.store.is_contiguous():  # flattened, so that torch copies whole rows
            raw = self.store.flatten(1).index_select(0, selected)
        else:
            raw = self.store.index_select(0, selected)
        return raw.view(*rows.shape, *self.store.shape[1:])

    def from_raw(self, raw: Tensor) -> Tensor:
        """Samples as floats, on the device of the labels, from stored ones: transformed, bytes scaled to [0, 1]."""
        raw = raw.to(self.y.device)
        return as_floats(raw if self.transform is None else self.transform(raw))

    def batch(self, index: Tensor) -> tuple[Tensor, Tensor]:
        """The samples at `index`: x as floats, bytes scaled to [0, 1], and y."""
        return self.values_at_rows(self.store_rows(index)), self.y[index]

    def batches(self, size: int = EVALUATION_BATCH) -> Iterator[tuple[Tensor, Tensor]]:
        """All samples in order, in batches of at most `size`."""
        for index in torch.arange(len(self), device=self.y.device).split(size):
            yield self.batch(index)

    def select(self, index: Tensor) -> Samples:
        """The samples at `index`."""
        return replace(self, y=self.y[index], index=self.store_rows(index))

    def subsample(self, max_samples: int | None) -> Samples:
        """At most `max_samples` samples at equal intervals; None: all."""
        if max_samples is None or len(self) <= max_samples:
            return self
        return self.select(torch.arange(max_samples, device=self.y.device) * len(self) // max_samples)

    def to(self, device: torch.device, offset: int | Tensor) -> Samples:
        """The same samples on `device`, with `offset`, a number or (N,), added to the labels."""
        transform = self.transform.to(device) if isinstance(self.transform, MovableTransform) else self.transform
        index = None if self.index is None else self.index.to(device)
        y = self.y.to(device)
        if isinstance(offset, Tensor):
            y = y + offset.to(device)
        elif offset:  # with offset 0 tasks keep sharing their labels
            y = y + offset
        return Samples(_store_on(self.store, device), y, transform, index)

    def with_transform_applied(self) -> Samples:
        """The same samples with a store of their own that holds the transformed samples."""
        if self.transform is None:
            return Samples(self.x, self.y)
        parts = [self.transform(part) for part in self.x.split(EVALUATION_BATCH)]
        return Samples(torch.cat(parts), self.y)

    def raw_batches(self, size: int = EVALUATION_BATCH) -> Iterator[Tensor]:
        """The stored samples in order, in batches of at most `size`."""
        for start in range(0, len(self), size):
            rows = slice(start, start + size)
            yield self.store[rows if self.index is None else self.index[rows]]

    def content_hash(self) -> str:
        """Hash of the stored samples in order, wherever they lie in the store; computed once if they are mapped."""
        if self in _sample_hashes:
            return str(_sample_hashes[self])
        shape, size = (len(self), *self.store.shape[1:]), rows_per_block(self.store)
        blocks = with_progress(self.raw_batches(size), ceil(len(self) / size), READING_LABEL)
        samples_hash = content_hash(TensorBlocks(self.store.dtype, shape, blocks))
        if is_mapped(self.store):
            _sample_hashes[self] = samples_hash
        return samples_hash

    @staticmethod
    def concatenate(parts: Sequence[Samples]) -> Samples:
        """All samples of `parts`, in order."""
        first = parts[0]
        if all(part.store is first.store and part.index is not None and part.transform is None for part in parts):
            rows = torch.cat([part.index for part in parts if part.index is not None])
            return replace(first, y=torch.cat([part.y for part in parts]), index=rows)
        if any(is_mapped(part.store) for part in parts):
            num_bytes = sum(part.store[:1].nbytes * len(part) for part in parts)
            raise DataError(
                "benchmark: joint training on transformed tasks, permuted or rotated, copies the samples of all of "
                f"them, {num_bytes / 2**30:,.1f} GiB here, which lie in a memory-mapped file; try another strategy, a "
                "split benchmark, or storage=memory"
            )
        transformed = [part.with_transform_applied() for part in parts]
        return Samples(torch.cat([p.x for p in transformed]), torch.cat([p.y for p in transformed]))


# Hashes of samples, which several users of a data set need.
_sample_hashes: WeakIdKeyDictionary = WeakIdKeyDictionary()
# Copies of stores on other devices, shared by the tasks and runs that share the store.
_device_copies: WeakIdKeyDictionary = WeakIdKeyDictionary()


def _store_on(store: Tensor, device: torch.device) -> Tensor:
    """The store on `device`, copied once for all tasks and runs that share it; a mapped store stays on the CPU."""
    if store.device == device or is_mapped(store):
        return store
    copies: dict[torch.device, Tensor] = _device_copies.setdefault(store, {})
    if device not in copies:
        copies[device] = store.to(device)
    return copies[device]


@dataclass(frozen=True)
class Candidates:
    """Samples of a task for membership inference, or canaries: some are training samples, the others were left out.

    Attributes:
        samples: The samples (N,).
        is_member: Which of them are training samples, bool (N,), on the CPU.
    """

    samples: Samples
    is_member: Tensor


@dataclass(frozen=True)
class Task:
    """One task of a stream.

    Attributes:
        id: Position in the stream, from 0.
        name: Name for tables and pictures.
        classes: Names of the classes; labels count from 0 in this order.
        train: Training samples.
        test: Test samples.
        validation: Samples held out from training; None if there are none.
        repeated_task: Earlier task with the same classes, in streams with repetition; None: its classes are new.
        origin_task: Task from which each training sample comes, (N,), where tasks exchange samples. A label counts
            within the classes of that task. None: all are the task's own.
        complete: The task with the labels of all its training samples, none of them wrong, for measurements; None: the
            task itself.
        candidates: Members and others that a membership draw chose from, or canaries; None without them.
    """

    id: int
    name: str
    classes: tuple[str, ...]
    train: Samples
    test: Samples
    validation: Samples | None = None
    repeated_task: int | None = None
    origin_task: Tensor | None = None
    complete: Task | None = None
    candidates: Candidates | None = None

    def to(self, device: torch.device, offset: int, first_units: Tensor) -> Task:
        """The same task on `device`, with output units as labels.

        Args:
            device: Device of the samples.
            offset: First output unit of the task.
            first_units: First output unit of each task, (T,), for samples of other tasks.
        """
        moved = self.map(lambda samples: samples.to(device, offset))
        if self.origin_task is not None:
            moved = replace(moved, train=self.train.to(device, first_units[self.origin_task]))
        complete = None if self.complete is None else self.complete.to(device, offset, first_units)
        return replace(moved, complete=complete)

    def map(self, function: Callable[[Samples], Samples]) -> Task:
        """The same task with `function` applied to each of its splits."""
        validation = None if self.validation is None else function(self.validation)
        candidates = self.candidates
        if candidates is not None:
            candidates = replace(candidates, samples=function(candidates.samples))
        return replace(
            self, train=function(self.train), test=function(self.test), validation=validation, candidates=candidates
        )

    def evaluation_splits(self) -> dict[str, Samples]:
        """The splits for evaluation, by name: `test`, and `validation` if there is one."""
        validation = {} if self.validation is None else {"validation": self.validation}
        return {"test": self.test} | validation


@dataclass(frozen=True)
class ExtractionCosts:
    """Costs of a frozen feature extractor.

    Attributes:
        num_bytes: Bytes of its network, kept for the whole run.
        operations: Floating-point operations for one sample.
    """

    num_bytes: int
    operations: int


@dataclass(frozen=True)
class Benchmark:
    """A stream of tasks.

        >>> from gr_cli.benchmarks import Digits, split
        >>> benchmark = split(Digits(), seed=0, classes_per_task=5)
        >>> [task.name for task in benchmark.tasks]
        ['0 1 2 3 4', '5 6 7 8 9']
        >>> x, y = benchmark.tasks[0].train.batch(torch.arange(3))
        >>> x.shape, y.tolist(), benchmark.spec.value_range
        (torch.Size([3, 1, 8, 8]), [0, 1, 2], (0.0, 1.0))

    Attributes:
        tasks: The tasks in order of training.
        spec: Shape, range and likelihood of the samples.
        shared_fits: What was fitted on samples of several classes or tasks together, such as a scale.
        extraction: Costs of the feature extractor, where samples are features.
        stores_raw_samples: Whether the feature extractor contains training samples.
        files: Which files were read, where a source reads several layouts; else empty.
        classes_follow_labels: Whether the classes are those that occur among the labels, and no list that is known
            without the data.
        format_follows_samples: Settings of the source, by name, whose values are chosen by the samples, such as a
            common size of images.
    """

    tasks: tuple[Task, ...]
    spec: SampleSpec
    shared_fits: tuple[SharedFit, ...] = ()
    extraction: ExtractionCosts | None = None
    stores_raw_samples: bool = False
    files: str = ""
    classes_follow_labels: bool = False
    format_follows_samples: tuple[str, ...] = ()

    @property
    def class_counts(self) -> list[int]:
        """Number of classes of each task."""
        return [len(task.classes) for task in self.tasks]

    @property
    def repeated_tasks(self) -> list[int | None]:
        """For each task the earlier task with the same classes, or None."""
        return [task.repeated_task for task in self.tasks]

    @property
    def has_task_overlap(self) -> bool:
        """Whether tasks exchange training samples."""
        return any(task.origin_task is not None for task in self.tasks)

    def to(self, device: torch.device, offsets: Sequence[int]) -> Benchmark:
        """The same stream on `device`, with output units as labels.

        Args:
            device: Device of the samples.
            offsets: First output unit of each task, added to the labels of its classes.
        """
        first_units = torch.tensor(offsets)
        tasks = (task.to(device, offset, first_units) for task, offset in zip(self.tasks, offsets, strict=True))
        return replace(self, tasks=tuple(tasks))


def hold_out(
    samples: Samples, share: float, random_streams: RandomStreams, task: int
) -> tuple[Samples, Samples | None]:
    """Split a share of each class off for validation.

    Args:
        samples: Training samples.
        share: Share of each class, in [0, 1).
        random_streams: Random streams of the benchmark.
        task: Index of the task, for the random stream.

    Returns:
        Training and validation samples; validation is None for a share of 0.

    Raises:
        DataError: A class would have no training sample, or validation none at all.
    """
    if share == 0:
        return samples, None
    is_validation = stratified_mask(
        samples.y, share, random_streams.permutation(StreamNames.VALIDATION_SPLIT, task, n=len(samples))
    )
    if not is_validation.any() or len(samples.y[~is_validation].unique()) < len(samples.y.unique()):
        raise DataError(
            f"benchmark.validation_share={share}: leaves {int((~is_validation).sum())} samples of task {task} "
            f"for training and {int(is_validation.sum())} for validation; "
            "both need some, and training some of each class"
        )
    return samples.select((~is_validation).nonzero().squeeze(1)), samples.select(is_validation.nonzero().squeeze(1))


def stratified_mask(
    y: Tensor, share: float, order: Tensor, min_per_class: int = 0, max_per_class: int | None = None
) -> Tensor:
    """Mask (N,) of the first samples of each class in a given order.

    Args:
        y: Labels (N,).
        share: Share of each class, rounded.
        order: Permutation of the samples (N,).
        min_per_class: Least number of samples of each class.
        max_per_class: Largest number of samples of each class; None: no limit.
    """
    shuffled, mask = y[order], torch.zeros(len(y), dtype=torch.bool, device=y.device)
    by_class = order[shuffled.argsort(stable=True)]  # one sort, not one comparison of all labels per class
    for members in by_class.split(shuffled.unique(return_counts=True)[1].tolist()):
        mask[members[: max(min_per_class, round(share * len(members)))][:max_per_class]] = True
    return mask
