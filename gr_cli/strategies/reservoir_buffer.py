"""Reservoir buffer: a uniform random sample of a stream (Vitter 1985), with slots for generated ones."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Self

import torch
from torch import Tensor

from gr_cli.nn.random_streams import NoiseSpec, ReplicaStreams, StepBlocks, StreamNames
from gr_cli.strategies.context import TrainingStep

_MAX_PAIRS = 1 << 20  # pairs of samples compared at a time


def split_evenly(total: int, num_parts: int) -> list[int]:
    """Split `total` into integers that differ by at most 1, the larger ones first."""
    base, extra = divmod(total, num_parts)
    return [base + (i < extra) for i in range(num_parts)]


def first_of_each_task(task_of_sample: Tensor, quotas: list[int]) -> Tensor:
    """Mask (..., N) of the first `quotas[k]` samples of each task k; fewer if a task has fewer."""
    mask = torch.zeros_like(task_of_sample, dtype=torch.bool)
    for task, quota in enumerate(quotas):
        of_task = task_of_sample == task
        mask |= of_task & (of_task.cumsum(-1) <= quota)
    return mask


@dataclass
class ReservoirBuffer:
    """Reservoir sampling buffer of R replicas, optionally with reserved slots for generated samples.

    Slots below `num_reserved` hold generated samples, the others a reservoir: a uniform random sample of the stream.
    One further row takes the samples that are not stored, so that each batch writes as many rows as it has samples.

    Attributes:
        x: Samples (R, capacity + 1, ...).
        num_reserved: Number of reserved slots; 0: the reservoir has all slots.
        num_valid_reserved: Valid reserved slots of each replica (R,), the first ones. A tensor, because the number
            depends on what was generated.
        num_seen: Samples that the reservoir has seen; its first min(num_seen, capacity - num_reserved) slots are valid.
        extras: Further values stored with each sample (labels, logits), by name: (R, capacity + 1, ...).
    """

    x: Tensor
    num_reserved: int
    num_valid_reserved: Tensor
    num_seen: int = 0
    extras: dict[str, Tensor] = field(default_factory=dict)

    def __post_init__(self) -> None:
        replicas, rows = self.x.shape[:2]
        self._rows = self.x.view(replicas * rows, *self.x.shape[2:])
        self._extra = {name: value.view(replicas * rows, *value.shape[2:]) for name, value in self.extras.items()}
        self._replica_offset = torch.arange(0, replicas * rows, rows, device=self.x.device).unsqueeze(1)  # (R, 1)

    @classmethod
    def empty(cls, capacity: int, like: Tensor, extras: Mapping[str, Tensor] | None = None) -> Self:
        """An empty buffer for samples, and extras, shaped like those in `like` (R, B, ...)."""

        def rows(values: Tensor) -> Tensor:
            return values.new_zeros((values.shape[0], capacity + 1, *values.shape[2:]))

        num_valid = torch.zeros(like.shape[0], dtype=torch.long, device=like.device)
        return cls(rows(like), 0, num_valid, extras={name: rows(values) for name, values in (extras or {}).items()})

    @property
    def capacity(self) -> int:
        """Number of slots."""
        return self.x.shape[1] - 1

    @property
    def num_filled(self) -> int:
        """Number of valid slots in the reservoir."""
        return min(self.num_seen, self.capacity - self.num_reserved)

    @property
    def is_full(self) -> bool:
        """Whether all slots of the reservoir are valid, which they then stay."""
        return self.num_filled == self.capacity - self.num_reserved

    def fill_reserved(
        self, x: Tensor, valid: Tensor, num_reserved: int, extras: Mapping[str, Tensor] | None = None
    ) -> None:
        """Store generated samples in the reserved slots.

        Args:
            x: Generated samples (R, N, ...), N >= num_reserved.
            valid: Samples to store, in their order: bool (R, N).
            num_reserved: Number of slots to reserve.
            extras: Further values of these samples.
        """
        order = torch.argsort(valid.to(torch.int8), dim=1, descending=True, stable=True)[:, :num_reserved]
        for stored, generated in ((self.x, x), *((self.extras[name], value) for name, value in (extras or {}).items())):
            for slots, values, index in zip(stored, generated, order, strict=True):
                slots[:num_reserved] = values[index]
        self.num_reserved, self.num_valid_reserved = num_reserved, valid.sum(1).clamp(max=num_reserved)

    def placements(self, uniform: Tensor, num_seen: int) -> Tensor:
        """Rows that the next samples are written to, by reservoir sampling (Vitter 1985, algorithm R).

        After each batch, every sample seen so far is stored with the same probability.

        Args:
            uniform: Random numbers (L, R, B) in [0, 1), for L consecutive batches of B samples.
            num_seen: Samples seen before the first of them.

        Returns:
            Rows (L, R * B) for `write`; samples that are not stored get the last row.
        """
        num_slots, (length, _, size) = self.capacity - self.num_reserved, uniform.shape
        nth = num_seen + torch.arange(length * size, device=uniform.device).view(length, 1, size)
        slot = torch.where(nth < num_slots, nth, (uniform.double() * (nth + 1)).long())  # (L, R, B)
        # Of several samples for one slot the last one is stored, as if they were written one by one.
        chunk_size = max(1, _MAX_PAIRS // (uniform.shape[1] * size * size))
        overwritten = torch.cat(
            [(slots.unsqueeze(2) == slots.unsqueeze(3)).triu(1).any(3) for slots in slot.split(chunk_size)]
        )
        row = torch.where((slot < num_slots) & ~overwritten, self.num_reserved + slot, self.capacity)
        return (row + self._replica_offset).flatten(1)

    def write(self, x: Tensor, rows: Tensor, extras: Mapping[str, Tensor] | None = None) -> None:
        """Store a batch (R, B, ...) and its extras in `rows`, one row of `placements`."""
        self._rows.index_copy_(0, rows, x.flatten(0, 1))
        for name, values in (extras or {}).items():
            self._extra[name].index_copy_(0, rows, values.flatten(0, 1))
        self.num_seen += x.shape[1]

    def add(self, x: Tensor, uniform: Tensor, extras: Mapping[str, Tensor] | None = None) -> None:
        """Update the reservoir with a batch (R, B, ...), given `uniform` (R, B) in [0, 1)."""
        self.write(x, self.placements(uniform.unsqueeze(0), self.num_seen)[0], extras)

    def sample_rows(self, uniform: Tensor) -> Tensor:
        """Rows (..., R, B) of valid samples drawn uniformly with replacement, given `uniform` (..., R, B) in [0, 1)."""
        filled = self.num_filled
        index = (uniform.double() * (filled + self.num_valid_reserved).unsqueeze(1)).long()
        row = torch.where(index < filled, index + self.num_reserved, index - filled)
        return row + self._replica_offset

    def get(self, rows: Tensor) -> Tensor:
        """The samples (R, B, ...) in `rows`."""
        return _select_rows(self._rows, rows)

    def get_extra(self, name: str, rows: Tensor) -> Tensor | None:
        """The extra `name` (R, B, ...) of the samples in `rows`; None if there is no such extra."""
        return _select_rows(self._extra[name], rows) if name in self._extra else None

    @classmethod
    def from_state(cls, state: dict[str, Any] | None) -> Self | None:
        """The buffer with this state; None for None."""
        return None if state is None else cls(**state)

    def state_dict(self) -> dict[str, Any]:
        """Tensors with the replica axis, and numbers common to all replicas."""
        return {
            "x": self.x,
            "num_reserved": self.num_reserved,
            "num_valid_reserved": self.num_valid_reserved,
            "num_seen": self.num_seen,
            "extras": self.extras,
        }


def _select_rows(values: Tensor, rows: Tensor) -> Tensor:
    """values (N, ...) at `rows` (R, B): (R, B, ...)."""
    selected = values.index_select(0, rows.flatten())
    return selected.view(*rows.shape, *values.shape[1:])


class ReservoirDraws:
    """Rows of samples drawn from a buffer during a task, for many iterations at once where it is full.

    Args:
        streams: Random streams of the replicas.
        stream: The one that the choice of samples is drawn from.
    """

    def __init__(self, streams: ReplicaStreams, stream: str) -> None:
        self._streams, self._stream, self._blocks = streams, stream, StepBlocks[Tensor]()

    def rows(self, buffer: ReservoirBuffer, size: int, step: TrainingStep) -> Tensor:
        """Rows (R, size) of samples drawn uniformly with replacement, in a step."""
        noise, task, iteration = NoiseSpec("uniform", (size,)), step.task, step.iteration
        if not buffer.is_full:
            return buffer.sample_rows(self._streams.values_at(noise, self._stream, task, iteration))

        def block() -> tuple[int, Sequence[Tensor]]:
            first, uniform = self._streams.block_at(noise, self._stream, task, iteration)  # (L, R, B)
            return first, buffer.sample_rows(uniform).unbind()

        return self._blocks.at((task, size), iteration, block)


class ReservoirPlacements:
    """Precomputed reservoir placements of a task's batches, in blocks of many iterations."""

    def __init__(self, streams: ReplicaStreams) -> None:
        self._streams, self._blocks = streams, StepBlocks[Tensor]()

    def rows(self, buffer: ReservoirBuffer, size: int, step: TrainingStep) -> Tensor:
        """The rows for a batch of `size` samples; one batch is written in each iteration."""
        task, iteration = step.task, step.iteration

        def block() -> tuple[int, Sequence[Tensor]]:
            noise = NoiseSpec("uniform", (size,))
            first, uniform = self._streams.block_at(noise, StreamNames.RESERVOIR_PLACEMENT, task, iteration)
            # Samples seen before the block's first step: `size` less for each iteration.
            num_seen = buffer.num_seen - (iteration - first) * size
            return first, buffer.placements(uniform, num_seen).unbind()

        return self._blocks.at((task, size), iteration, block)
