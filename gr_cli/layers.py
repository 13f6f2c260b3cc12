"""Small pieces that models and generators share."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from itertools import pairwise
from math import prod
from typing import Any, Protocol, cast, runtime_checkable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gr_cli.randomness import Noise


@runtime_checkable
class NeedsNoise(Protocol):
    """A module that uses randomness while training and asks for it instead of drawing it."""

    def noise_needed(self, batch_size: int) -> dict[str, Noise]:
        """The noise of one training step, by name; empty when there is none."""
        ...


@runtime_checkable
class HasFeatures(Protocol):
    """A solver in two halves, `readout(features(x))` being its logits."""

    @property
    def feature_size(self) -> int:
        """F."""
        ...

    def features(self, x: Tensor) -> Tensor:
        """Samples (B, ...) to what the last layer sees, (B, F)."""
        ...

    def readout(self, features: Tensor) -> Tensor:
        """That to logits (B, U)."""
        ...


class Linear(nn.Linear):
    """A fully connected layer whose parameters may carry a leading replica axis, as its input then does.

    A network that is made of such layers, and counts its own leading axes by `leading`, says `takes_leading_axes`:
    then replicas of it are called directly, which costs less than torch's `vmap`.
    """

    @property
    def leading(self) -> int:
        """Number of axes before the values of a sample: the batch's, and the replicas' if there are any."""
        return self.weight.dim() - 1

    def forward(self, x: Tensor) -> Tensor:
        if self.weight.dim() == 2:
            if _squaring.get():
                squares: Tensor = _SquaredLinear.apply(x, self.weight, self.bias)
                return squares
            return F.linear(x, self.weight, self.bias)
        out: Tensor = _StackedLinear.apply(x, self.weight, self.bias)
        return out


class _StackedLinear(torch.autograd.Function):
    """(R, B, I), (R, O, I), (R, O) -> (R, B, O). With a backward that lays gradients out as the weights are."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        if torch.is_autocast_enabled(x.device.type):
            kind = torch.get_autocast_dtype(x.device.type)
            x, weight, bias = x.to(kind), weight.to(kind), bias.to(kind)
        ctx.save_for_backward(x, weight)
        return torch.baddbmm(bias.unsqueeze(1), x, weight.transpose(1, 2))

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, Tensor, Tensor]:
        x, weight = ctx.saved_tensors
        wanted = torch.bmm(gradient, weight) if ctx.needs_input_grad[0] else None
        return wanted, torch.bmm(gradient.transpose(1, 2), x), gradient.sum(1)


class _SquaredLinear(torch.autograd.Function):
    """(..., I), (O, I), (O,) -> (..., O), with a backward that gives the weights sums of squares.

    A sample's own gradient is the outer product g x, and the sum of its squares is a matrix product again.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        ctx.save_for_backward(x, weight)
        ctx.has_bias = bias is not None
        return F.linear(x, weight, bias)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, Tensor, Tensor | None]:
        x, weight = ctx.saved_tensors
        wanted = gradient.to(weight.dtype) @ weight if ctx.needs_input_grad[0] else None
        squared = gradient.flatten(0, -2).to(weight.dtype).square()
        whole = squared.T @ x.flatten(0, -2).to(weight.dtype).square()
        return wanted, whole, squared.sum(0) if ctx.has_bias else None


_squaring: ContextVar[bool] = ContextVar("squaring", default=False)


@contextmanager
def squared_gradients() -> Iterator[None]:
    """Inside the block each `Linear` notes that a backward pass shall give its parameters the sum over samples of
    the squares of each sample's own gradient, instead of the sum of these gradients.

    For losses that are sums over samples, and networks that use a layer once for each sample.
    """
    token = _squaring.set(True)
    try:
        yield
    finally:
        _squaring.reset(token)


@contextmanager
def mode(module: nn.Module, training: bool) -> Iterator[None]:
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


@dataclass(frozen=True)
class Moments:
    """Mean and deviation of each channel of images, or of each entry of vectors; samples have so many `axes`."""

    mean: Sequence[float]
    deviation: Sequence[float]
    axes: int


class Normalised(nn.Module):
    """Samples less a mean, divided by a deviation, by channel; without `moments` they stay as they are.

    Args:
        moments: the means and deviations. They are part of the network's state.
    """

    mean: Tensor
    deviation: Tensor

    def __init__(self, moments: Moments | None) -> None:
        super().__init__()
        self.axes = 0 if moments is None else moments.axes
        if moments is not None:
            shape = (-1, *[1] * (moments.axes - 1))
            self.register_buffer("mean", torch.tensor(moments.mean).view(shape))
            self.register_buffer("deviation", torch.tensor(moments.deviation).view(shape))

    def forward(self, x: Tensor) -> Tensor:
        """Samples (B, ...), or (R, B, ...) where the moments have a leading replica axis."""
        if self.axes == 0:
            return x
        batch = -self.axes - 1
        return (x - self.mean.unsqueeze(batch)) / self.deviation.unsqueeze(batch)


def convolutions(channels: Sequence[int]) -> nn.ModuleList:
    """Convolutions 3x3 from each number of channels to the next, each but the first of stride 2."""
    return nn.ModuleList(
        nn.Conv2d(a, b, 3, stride=1 if i == 0 else 2, padding=1) for i, (a, b) in enumerate(pairwise(channels))
    )


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


def drop(x: Tensor, noise: Mapping[str, Tensor] | None, name: str, p: float | Tensor) -> Tensor:
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
