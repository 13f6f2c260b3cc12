"""Small pieces that models and generators share."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Protocol, runtime_checkable

from torch import Tensor, nn

from gr_cli.nn.random_streams import NoiseSpec


@runtime_checkable
class HasTrainingNoise(Protocol):
    """A module that uses randomness while training and asks for it instead of drawing it."""

    def training_noise(self, batch_size: int) -> dict[str, NoiseSpec]:
        """The noise of one training step, by name; empty when there is none."""


@runtime_checkable
class HasFeatures(Protocol):
    """A solver in two halves, `readout(features(x))` being its logits."""

    @property
    def feature_size(self) -> int:
        """F."""

    def features(self, x: Tensor) -> Tensor:
        """Samples (B, ...) to what the last layer sees, (B, F)."""

    def readout(self, features: Tensor) -> Tensor:
        """That to logits (B, U)."""


@contextmanager
def train_mode(module: nn.Module, training: bool) -> Iterator[None]:
    """Put `module` into training or evaluation mode inside the block; after it each part is as it was.

    A part that is in evaluation mode beside others in training mode was frozen on purpose, and is not trained.
    """
    before = {part: part.training for part in module.modules()}
    module.train(training)
    if training and any(before.values()):
        for part, was in before.items():
            part.training &= was
    try:
        yield
    finally:
        for part, was in before.items():
            part.training = was


def dropout(x: Tensor, noise: Mapping[str, Tensor] | None, name: str, p: float | Tensor) -> Tensor:
    """Dropout with the randomness passed in: `noise[name]` uniform in [0, 1), of a shape that broadcasts to `x`.

    Without `noise`, or with p = 0, this is the identity: that is evaluation. `p` may be one number per replica, (R,).
    """
    if noise is None or name not in noise:
        return x
    uniform = noise[name]
    p = per_replica(p, uniform)
    return x * ((uniform >= p).to(uniform.dtype) * (1.0 / (1.0 - p)))


def per_replica(value: float | Tensor, like: Tensor) -> float | Tensor:
    """`value`, a number or one number per replica (R,), shaped so that it broadcasts to `like` (R, ...)."""
    if isinstance(value, Tensor):
        return value.to(like.dtype).view(-1, *[1] * (like.dim() - 1))
    return value
