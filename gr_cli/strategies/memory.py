"""The memory that the generator learns from: places of fixed number, some for generated samples, some a reservoir."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor


def shares(places: int, holders: int) -> list[int]:
    """`places` dealt out as evenly as possible, the first holders getting one more."""
    base, extra = divmod(places, holders)
    return [base + (i < extra) for i in range(holders)]


def pick_balanced(task_of_sample: Tensor, quotas: list[int]) -> Tensor:
    """The first `quotas[k]` samples of each task k: bool (N,). A task with too few samples falls short."""
    chosen = torch.zeros_like(task_of_sample, dtype=torch.bool)
    for task, quota in enumerate(quotas):
        mine = task_of_sample == task
        chosen |= mine & (mine.cumsum(0) <= quota)
    return chosen


@dataclass
class Memory:
    """Samples `x` (capacity + 1, ...): generated ones in the places below `reserved`, then a reservoir of the stream.

    The first `kept` of the reserved places are valid (a tensor: it may depend on what was generated), and the first
    min(seen, capacity - reserved) of the others. With `reserved` = 0 the reservoir is the whole memory; `seen` counts
    what passed through it. The last row takes what finds no place, so that each batch writes as many rows as it has.
    """

    x: Tensor
    reserved: int
    kept: Tensor
    seen: int = 0

    @classmethod
    def empty(cls, capacity: int, like: Tensor) -> Memory:
        """A memory with all places free, for samples shaped like those in `like` (B, ...)."""
        rows = like.new_zeros((capacity + 1, *like.shape[1:]))
        return cls(rows, 0, torch.zeros((), dtype=torch.long, device=like.device))

    @property
    def capacity(self) -> int:
        """Number of places."""
        return self.x.shape[0] - 1

    @property
    def filled(self) -> int:
        """How many places of the reservoir are taken."""
        return min(self.seen, self.capacity - self.reserved)

    def reserve(self, x: Tensor, valid: Tensor, places: int) -> None:
        """Put the valid ones among generated samples `x` (N, ...), N >= places, into the first `places` places."""
        order = torch.argsort(valid.to(torch.int8), descending=True, stable=True)[:places]
        self.x[:places] = x[order]
        self.reserved, self.kept = places, valid.sum().clamp(max=places)

    def add(self, x: Tensor, uniform: Tensor) -> None:
        """Let `x` (B, ...) pass: reservoir sampling (Vitter 1985, algorithm R) with `uniform` (B,) in [0, 1).

        Afterwards each sample that passed so far is in the memory with the same probability.
        """
        room, passed = self.capacity - self.reserved, self.seen
        self.seen += x.shape[0]
        if self.seen <= room:
            self.x[self.reserved + passed : self.reserved + self.seen] = x
            return
        nth = passed + torch.arange(x.shape[0], device=x.device)
        place = torch.where(nth < room, nth, (uniform.double() * (nth + 1)).long())
        # Of several samples for one place the last one stays, as if they had come one after the other.
        taken_later = (place.unsqueeze(0) == place.unsqueeze(1)).triu(1).any(1)
        self.x[torch.where((place < room) & ~taken_later, self.reserved + place, self.capacity)] = x

    def sample(self, uniform: Tensor) -> Tensor:
        """Valid samples chosen evenly, with replacement, by `uniform` (B,) in [0, 1): (B, ...)."""
        filled = self.filled
        index = (uniform.double() * (filled + self.kept)).long()
        return self.x[torch.where(index < filled, index + self.reserved, index - filled)]

    @classmethod
    def from_state(cls, state: dict[str, Any], device: torch.device) -> Memory:
        """The memory that gave `state`."""
        return cls(state["x"].to(device), state["reserved"], state["kept"].to(device), state["seen"])

    def state_dict(self) -> dict[str, Any]:
        """The memory as tensors and numbers."""
        return {"x": self.x, "reserved": self.reserved, "kept": self.kept, "seen": self.seen}
