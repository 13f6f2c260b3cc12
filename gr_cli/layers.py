"""Small pieces that models and generators share."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol, runtime_checkable

from torch import Tensor

from gr_cli.randomness import Noise


@runtime_checkable
class NeedsNoise(Protocol):
    """A module that uses randomness while training and asks for it instead of drawing it."""

    def noise(self, batch_size: int) -> dict[str, Noise]:
        """The noise of one training step, by name; empty when there is none."""
        ...


def drop(x: Tensor, noise: Mapping[str, Tensor] | None, name: str, p: float) -> Tensor:
    """Dropout with the randomness passed in: `noise[name]` uniform in [0, 1), of a shape that broadcasts to `x`.

    Without `noise`, or with p = 0, this is the identity: that is evaluation.
    """
    if noise is None or name not in noise:
        return x
    return x * (noise[name] >= p) / (1.0 - p)
