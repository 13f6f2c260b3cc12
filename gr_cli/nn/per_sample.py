"""Gradients of single samples, without a tensor for each: their norms and weighted sums.

A layer's gradient for one sample follows from what the layer took in and the gradient of what it gave out. For fully
connected layers and convolutions it is a product of two small matrices, whose norm and weighted sum over samples need
no gradient per sample (Goodfellow 2015; Li et al. 2022; Bu et al. 2022).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call, vjp, vmap

from gr_cli.nn.linear import weight_gradient
from gr_cli.nn.losses import sum_tensors

_ROUNDING = torch.finfo(torch.float64).eps  # twice the largest relative error of an operation
_CHUNK = {"cpu": 2**18, "cuda": 2**25}  # float64 values at a time in the largest tensor of a norm: on CPUs a cache's


class SampleGradients(ABC):
    """Gradients of B samples with respect to one parameter; tensors may have a leading replica axis."""

    @abstractmethod
    def squared_norms(self) -> Tensor:
        """Squared Euclidean norms (B,) in float64, and never below the exact ones of the gradients' values.

        An upper bound of the rounding error is added to what is computed.
        """

    @abstractmethod
    def weighted_sum(self, weights: Tensor) -> Tensor:
        """The sum over samples under weights (B,), flattened or in the parameter's shape; weights of gradients with
        values that are not finite must be 0, and leave these out.
        """


@dataclass(frozen=True)
class DenseGradients(SampleGradients):
    """Gradients (B, P) themselves: for parameters with few values, such as biases."""

    values: Tensor

    def squared_norms(self) -> Tensor:
        norms = torch.linalg.vector_norm(self.values, dim=-1, dtype=torch.float64)
        squares: Tensor = norms.square() * (1 + (self.values.shape[-1] + 8) * _ROUNDING)
        return squares

    def weighted_sum(self, weights: Tensor) -> Tensor:
        finite = self.values.nan_to_num(0.0, 0.0, 0.0)  # 0 times infinity is NaN
        return (weights.unsqueeze(-2) @ finite).squeeze(-2)


@dataclass(frozen=True)
class ProductGradients(SampleGradients):
    """Gradients (M, N) that are the product of two matrices with L rows: sum over l of left[l] right[l]^T.

    L is the number of times that a layer was called on a sample, or the number of positions of a feature map.
    """

    left: Tensor  # (B, L, M)
    right: Tensor  # (B, L, N)

    def squared_norms(self) -> Tensor:
        positions, m, n = self.left.shape[-2], self.left.shape[-1], self.right.shape[-1]
        size = max(1, _CHUNK.get(self.left.device.type, 2**25) // max(positions * m, positions * n, positions**2, 1))
        pairs = zip(self.left.split(size, -3), self.right.split(size, -3), strict=True)
        return torch.cat([_squared_norms(left, right) for left, right in pairs], -1)

    def weighted_sum(self, weights: Tensor) -> Tensor:
        scaled = self.left * weights[..., None, None]
        return weight_gradient(scaled.flatten(-3, -2), self.right.flatten(-3, -2))


def _squared_norms(left: Tensor, right: Tensor) -> Tensor:
    """Upper bounds (B,) of the squared norms of products (M, N) in float64, tight up to rounding.

    With S the sum over l of `|left[l]| |right[l]|`, the rounding of products of Gram matrices is at most
    (M + N + L²) u S², and that of the product itself (3 L + M N) u S², with u half of `_ROUNDING` (Higham 2002,
    section 3.5). Where the terms of a gradient cancel, S is much larger than its norm.
    """
    positions, m, n = left.shape[-2], left.shape[-1], right.shape[-1]
    left, right = left.double(), right.double()
    lengths = left.square().sum(-1) * right.square().sum(-1)  # (B, L), squared
    if positions == 1:
        return lengths.squeeze(-1) * (1 + (m + n + 8) * _ROUNDING)
    if 2 * positions**2 <= m * n:
        squares = ((left @ left.mT) * (right @ right.mT)).sum((-2, -1)).clamp(min=0)
        operations = m + n + positions**2
    else:
        squares = (left.mT @ right).square().sum((-2, -1))
        operations = 3 * positions + m * n
    return squares + (operations + 8) * _ROUNDING * lengths.sqrt().sum(-1).square()


Gradients = dict[str, SampleGradients]


def sample_gradients(layer: nn.Module, parameters: Mapping[str, Tensor], x: Tensor, gradient: Tensor) -> Gradients:
    """Gradients of samples for each parameter of a layer, by local name.

    Args:
        layer: A layer that treats samples separately.
        parameters: The parameters that it was called with, by local name.
        x: Its input (B, ...); (R, B, I) for a fully connected layer with the parameters of R replicas.
        gradient: Gradient of the sum of the samples' losses with respect to its output.
    """
    gradients_of = next((rule for kind, rule in _GRADIENTS.items() if isinstance(layer, kind)), None)
    gradients = None if gradients_of is None else gradients_of(layer, x, gradient)
    return _by_vmap(layer, dict(parameters), x, gradient) if gradients is None else gradients


def join_calls(gradients: Sequence[SampleGradients]) -> SampleGradients:
    """The gradients for a parameter of a layer that was called several times: their sums."""
    if len(gradients) == 1:
        return gradients[0]
    products = [each for each in gradients if isinstance(each, ProductGradients)]
    if products:
        left, right = ([getattr(each, side) for each in products] for side in ("left", "right"))
        return ProductGradients(torch.cat(left, -2), torch.cat(right, -2))
    return DenseGradients(sum_tensors([each.values for each in gradients if isinstance(each, DenseGradients)]))


def _rows(values: Tensor, has_replicas: bool = False) -> Tensor:
    """(B, ..., N), or (R, B, N), to (B, L, N) or (R, B, 1, N)."""
    return values.unsqueeze(-2) if has_replicas or values.dim() == 2 else values.flatten(1, -2)


def _linear(layer: nn.Linear, x: Tensor, gradient: Tensor) -> Gradients:
    has_replicas = layer.weight.dim() == 3
    left = _rows(gradient, has_replicas)
    return {"weight": ProductGradients(left, _rows(x, has_replicas)), "bias": DenseGradients(left.sum(-2))}


def _convolution(layer: nn.Conv2d, x: Tensor, gradient: Tensor) -> Gradients | None:
    if layer.groups != 1 or layer.padding_mode != "zeros" or isinstance(layer.padding, str):
        return None
    patches = F.unfold(x, layer.kernel_size, layer.dilation, layer.padding, layer.stride).mT  # (B, L, C k k)
    left = gradient.flatten(2).mT  # (B, L, O)
    return {"weight": ProductGradients(left, patches), "bias": DenseGradients(left.sum(-2))}


def _transposed_convolution(layer: nn.ConvTranspose2d, x: Tensor, gradient: Tensor) -> Gradients | None:
    if layer.groups != 1 or isinstance(layer.padding, str):
        return None
    # It is the adjoint of a convolution from output to input, so both change places.
    patches = F.unfold(gradient, layer.kernel_size, layer.dilation, layer.padding, layer.stride).mT  # (B, L, O k k)
    bias = DenseGradients(gradient.flatten(2).sum(-1))
    return {"weight": ProductGradients(x.flatten(2).mT, patches), "bias": bias}


def _embedding(layer: nn.Embedding, x: Tensor, gradient: Tensor) -> Gradients:
    one_hot = F.one_hot(x, layer.num_embeddings).to(gradient.dtype)
    return {"weight": ProductGradients(_rows(one_hot), _rows(gradient))}


def _group_norm(layer: nn.GroupNorm, x: Tensor, gradient: Tensor) -> Gradients:
    normalized = F.group_norm(x, layer.num_groups, eps=layer.eps)
    scale, shift = ((gradient * factor).flatten(2).sum(-1) for factor in (normalized, 1.0))
    return {"weight": DenseGradients(scale), "bias": DenseGradients(shift)}


_GRADIENTS: dict[type[nn.Module], Callable[[Any, Tensor, Tensor], Gradients | None]] = {
    nn.Linear: _linear,
    nn.Conv2d: _convolution,
    nn.ConvTranspose2d: _transposed_convolution,
    nn.Embedding: _embedding,
    nn.GroupNorm: _group_norm,
}


def _by_vmap(layer: nn.Module, parameters: dict[str, Tensor], x: Tensor, gradient: Tensor) -> Gradients:
    """Gradients of any layer, one for each sample."""

    def gradient_of_sample(x: Tensor, gradient: Tensor) -> dict[str, Tensor]:
        pull_back = vjp(lambda values: functional_call(layer, values, (x.unsqueeze(0),)), parameters)[1]
        values: dict[str, Tensor] = pull_back(gradient.unsqueeze(0))[0]
        return values

    values = vmap(gradient_of_sample)(x, gradient)
    return {name: DenseGradients(value.flatten(1)) for name, value in values.items()}
