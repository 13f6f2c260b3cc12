"""Protocols and small functions shared by models and generators."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor, nn

from gr_cli.nn.random_streams import NoiseSpec


@runtime_checkable
class HasTrainingNoise(Protocol):
    """A module whose training step takes its random numbers as an argument (dropout)."""

    def training_noise(self, batch_size: int) -> dict[str, NoiseSpec]:
        """The noise of one training step, by name; empty if there is none."""


@runtime_checkable
class HasFeatures(Protocol):
    """A solver in two halves: its logits are `readout(features(x))`."""

    @property
    def feature_size(self) -> int:
        """Number of features F."""

    def features(self, x: Tensor) -> Tensor:
        """Samples (B, ...) to the inputs of the last layer, (B, F)."""

    def readout(self, features: Tensor) -> Tensor:
        """Features (B, F) to logits (B, U)."""


@contextmanager
def train_mode(module: nn.Module, training: bool) -> Iterator[None]:
    """Set a module to training or evaluation mode within the block, and restore each submodule's mode after it.

    Submodules that are in evaluation mode while others are in training mode were frozen by the user and stay so.
    """
    modes = {submodule: submodule.training for submodule in module.modules()}
    module.train(training)
    if training and any(modes.values()):
        for submodule, mode in modes.items():
            submodule.training &= mode
    try:
        yield
    finally:
        for submodule, mode in modes.items():
            submodule.training = mode


def dropout(x: Tensor, noise: Mapping[str, Tensor] | None, name: str, p: float | Tensor) -> Tensor:
    """Dropout with the random numbers passed in.

    Args:
        x: Activations.
        noise: Uniform random numbers in [0, 1) by name, shapes that broadcast to `x`; None: no dropout (evaluation).
        name: Name of the noise.
        p: Dropout probability, one number or one for each replica (R,).
    """
    mask = dropout_mask(noise, name, p)
    return x if mask is None else x * mask


def dropout_mask(noise: Mapping[str, Tensor] | None, name: str, p: float | Tensor) -> Tensor | None:
    """The factors of `dropout`, 0 or 1 / (1 - p) each, of the noise's shape; None: no dropout."""
    if noise is None or name not in noise:
        return None
    uniform = noise[name]
    p = per_replica(p, uniform)
    if torch._C._are_functorch_transforms_active():
        is_kept = (uniform >= p).to(uniform.dtype)
    else:  # in place on a copy, five times as fast as booleans that are converted; `vmap` has no rule for it
        is_kept = uniform.clone().ge_(p)
    return is_kept.mul_(1.0 / (1.0 - p))


def per_replica(value: float | Tensor, like: Tensor) -> float | Tensor:
    """`value`, a number or one for each replica (R,), in a shape that broadcasts to `like` (R, ...)."""
    if isinstance(value, Tensor):
        return value.to(like.dtype).view(-1, *[1] * (like.dim() - 1))
    return value


def replica_value(value: float | Tensor, replica: int) -> float:
    """The setting of one replica from `value`, a number or one for each replica (R,)."""
    return float(value[replica]) if isinstance(value, Tensor) else value
