"""Stacks of fully connected layers with ReLU and dropout, forward and hand-derived backward.

Layer l maps h_{l-1} (B, I) to

    a_l = h_{l-1} W_l^T + b_l            W_l (O, I), b_l (O,)
    h_l = m_l * max(a_l, 0)              m_l >= 0: a mask of dropout or gates (B, O), or none

and the last layer is linear, h_L = a_L. With G_l = dL / da_l (B, O), the chain rule
gives

    dL / dW_l     = G_l^T h_{l-1}        (O, I)
    dL / db_l     = sum over samples of G_l
    dL / dh_{l-1} = G_l W_l              (B, I)
    G_{l-1}       = m_{l-1} * [h_{l-1} > 0] * dL / dh_{l-1}

The last line needs no a_{l-1}: where the mask is not 0, h > 0 exactly where a > 0, and where it is 0 so is G. All
tensors may have a leading replica axis: x (R, B, I), W (R, O, I), b (R, O).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from gr_cli.nn.products import product

_relu_backward = torch.ops.aten.threshold_backward.grad_input


@dataclass(frozen=True)
class StackedNetwork:
    """A network that is a stack, and its input.

    Attributes:
        stack: The layers.
        x: Input (B, I), or (R, B, I) as the layers have a replica axis.
    """

    stack: ReluStack
    x: Tensor


class ReluStack:
    """The layers of one forward pass.

    Args:
        parameters: Weight and bias of each layer in turn: (O, I) and (O,), or with a replica axis.
        masks: Factors (B, O), at least 0 and constant, of all layers but the last; None for layers without.
    """

    def __init__(self, parameters: Sequence[Tensor], masks: Sequence[Tensor | None]) -> None:
        self.parameters, self.masks = tuple(parameters), masks
        self.weights, self.biases = self.parameters[::2], self.parameters[1::2]
        self._layer_inputs: list[Tensor] = []  # h_0 to h_{L-1}

    def forward(self, x: Tensor) -> Tensor:
        """x (B, I) to the output of the last layer (B, O)."""
        self._layer_inputs = [x]
        h = x
        for i, (weight, bias) in enumerate(zip(self.weights, self.biases, strict=True)):
            h = product(h, weight.mT, bias)
            if i < len(self.masks):
                h.relu_()
                if (mask := self.masks[i]) is not None:
                    h.mul_(mask)
                self._layer_inputs.append(h)
        return h

    def backward(
        self, gradient: Tensor, needed: Sequence[bool], needs_x: bool
    ) -> tuple[list[Tensor | None], Tensor | None]:
        """Gradients with respect to parameters and x.

        Args:
            gradient: dL / dh_L (B, O); not changed.
            needed: Which of the parameters need gradients.
            needs_x: Whether x does.

        Returns:
            Gradients of the parameters, in their memory layout, and of x; None where not needed.
        """
        gradients: list[Tensor | None] = [None] * len(self.parameters)
        last = len(self.weights) - 1
        # Below this layer no gradient is needed.
        first = 0 if needs_x else next((i // 2 for i, need in enumerate(needed) if need), last + 1)
        for i in range(last, first - 1, -1):
            if i < last:
                self._pass_relu(gradient, i)
            weight, h = self.weights[i], self._layer_inputs[i]
            if needed[2 * i]:
                gradients[2 * i] = product(gradient.mT, h)
            if needed[2 * i + 1]:
                gradients[2 * i + 1] = gradient.sum(-2)
            if i > first or needs_x:
                gradient = product(gradient, weight)
        return gradients, gradient if needs_x else None

    def _pass_relu(self, gradient: Tensor, i: int) -> None:
        """From dL / dh to dL / da of layer i, in place."""
        _relu_backward(gradient, self._layer_inputs[i + 1], 0, grad_input=gradient)
        if (mask := self.masks[i]) is not None:
            gradient.mul_(mask)
