"""Every random number of a run, as a function of (seed, stream, task, block) and of nothing else.

No generator is carried along: the numbers of an iteration can be had again without drawing those before it.
So a resumed run needs no generator states, and what a seed yields does not depend on what ran beside it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor

Distribution = Literal["normal", "uniform"]
_BLOCK_ELEMENTS = 1 << 19  # numbers drawn at once: 2 MiB of float32, small enough to stay in cache


class NoiseSpec(NamedTuple):
    """What randomness a module asks for: its kind and the shape for one batch."""

    distribution: Distribution
    shape: tuple[int, ...]


def derive_seed(seed: int, *key: str | int) -> int:
    """A 63-bit seed for the stream named by `key`, the same on every machine."""
    # NumPy shows its integers otherwise, which are the same numbers.
    parts = tuple(int(part) if isinstance(part, np.integer) else part for part in (seed, *key))
    digest = hashlib.blake2b(repr(parts).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little") >> 1


@contextmanager
def seeded(seed: int, *key: str | int) -> Iterator[None]:
    """Seed torch's global stream inside the block, for code that knows no other, and put it back after."""
    devices = list(range(torch.cuda.device_count())) if torch.cuda.is_initialized() else []
    with torch.random.fork_rng(devices=devices):
        torch.manual_seed(derive_seed(seed, *key))
        yield


@dataclass(frozen=True)
class RandomStreams:
    """The random streams of one run."""

    seed: int
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))

    def generator(self, stream: str, *key: int) -> torch.Generator:
        """A fresh generator at the start of the stream (`stream`, `key`)."""
        return torch.Generator(device=self.device).manual_seed(derive_seed(self.seed, stream, *key))

    def draw(self, distribution: Distribution, stream: str, *key: int, shape: tuple[int, ...]) -> Tensor:
        """All numbers of one stream at once: `shape`, float32."""
        make: Callable[..., Tensor] = torch.randn if distribution == "normal" else torch.rand
        return make(shape, generator=self.generator(stream, *key), device=self.device)

    def permutation(self, stream: str, *key: int, n: int) -> Tensor:
        """A permutation of 0..n-1, shape (n,), int64."""
        return torch.randperm(n, generator=self.generator(stream, *key), device=self.device)


class ReplicaStreams:
    """The random streams of R runs side by side: everything has a leading replica axis.

    Runs of one seed draw the same. `rows` draws in blocks whose length depends on the shape alone, because four draws
    of a hundred numbers are not one draw of four hundred. The cache is a convenience: dropping it changes nothing.
    """

    def __init__(self, runs: Sequence[RandomStreams], dtype: torch.dtype = torch.float32) -> None:
        self.device, self.dtype = runs[0].device, dtype
        self._runs, self._distinct_runs = list(runs), list(dict.fromkeys(runs))
        self._distinct_index = torch.tensor([self._distinct_runs.index(run) for run in runs], device=self.device)
        self._blocks: dict[tuple[str, Distribution], tuple[tuple[object, ...], Tensor]] = {}

    @property
    def replicas(self) -> int:
        """R."""
        return self._distinct_index.shape[0]

    def generator(self, replica: int, stream: str, *key: int) -> torch.Generator:
        """A fresh generator at the start of a stream of one replica."""
        return self._runs[replica].generator(stream, *key)

    def draw(self, distribution: Distribution, stream: str, *key: int, shape: tuple[int, ...]) -> Tensor:
        """All numbers of one stream at once: (R, *shape)."""
        return self._expand_to_replicas(self._draw_distinct(distribution, stream, key, shape, 0), 0)

    def _draw_distinct(
        self, distribution: Distribution, stream: str, key: tuple[int, ...], shape: tuple[int, ...], axis: int
    ) -> Tensor:
        """What each seed gives, once: (..., S, ...), with the axis of S seeds at `axis`."""
        parts = [run.draw(distribution, stream, *key, shape=shape).to(self.dtype) for run in self._distinct_runs]
        return parts[0].unsqueeze(axis) if len(parts) == 1 else torch.stack(parts, axis)

    def _expand_to_replicas(self, values: Tensor, axis: int) -> Tensor:
        """From an axis of seeds to one of replicas."""
        if self.replicas == 1 or len(self._distinct_runs) == self.replicas:
            return values
        if len(self._distinct_runs) == 1:
            return values.expand(*values.shape[:axis], self.replicas, *values.shape[axis + 1 :])
        return values.index_select(axis, self._distinct_index)

    def _block(self, noise: NoiseSpec, stream: str, task: int, step: int) -> tuple[int, Tensor]:
        """The block of rows that holds `step` of `task`: its first step, and its rows (L, S, *noise.shape)."""
        elements = max(1, torch.Size(noise.shape).numel())
        length = max(1, min(64, _BLOCK_ELEMENTS // elements))
        number = step // length
        tag = (task, number, noise.shape)
        cached = self._blocks.get((stream, noise.distribution))
        if cached is None or cached[0] != tag:
            self._blocks.pop((stream, noise.distribution), None)  # let go of the old block before the new one is drawn
            values = self._draw_distinct(noise.distribution, stream, (task, number), (length, *noise.shape), 1)
            cached = self._blocks[stream, noise.distribution] = (tag, values)
        return number * length, cached[1]

    def values_at(self, noise: NoiseSpec, stream: str, task: int, step: int) -> Tensor:
        """What `stream` gives to `step` of `task`: a tensor (R, *noise.shape)."""
        first, values = self._block(noise, stream, task, step)
        return self._expand_to_replicas(values[step - first], 0)

    def block_at(self, noise: NoiseSpec, stream: str, task: int, step: int) -> tuple[int, Tensor]:
        """What `stream` gives to `step` and to others around it: the first of them, and rows (L, R, *noise.shape)."""
        first, values = self._block(noise, stream, task, step)
        return first, self._expand_to_replicas(values, 1)

    def noise_at(self, specs: Mapping[str, NoiseSpec], stream: str, task: int, step: int) -> dict[str, Tensor]:
        """The noise a module asks for, by name, for `step` of `task`, each with the replica axis."""
        return {name: self.values_at(noise, f"{stream}.{name}", task, step) for name, noise in specs.items()}
