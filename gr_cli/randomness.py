"""Every random number of a run, as a function of (seed, stream, task, block) and of nothing else.

No generator is carried along: the numbers of an iteration can be had again without drawing those before it.
So a resumed run needs no generator states, and what a seed yields does not depend on what ran beside it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Literal, NamedTuple

import torch
from torch import Tensor

Kind = Literal["normal", "uniform"]
_BLOCK_ELEMENTS = 1 << 19  # numbers drawn at once: 2 MiB of float32, small enough to stay in cache


class Noise(NamedTuple):
    """What randomness a module asks for: its kind and the shape for one batch."""

    kind: Kind
    shape: tuple[int, ...]


def derive(seed: int, *key: str | int) -> int:
    """A 63-bit seed for the stream named by `key`, the same on every machine."""
    digest = hashlib.blake2b(repr((seed, *key)).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little") >> 1


@contextmanager
def seeded(seed: int, *key: str | int) -> Iterator[None]:
    """Seed torch's global stream inside the block, for code that knows no other, and put it back after."""
    devices = list(range(torch.cuda.device_count())) if torch.cuda.is_initialized() else []
    with torch.random.fork_rng(devices=devices):
        torch.manual_seed(derive(seed, *key))
        yield


@dataclass
class Draws:
    """The random streams of one run.

    `rows` draws in blocks whose length depends on the shape alone, because four draws of a hundred numbers are not
    one draw of four hundred. The cache is a convenience: dropping it changes nothing.
    """

    seed: int
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    _blocks: dict[tuple[str, Kind], tuple[tuple[object, ...], Tensor]] = field(default_factory=dict, repr=False)

    def generator(self, stream: str, *key: int) -> torch.Generator:
        """A fresh generator at the start of the stream (`stream`, `key`)."""
        return torch.Generator(device=self.device).manual_seed(derive(self.seed, stream, *key))

    def draw(self, kind: Kind, stream: str, *key: int, shape: tuple[int, ...]) -> Tensor:
        """All numbers of one stream at once: `shape`, float32."""
        make: Callable[..., Tensor] = torch.randn if kind == "normal" else torch.rand
        return make(shape, generator=self.generator(stream, *key), device=self.device)

    def permutation(self, stream: str, *key: int, n: int) -> Tensor:
        """A permutation of 0..n-1, shape (n,), int64."""
        return torch.randperm(n, generator=self.generator(stream, *key), device=self.device)

    def rows(self, noise: Noise, stream: str, task: int, step: int) -> Tensor:
        """What `stream` gives to `step` of `task`: a tensor of `noise.shape`."""
        elements = max(1, torch.Size(noise.shape).numel())
        length = max(1, min(64, _BLOCK_ELEMENTS // elements))
        block, offset = divmod(step, length)
        tag = (task, block, noise.shape)
        cached = self._blocks.get((stream, noise.kind))
        if cached is None or cached[0] != tag:
            values = self.draw(noise.kind, stream, task, block, shape=(length, *noise.shape))
            cached = self._blocks[stream, noise.kind] = (tag, values)
        return cached[1][offset]

    def batch(self, wanted: Mapping[str, Noise], stream: str, task: int, step: int) -> dict[str, Tensor]:
        """The noise a module asks for, by name, for `step` of `task`."""
        return {name: self.rows(noise, f"{stream}.{name}", task, step) for name, noise in wanted.items()}
