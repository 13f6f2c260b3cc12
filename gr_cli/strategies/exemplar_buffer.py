"""Exemplar buffer: stored samples of each class (ER, iCaRL), and uniform random subsets."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Self

import torch
from torch import Tensor

from gr_cli.nn.random_streams import NoiseSpec, ReplicaStreams, StepBlocks
from gr_cli.strategies.context import TaskContext, TrainingStep

_MAX_GATHERED_VALUES = 1 << 17  # of samples gathered at once: 512 KiB of float32, which stay in cache


class ClassSamples:
    """The samples of one class of a task, which are read in batches, because they may not fit into memory together.

    Args:
        context: The task.
        replica: Replica whose samples these are.
        unit: Output unit of the class.
        size: Number of samples.
    """

    def __init__(self, context: TaskContext, replica: int, unit: int, size: int) -> None:
        self._context, self._replica, self._unit, self._size = context, replica, unit, size

    def __len__(self) -> int:
        return self._size

    def batches(self) -> Iterator[Tensor]:
        """All samples, in one pass over the task."""
        for x, y in self._context.sample_pass(self._replica):
            yield x[y == self._unit]

    def read(self) -> Tensor:
        """All samples (N, ...), in memory."""
        return torch.cat(list(self.batches()))

    def at(self, index: Tensor) -> Tensor:
        """The samples at positions `index` (n,), in that order; those that this pass over the task leaves out lack."""
        selected, start = None, 0
        is_read = torch.zeros(len(index), dtype=torch.bool, device=index.device)
        for x in self.batches():
            if selected is None:
                # In memory of its own from the start: parts kept between the batches would split the memory these free.
                selected = x.new_empty((len(index), *x.shape[1:]))
            inside = (index >= start) & (index < start + len(x))
            selected[inside] = x[index[inside] - start]
            is_read |= inside
            start += len(x)
        assert selected is not None
        return selected[is_read]


# Selects samples of a class: from all of them, and a maximum number, to samples (n, ...), in order.
Selection = Callable[[ClassSamples, int], Tensor]


def uniform_subset(
    context: TaskContext, replica: int, max_samples: int, stream: str
) -> Iterator[tuple[Tensor, Tensor]]:
    """A uniform random subset of the current task's samples, in one batch.

    Drawn in a single pass, because the order may differ between passes: the samples with the smallest random numbers.

    Args:
        context: The current task.
        replica: Replica whose samples are drawn from.
        max_samples: Size of the subset; all samples if the task has fewer.
        stream: Name of the random stream.
    """
    generator = context.streams.generator(replica, stream, context.task)
    subset: tuple[Tensor, Tensor, Tensor] | None = None
    for x, y in context.sample_pass(replica):
        keys = torch.rand(y.shape[0], generator=generator, device=y.device)
        if subset is not None:
            x, y, keys = torch.cat([subset[0], x]), torch.cat([subset[1], y]), torch.cat([subset[2], keys])
        smallest = keys.argsort()[:max_samples].sort().values
        subset = (x[smallest], y[smallest], keys[smallest])
    if subset is not None:
        yield subset[0], subset[1]


@dataclass
class ExemplarBuffer:
    """Stored samples of K classes, at most m of each, for R replicas.

    Where tasks share output units, a class has one entry for each of its tasks.

    Attributes:
        x: Samples (R, K, m, ...), the valid ones first.
        label: Output unit of each entry (R, K).
        size: Number of valid samples of each entry (R, K).
    """

    x: Tensor
    label: Tensor
    size: Tensor

    def __post_init__(self) -> None:
        replicas, classes, capacity = self.x.shape[:3]
        self._samples = self.x.flatten(0, 2)
        self.sample_numel = self.x[0, 0, 0].numel()
        self._labels = self.label.unsqueeze(2).expand(-1, -1, capacity).flatten(1)
        valid = torch.arange(capacity, device=self.x.device) < self.size.unsqueeze(2)  # (R, K, m)
        # Slots in the order in which they are sampled: valid ones first.
        self._valid_first = torch.argsort(valid.flatten(1).to(torch.int8), dim=1, descending=True, stable=True)
        self.num_samples = self.size.sum(1)  # (R,) of all classes together
        self._replica_offset = torch.arange(replicas, device=self.x.device).unsqueeze(1) * (classes * capacity)

    @classmethod
    def from_task(cls, context: TaskContext, per_class: int, selection: Callable[[int], Selection]) -> Self:
        """Select samples of each class of a task.

        Args:
            context: The task.
            per_class: Largest number of samples of each class.
            selection: Gives the `Selection` of a replica.
        """
        selected = [
            _select_by_class(context, replica, per_class, selection(replica))
            for replica in range(context.streams.replicas)
        ]
        example = next(iter(selected[0].values()))
        num_classes = max(len(by_unit) for by_unit in selected)
        x = example.new_zeros((len(selected), num_classes, per_class, *example.shape[1:]))
        label = torch.zeros((len(selected), num_classes), dtype=torch.long, device=x.device)
        size = torch.zeros_like(label)
        for r, by_unit in enumerate(selected):
            for k, (unit, samples) in enumerate(by_unit.items()):
                x[r, k, : len(samples)], label[r, k], size[r, k] = samples, unit, len(samples)
        return cls(x, label, size)

    @classmethod
    def concatenate(cls, buffers: Sequence[Self]) -> Self:
        """One buffer with the entries of all `buffers`, which have the same capacity per class."""
        return cls(*(torch.cat([getattr(buffer, name) for buffer in buffers], 1) for name in ("x", "label", "size")))

    def truncate(self, per_class: int) -> Self:
        """The first `per_class` samples of each class."""
        return type(self)(self.x[:, :, :per_class].clone(), self.label, self.size.clamp(max=per_class))

    def sample(self, uniform: Tensor) -> tuple[Tensor, Tensor]:
        """Samples and labels drawn uniformly with replacement, given `uniform` (R, B) in [0, 1)."""
        rows, labels = self.sample_rows(uniform)
        return self.get(rows), labels

    def sample_rows(self, uniform: Tensor) -> tuple[Tensor, Tensor]:
        """Rows for `get` and labels of samples drawn as by `sample`, (R, B) each."""
        slot = self._valid_first.gather(1, (uniform.double() * self.num_samples.unsqueeze(1)).long())
        return slot + self._replica_offset, self._labels.gather(1, slot)

    def get(self, rows: Tensor) -> Tensor:
        """The samples (..., *shape) in `rows` (...)."""
        samples = self._samples.index_select(0, rows.flatten())
        return samples.view(*rows.shape, *samples.shape[1:])

    def classes_of(self, replica: int) -> Iterator[tuple[int, Tensor]]:
        """Output unit and samples (n, ...) of each class of a replica."""
        for unit, n, samples in zip(
            self.label[replica].tolist(), self.size[replica].tolist(), self.x[replica], strict=True
        ):
            if n:
                yield unit, samples[:n]

    @classmethod
    def from_state(cls, state: dict[str, Any] | None) -> Self | None:
        """The buffer with this state; None for None."""
        return None if state is None else cls(state["x"], state["label"], state["size"])

    def state_dict(self) -> dict[str, Any]:
        """Tensors with the replica axis."""
        return {"x": self.x, "label": self.label, "size": self.size}


class ExemplarDraws:
    """Samples drawn from a buffer that does not change during a task; those of several iterations at once.

    Args:
        streams: Random streams of the replicas.
        stream: The one that the choice of samples is drawn from.
    """

    def __init__(self, streams: ReplicaStreams, stream: str) -> None:
        self._streams, self._stream = streams, stream
        self._drawn, self._gathered = StepBlocks[tuple[Tensor, Tensor]](), StepBlocks[Tensor]()

    def at_step(self, buffer: ExemplarBuffer, size: int, step: TrainingStep) -> tuple[Tensor, Tensor]:
        """Samples (R, size, ...) and labels (R, size) of a step, drawn uniformly with replacement."""
        key, iteration = (step.task, size), step.iteration

        def draw() -> tuple[int, Sequence[tuple[Tensor, Tensor]]]:
            noise = NoiseSpec("uniform", (size,))
            first, uniform = self._streams.block_at(noise, self._stream, step.task, iteration)  # (L, R, B)
            rows, labels = buffer.sample_rows(uniform.transpose(0, 1).flatten(1))
            in_steps = (len(rows), len(uniform), size)
            return first, [*zip(*(v.view(in_steps).transpose(0, 1).unbind() for v in (rows, labels)), strict=True)]

        def gather() -> tuple[int, Sequence[Tensor]]:
            block = self._drawn.from_step(iteration)
            count = max(1, _MAX_GATHERED_VALUES // (block[0][0].numel() * buffer.sample_numel))
            return iteration, buffer.get(torch.stack([rows for rows, _ in block[:count]])).unbind()

        _, labels = self._drawn.at(key, iteration, draw)
        return self._gathered.at(key, iteration, gather), labels


def _select_by_class(context: TaskContext, replica: int, per_class: int, selection: Selection) -> dict[int, Tensor]:
    """Selected samples of each class of the task, by output unit."""
    sizes: Counter[int] = Counter()
    for _, y in context.sample_pass(replica):
        sizes.update(y.tolist())
    selected = {}
    for unit in sorted(sizes):
        x = selection(ClassSamples(context, replica, unit, sizes[unit]), per_class)
        if len(x):  # a loader with `drop_last` may leave out a whole class
            selected[unit] = x.clone()
    return selected
