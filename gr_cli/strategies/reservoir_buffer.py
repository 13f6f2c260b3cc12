"""The memory that the generator learns from: places of fixed number, some for generated samples, some a reservoir."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Self

import torch
from torch import Tensor

from gr_cli.nn.random_streams import NoiseSpec, ReplicaStreams
from gr_cli.strategies.context import TrainingStep

_MAX_PAIRS = 1 << 20  # pairs of samples compared at once


def split_evenly(total: int, num_parts: int) -> list[int]:
    """`places` dealt out as evenly as possible, the first holders getting one more."""
    base, extra = divmod(total, num_parts)
    return [base + (i < extra) for i in range(num_parts)]


def first_of_each_task(task_of_sample: Tensor, quotas: list[int]) -> Tensor:
    """The first `quotas[k]` samples of each task k: (..., N) -> bool (..., N). A task with too few falls short."""
    chosen = torch.zeros_like(task_of_sample, dtype=torch.bool)
    for task, quota in enumerate(quotas):
        mine = task_of_sample == task
        chosen |= mine & (mine.cumsum(-1) <= quota)
    return chosen


@dataclass
class ReservoirBuffer:
    """Samples `x` (R, capacity + 1, ...): generated ones in the places below `reserved`, then a reservoir of the
    stream, for each of R replicas.

    The first `kept` (R,) of the reserved places are valid (a tensor: it may depend on what was generated), and the
    first min(seen, capacity - reserved) of the others. With `reserved` = 0 the reservoir is the whole memory; `seen`
    counts what passed through it. The last row takes what finds no place, so that each batch writes as many rows as
    it has. `extras`: what is kept of each sample besides, by name (its label, say): (R, capacity + 1, ...).
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
        """A memory with all places free, for samples shaped like those in `like` (R, B, ...), and `extras` too."""

        def rows(values: Tensor) -> Tensor:
            return values.new_zeros((values.shape[0], capacity + 1, *values.shape[2:]))

        kept = torch.zeros(like.shape[0], dtype=torch.long, device=like.device)
        return cls(rows(like), 0, kept, extras={name: rows(values) for name, values in (extras or {}).items()})

    @property
    def capacity(self) -> int:
        """Number of places."""
        return self.x.shape[1] - 1

    @property
    def num_filled(self) -> int:
        """How many places of the reservoir are taken."""
        return min(self.num_seen, self.capacity - self.num_reserved)

    def fill_reserved(
        self, x: Tensor, valid: Tensor, num_reserved: int, extras: Mapping[str, Tensor] | None = None
    ) -> None:
        """Put the valid ones, bool (R, N), among generated samples `x` (R, N, ...), N >= places, into the first
        `places` places."""
        order = torch.argsort(valid.to(torch.int8), dim=1, descending=True, stable=True)[:, :num_reserved]
        for kept, given in ((self.x, x), *((self.extras[name], value) for name, value in (extras or {}).items())):
            for mine, generated, chosen in zip(kept, given, order, strict=True):
                mine[:num_reserved] = generated[chosen]
        self.num_reserved, self.num_valid_reserved = num_reserved, valid.sum(1).clamp(max=num_reserved)

    def placements(self, uniform: Tensor, num_seen: int) -> Tensor:
        """Where the reservoir puts what passes after `passed` samples: rows (L, R * B) for L batches in a row.

        Reservoir sampling (Vitter 1985, algorithm R) with `uniform` (L, R, B) in [0, 1): afterwards each sample that
        passed so far is in the memory with the same probability.
        """
        room, (length, _, size) = self.capacity - self.num_reserved, uniform.shape
        nth = num_seen + torch.arange(length * size, device=uniform.device).view(length, 1, size)
        place = torch.where(nth < room, nth, (uniform.double() * (nth + 1)).long())  # (L, R, B)
        # Of several samples for one place the last one stays, as if they had come one after the other.
        few = max(1, _MAX_PAIRS // (uniform.shape[1] * size * size))
        taken_later = torch.cat([(p.unsqueeze(2) == p.unsqueeze(3)).triu(1).any(3) for p in place.split(few)])
        row = torch.where((place < room) & ~taken_later, self.num_reserved + place, self.capacity)
        return (row + self._replica_offset).flatten(1)

    def write(self, x: Tensor, rows: Tensor, extras: Mapping[str, Tensor] | None = None) -> None:
        """Let `x` (R, B, ...) pass, to one row of `places`, and what belongs to it."""
        self._rows[rows] = x.flatten(0, 1)
        for name, values in (extras or {}).items():
            self._extra[name][rows] = values.flatten(0, 1)
        self.num_seen += x.shape[1]

    def add(self, x: Tensor, uniform: Tensor, extras: Mapping[str, Tensor] | None = None) -> None:
        """Let `x` (R, B, ...) pass, with `uniform` (R, B) in [0, 1)."""
        self.write(x, self.placements(uniform.unsqueeze(0), self.num_seen)[0], extras)

    def sample_rows(self, uniform: Tensor) -> Tensor:
        """Rows of valid samples chosen evenly, with replacement, by `uniform` (R, B) in [0, 1): (R, B)."""
        filled = self.num_filled
        index = (uniform.double() * (filled + self.num_valid_reserved).unsqueeze(1)).long()
        row = torch.where(index < filled, index + self.num_reserved, index - filled)
        return row + self._replica_offset

    def get(self, rows: Tensor) -> Tensor:
        """The samples in rows that `choose` gave: (R, B, ...)."""
        return self._rows[rows]

    def get_extra(self, name: str, rows: Tensor) -> Tensor | None:
        """What is kept besides of the samples in these rows: (R, B, ...); None if nothing of that name is."""
        return self._extra[name][rows] if name in self._extra else None

    @classmethod
    def from_state(cls, state: dict[str, Any] | None) -> Self | None:
        """The memory that gave `state`."""
        return None if state is None else cls(**state)

    def state_dict(self) -> dict[str, Any]:
        """The memory as tensors, with the replica axis, and numbers."""
        return {
            "x": self.x,
            "num_reserved": self.num_reserved,
            "num_valid_reserved": self.num_valid_reserved,
            "num_seen": self.num_seen,
            "extras": self.extras,
        }


class ReservoirPlacements:
    """Where the batches of a task find their places in a memory: found for many iterations at once."""

    def __init__(self, streams: ReplicaStreams) -> None:
        self._streams = streams
        self._block: tuple[tuple[int, int], int, Tensor] | None = None

    def rows(self, buffer: ReservoirBuffer, size: int, step: TrainingStep) -> Tensor:
        """The rows for a batch of `size`, of which one passes `memory` in each iteration."""
        key, row = (size, step.task), step.iteration
        if self._block is None or self._block[0] != key or not 0 <= row - self._block[1] < len(self._block[2]):
            first, uniform = self._streams.block_at(NoiseSpec("uniform", (size,)), "memory.place", step.task, row)
            # What has passed before: `size` with each iteration, and before the first whatever was there.
            passed = buffer.num_seen - (row - first) * size
            self._block = (key, first, buffer.placements(uniform, passed))
        return self._block[2][row - self._block[1]]
