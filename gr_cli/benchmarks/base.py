"""The values that a benchmark is made of."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor

from gr_cli.errors import DataError
from gr_cli.randomness import Draws

EVALUATION_BATCH = 1000


@runtime_checkable
class View(Protocol):
    """A transform that has tensors of its own, which must lie where the samples do."""

    def to(self, device: torch.device) -> Callable[[Tensor], Tensor]:
        """The same transform on `device`."""
        ...


@dataclass(frozen=True)
class Samples:
    """`x` (N, ...) uint8 or float and `y` (N,) int64, kept whole on one device; a batch is an index into them.

    `transform` maps raw rows of `x` to raw rows of the task's view of them, when they are asked for.
    """

    x: Tensor
    y: Tensor
    transform: Callable[[Tensor], Tensor] | None = None

    def __len__(self) -> int:
        return self.y.shape[0]

    def batch(self, index: Tensor | slice) -> tuple[Tensor, Tensor]:
        """The samples at `index`: x float32, bytes scaled to [0, 1], and y."""
        raw = self.x[index] if self.transform is None else self.transform(self.x[index])
        return (raw.float() / 255 if raw.dtype == torch.uint8 else raw), self.y[index]

    def batches(self, size: int = EVALUATION_BATCH) -> Iterator[tuple[Tensor, Tensor]]:
        """All samples in order, in batches of at most `size`."""
        for start in range(0, len(self), size):
            yield self.batch(slice(start, start + size))

    def at(self, index: Tensor) -> Samples:
        """Only the samples at `index`."""
        return replace(self, x=self.x[index], y=self.y[index])

    def to(self, device: torch.device, offset: int) -> Samples:
        """The same samples on `device`, `offset` added to each label."""
        transform = self.transform.to(device) if isinstance(self.transform, View) else self.transform
        return replace(self, x=self.x.to(device), y=self.y.to(device) + offset, transform=transform)

    def materialised(self) -> Samples:
        """The same samples with the transform carried out."""
        if self.transform is None:
            return self
        parts = [self.transform(part) for part in self.x.split(EVALUATION_BATCH)]
        return Samples(torch.cat(parts), self.y)

    @staticmethod
    def concatenated(parts: Sequence[Samples]) -> Samples:
        """All samples of `parts`, one after the other."""
        if len(parts) == 1:
            return parts[0]
        whole = [part.materialised() for part in parts]
        return Samples(torch.cat([p.x for p in whole]), torch.cat([p.y for p in whole]))


@dataclass(frozen=True)
class Task:
    """One task: its `classes` by name; labels `y` of its samples count from 0 in the order of `classes`."""

    id: int
    name: str
    classes: tuple[str, ...]
    train: Samples
    test: Samples
    validation: Samples | None = None

    def mapped(self, function: Callable[[Samples], Samples]) -> Task:
        """The same task with `function` applied to all its samples."""
        held_out = None if self.validation is None else function(self.validation)
        return replace(self, train=function(self.train), test=function(self.test), validation=held_out)

    def splits(self) -> dict[str, Samples]:
        """What can be evaluated, by name."""
        held_out = {} if self.validation is None else {"validation": self.validation}
        return {"test": self.test} | held_out


@dataclass(frozen=True)
class Kind:
    """What kind of samples a benchmark has: what models and generators must know to be built.

    `shape` of one sample; values lie in `value_range` (None: anywhere), each the fraction of `trials` binary pixels.
    """

    shape: tuple[int, ...]
    value_range: tuple[float, float] | None
    trials: int


@dataclass(frozen=True)
class Benchmark:
    """A stream of tasks over samples of one kind."""

    tasks: tuple[Task, ...]
    kind: Kind

    @property
    def class_counts(self) -> list[int]:
        """Number of classes of each task."""
        return [len(task.classes) for task in self.tasks]

    def on(self, device: torch.device, offsets: Sequence[int]) -> Benchmark:
        """The same stream on `device`, each task's labels raised by its offset."""
        moved = [
            task.mapped(lambda samples, offset=offset: samples.to(device, offset))  # type: ignore[misc]
            for task, offset in zip(self.tasks, offsets, strict=True)
        ]
        return replace(self, tasks=tuple(moved))


class Order:
    """An endless stream of permutations of `n` samples, cut into full batches: which samples an iteration sees."""

    def __init__(self, n: int, batch_size: int, draws: Draws, task: int) -> None:
        self._n, self._batch_size, self._draws, self._task = n, batch_size, draws, task
        self._epochs: dict[int, Tensor] = {}

    def _epoch(self, epoch: int) -> Tensor:
        if epoch not in self._epochs:
            # A batch touches few epochs, and only ever later ones: the older ones may go.
            self._epochs = {e: p for e, p in self._epochs.items() if e >= epoch - 1}
            self._epochs[epoch] = self._draws.permutation("order", self._task, epoch, n=self._n)
        return self._epochs[epoch]

    def __getitem__(self, iteration: int) -> Tensor:
        """Indices (batch_size,) of the samples of `iteration`."""
        start, parts, missing = iteration * self._batch_size, [], self._batch_size
        while missing:
            epoch, offset = divmod(start, self._n)
            parts.append(self._epoch(epoch)[offset : offset + missing])
            missing -= parts[-1].shape[0]
            start += parts[-1].shape[0]
        return parts[0] if len(parts) == 1 else torch.cat(parts)


def hold_out(samples: Samples, share: float, draws: Draws, task: int) -> tuple[Samples, Samples | None]:
    """Split off `share` of each class for validation: (train, validation), validation None for a share of 0."""
    if share == 0:
        return samples, None
    order = draws.permutation("validation", task, n=len(samples))
    shuffled = samples.y[order]
    held = torch.zeros(len(samples), dtype=torch.bool, device=samples.y.device)
    for label in shuffled.unique():
        members = order[shuffled == label]
        held[members[: round(share * members.shape[0])]] = True
    if not held.any() or held.all():
        raise DataError(
            f"benchmark.validation_share={share}: leaves {int((~held).sum())} samples of task {task} for training "
            f"and {int(held.sum())} for validation; both need some"
        )
    return samples.at((~held).nonzero().squeeze(1)), samples.at(held.nonzero().squeeze(1))
