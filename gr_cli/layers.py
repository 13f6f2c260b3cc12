"""Small pieces that models and generators share."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from math import prod
from typing import Protocol, cast, runtime_checkable

from torch import Tensor, nn

from gr_cli.randomness import Noise


@runtime_checkable
class NeedsNoise(Protocol):
    """A module that uses randomness while training and asks for it instead of drawing it."""

    def noise_needed(self, batch_size: int) -> dict[str, Noise]:
        """The noise of one training step, by name; empty when there is none."""
        ...


@contextmanager
def mode(module: nn.Module, training: bool) -> Iterator[None]:
    """Put `module` into training or evaluation mode inside the block; after it each part is as it was."""
    before = {part: part.training for part in module.modules()}
    module.train(training)
    try:
        yield
    finally:
        for part, was in before.items():
            part.training = was


def start_relu(*layers: nn.Module) -> None:
    """Initial weights that keep the scale of signals through ReLU layers (He et al. 2015); biases 0.

    torch's own shrink it layer by layer, and a generator that learns in a few hundred steps feels that.
    """
    for layer in layers:
        weight = cast(Tensor, layer.weight)
        fan_in = weight[0].numel()
        if isinstance(layer, nn.ConvTranspose2d):
            # With a stride, a value collects from that part of the kernel only.
            fan_in = weight[:, 0].numel() // prod(layer.stride)
        nn.init.uniform_(weight, -((6 / fan_in) ** 0.5), (6 / fan_in) ** 0.5)
        nn.init.zeros_(cast(Tensor, layer.bias))


def start_linear(*layers: nn.Module) -> None:
    """The same for layers with no ReLU behind them (Glorot & Bengio 2010)."""
    for layer in layers:
        nn.init.xavier_uniform_(cast(Tensor, layer.weight))
        nn.init.zeros_(cast(Tensor, layer.bias))


def drop(x: Tensor, noise: Mapping[str, Tensor] | None, name: str, p: float) -> Tensor:
    """Dropout with the randomness passed in: `noise[name]` uniform in [0, 1), of a shape that broadcasts to `x`.

    Without `noise`, or with p = 0, this is the identity: that is evaluation.
    """
    if noise is None or name not in noise:
        return x
    return x * (noise[name] >= p) / (1.0 - p)
