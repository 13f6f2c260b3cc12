"""Computations with a hand-derived gradient, each one node of autograd.

Most of a small network's step is dispatch of operators and nodes of autograd. A computation that knows its own
derivative needs one node, few operators, and, where its inputs are parameters, no pass of autograd's engine at all.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.module import _has_any_global_hook

from gr_cli.nn.linear import Linear, gives_squared_gradients

# A number, or one for each replica (R,).
Scale = float | Tensor


class FusedComputation(ABC):
    """Outputs (R,), or of any shape, as a function of tensors, with the derivative written out.

    A subclass keeps in `forward` what `backward` needs, and changes none of it in `backward`: a graph that is kept is
    passed through twice. It must not keep its own outputs, which would refer to themselves through autograd's node.

    >>> class Square(FusedComputation):
    ...     def __init__(self, x):
    ...         self.inputs = (x,)
    ...     def forward(self):
    ...         return (self.inputs[0].square(),)
    ...     def backward(self, gradients, needed):
    ...         return [2 * gradients[0] * self.inputs[0]]
    >>> x = torch.tensor([3.0], requires_grad=True)
    >>> (y,) = evaluate(Square(x))
    >>> torch.autograd.grad(y, x)
    (tensor([6.]),)

    Attributes:
        inputs: The tensors whose gradients can be asked for.
    """

    inputs: tuple[Tensor, ...]

    @abstractmethod
    def forward(self) -> tuple[Tensor, ...]:
        """The outputs. Called once, without autograd."""

    @abstractmethod
    def backward(self, gradients: Sequence[Any], needed: Sequence[bool]) -> list[Tensor | None]:
        """Gradients of a loss with respect to the inputs; None where not needed.

        Args:
            gradients: Gradients of the loss with respect to the outputs, of their shapes; None for outputs that it does
                not depend on; a float may stand for a tensor (R,) of equal values.
            needed: Which inputs need gradients.
        """


class _Node(torch.autograd.Function):
    """A fused computation as a node of autograd, which can be differentiated once."""

    @staticmethod
    def forward(ctx: Any, computation: FusedComputation, *inputs: Tensor) -> tuple[Tensor, ...]:
        ctx.computation = computation
        ctx.set_materialize_grads(False)
        outputs = computation.forward()
        ctx.num_outputs = len(outputs)
        return outputs

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor | None) -> tuple[Tensor | None, ...]:
        # `once_differentiable` lets a second derivative pass as 0 if the first one's seed is a constant.
        if torch.is_grad_enabled():
            raise RuntimeError(
                "a fused loss can be differentiated once: no create_graph=True; a gradient rule that differentiates "
                "twice sets differentiates_twice = True"
            )
        return (None, *ctx.computation.backward(gradients, ctx.needs_input_grad[1:]))


def evaluate(computation: FusedComputation) -> tuple[Tensor, ...]:
    """The outputs of a computation, differentiable once."""
    outputs: tuple[Tensor, ...] = _Node.apply(computation, *computation.inputs)
    return outputs


def direct_gradients(terms: Sequence[tuple[Tensor, Scale]], parameters: Sequence[Tensor]) -> list[Tensor | None] | None:
    """Gradients of `sum(weight * value)`, without autograd's engine, where one fused computation gives all values.

    Args:
        terms: Values (R,) and their weights.
        parameters: Tensors to differentiate with respect to.

    Returns:
        Gradients of the parameters, None for those that no value depends on; or None: the values come from elsewhere,
        or hooks on a tensor ask for the engine.
    """
    node = terms[0][0].grad_fn if terms else None
    computation = getattr(node, "computation", None)
    if not isinstance(computation, FusedComputation) or any(value.grad_fn is not node for value, _ in terms):
        return None
    inputs = computation.inputs
    if any(not tensor.is_leaf or tensor._backward_hooks for tensor in inputs):
        return None
    if any(value._backward_hooks for value, _ in terms):
        return None
    output_gradients: list[Scale | None] = [None] * getattr(node, "num_outputs", 0)
    for value, weight in terms:
        previous = output_gradients[value.output_nr]
        output_gradients[value.output_nr] = weight if previous is None else previous + weight
    asked = {id(parameter) for parameter in parameters}
    with torch.no_grad():
        gradients = computation.backward(output_gradients, [t.requires_grad and id(t) in asked for t in inputs])
    by_tensor: dict[int, Tensor] = {}
    for tensor, gradient in zip(inputs, gradients, strict=True):
        if gradient is not None:  # a parameter may be used by several layers
            previous = by_tensor.get(id(tensor))
            by_tensor[id(tensor)] = gradient if previous is None else previous + gradient
    return [by_tensor.get(id(parameter)) for parameter in parameters]


def can_fuse(x: Tensor) -> bool:
    """Whether a computation on `x` may be fused here: recorded by autograd, in the precision of its tensors.

    Not inside `torch.func` transforms (per-sample gradients, `vmap`), autocast, or `per_sample_squared_gradients`.
    """
    return (
        torch.is_grad_enabled()
        and not torch._C._are_functorch_transforms_active()
        and not torch.is_autocast_enabled(x.device.type)
        and not gives_squared_gradients()
        and not _has_any_global_hook()
    )


def has_hooks(module: nn.Module) -> bool:
    """Whether a module has hooks, which run only if the module itself is called."""
    return bool(
        module._forward_hooks or module._forward_pre_hooks or module._backward_hooks or module._backward_pre_hooks
    )


def linear_parameters(layers: Sequence[nn.Module]) -> list[Tensor] | None:
    """Weight and bias of each layer in turn; None if one is no `Linear` with bias, or has hooks."""
    parameters: list[Tensor] = []
    for layer in layers:
        if type(layer) is not Linear or has_hooks(layer):
            return None
        weight, bias = layer._parameters.get("weight"), layer._parameters.get("bias")  # spares two slow look-ups
        if weight is None or bias is None:
            return None
        parameters += (weight, bias)
    return parameters


def defines(module: nn.Module, owner: type[nn.Module], *methods: str) -> bool:
    """Whether `methods` of `module` are those that `owner` defines, overridden by no subclass and no instance."""
    return not has_hooks(module) and all(
        getattr(type(module), name) is getattr(owner, name) and name not in module.__dict__ for name in methods
    )
