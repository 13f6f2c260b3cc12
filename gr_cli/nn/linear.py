"""Fully connected layers with a replica axis, and squared per-sample gradients."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gr_cli.nn.products import onednn_is_faster, product


class Linear(nn.Linear):
    """A fully connected layer whose parameters, as its input, may have a leading replica axis.

    Networks that consist of such layers and use `num_leading_axes` set `supports_leading_axes`: their replicas are
    called directly, which is faster than `torch.func.vmap`.
    """

    @property
    def num_leading_axes(self) -> int:
        """Number of axes before a sample's values: batch, and replicas if there are any."""
        return self.weight.dim() - 1

    def forward(self, x: Tensor) -> Tensor:
        if self.weight.dim() == 2:
            if _squares_per_sample.get():
                squares: Tensor = _SquaredLinear.apply(x, self.weight, self.bias)
                return squares
            if not self._is_faster_as_function(x):
                return F.linear(x, self.weight, self.bias)
        out: Tensor = _Linear.apply(x, self.weight, self.bias)
        return out

    def _is_faster_as_function(self, x: Tensor) -> bool:
        """Whether the products of `_Linear` are faster than those of torch, which a compiler can trace."""
        return (
            not torch.compiler.is_compiling()
            and x.dim() == 2
            and onednn_is_faster(x, self.out_features, of_layer=True)
            and not torch.is_autocast_enabled(x.device.type)
        )


class _Linear(torch.autograd.Function):
    """(R, B, I), (R, O, I), (R, O) -> (R, B, O), or all without R; gradients have the weights' memory layout."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        if torch.is_autocast_enabled(x.device.type):
            dtype = torch.get_autocast_dtype(x.device.type)
            x, weight, bias = x.to(dtype), weight.to(dtype), bias.to(dtype)
        ctx.save_for_backward(x, weight)
        return linear_output(x, weight, bias)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
        x, weight = ctx.saved_tensors
        needs_x, needs_weight, needs_bias = ctx.needs_input_grad
        return (
            input_gradient(gradient, weight) if needs_x else None,
            weight_gradient(gradient, x) if needs_weight else None,
            gradient.sum(-2) if needs_bias else None,
        )


def linear_output(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """x W^T + b: (R, B, I), (R, O, I), (R, O) -> (R, B, O), or all without R."""
    return product(x, weight.mT, bias)


def input_gradient(gradient: Tensor, weight: Tensor) -> Tensor:
    """Gradient of a loss with respect to x, from that with respect to x W^T + b.

    (R, B, O), (R, O, I) -> (R, B, I), or all without R.
    """
    return product(gradient, weight)


def weight_gradient(gradient: Tensor, x: Tensor) -> Tensor:
    """Gradient of a loss with respect to W, from that with respect to x W^T + b.

    (R, B, O), (R, B, I) -> (R, O, I), or all without R. The result has the memory layout of the weights.
    """
    return product(gradient.mT, x)


class _SquaredLinear(torch.autograd.Function):
    """(..., I), (O, I), (O,) -> (..., O), with sums of squared per-sample gradients as gradients.

    A sample's gradient is the outer product g x, so the sum of their squares is a matrix product.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        ctx.save_for_backward(x, weight)
        ctx.has_bias = bias is not None
        return F.linear(x, weight, bias)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, Tensor, Tensor | None]:
        x, weight = ctx.saved_tensors
        input_gradient = gradient.to(weight.dtype) @ weight if ctx.needs_input_grad[0] else None
        squared = gradient.flatten(0, -2).to(weight.dtype).square()
        weight_gradient = squared.T @ x.flatten(0, -2).to(weight.dtype).square()
        return input_gradient, weight_gradient, squared.sum(0) if ctx.has_bias else None


_squares_per_sample: ContextVar[bool] = ContextVar("squares_per_sample", default=False)


def gives_squared_gradients() -> bool:
    """Whether backward passes give squared per-sample gradients here."""
    return _squares_per_sample.get()


@contextmanager
def per_sample_squared_gradients() -> Iterator[None]:
    """Within the block, backward passes give `Linear` parameters the sum over samples of squared per-sample gradients.

    For losses that are sums over samples, in networks that use each layer once per sample.
    """
    token = _squares_per_sample.set(True)
    try:
        yield
    finally:
        _squares_per_sample.reset(token)
