"""Weight initialization."""

from __future__ import annotations

from math import prod
from typing import cast

from torch import Tensor, nn


def init_he_(*layers: nn.Module) -> None:
    """He initialization, uniform, for layers before a ReLU (He et al. 2015); biases 0.

    torch's default shrinks signals layer by layer, which slows training over a few hundred steps.
    """
    for layer in layers:
        weight = cast(Tensor, layer.weight)
        fan_in = weight[0].numel()
        if isinstance(layer, nn.ConvTranspose2d):
            # With a stride, each output value sums over this part of the kernel only.
            fan_in = weight[:, 0].numel() // prod(layer.stride)
        nn.init.uniform_(weight, -((6 / fan_in) ** 0.5), (6 / fan_in) ** 0.5)
        nn.init.zeros_(cast(Tensor, layer.bias))


def init_xavier_(*layers: nn.Module) -> None:
    """Xavier initialization, uniform, for layers without a ReLU (Glorot & Bengio 2010); biases 0."""
    for layer in layers:
        nn.init.xavier_uniform_(cast(Tensor, layer.weight))
        nn.init.zeros_(cast(Tensor, layer.bias))
