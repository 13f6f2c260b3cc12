"""Computations with a hand-derived gradient, each one node of autograd.

Most of a small network's step is dispatch of operators and nodes of autograd. A computation that knows its own
derivative needs one node, few operators, and, where its inputs are parameters, no pass of autograd's engine at all.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from operator import is_
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
    def forward(
        ctx: Any, computation: FusedComputation, outputs: tuple[Tensor, ...], *inputs: Tensor
    ) -> tuple[Tensor, ...]:
        ctx.computation = computation
        ctx.set_materialize_grads(False)
        # Tensors of their own: the evaluation keeps these, so with the node they would refer to each other.
        return tuple(output.detach() for output in outputs)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor | None) -> tuple[Tensor | None, ...]:
        # `once_differentiable` lets a second derivative pass as 0 if the first one's seed is a constant.
        if torch.is_grad_enabled():
            raise RuntimeError(
                "a fused loss can be differentiated once: no create_graph=True; a gradient rule that differentiates "
                "twice sets differentiates_twice = True"
            )
        return (None, None, *ctx.computation.backward(gradients, ctx.needs_input_grad[2:]))


class _NoGrad:
    """`torch.no_grad()` in a third of its calls of Python."""

    __slots__ = ("_was_enabled",)

    def __enter__(self) -> None:
        self._was_enabled = torch.is_grad_enabled()
        torch._C._set_grad_enabled(False)

    def __exit__(self, *_: object) -> None:
        torch._C._set_grad_enabled(self._was_enabled)


class _Evaluation:
    """A computation with its outputs, which become a node of autograd when the first of them is asked for as one."""

    __slots__ = ("computation", "outputs", "recorded")

    def __init__(self, computation: FusedComputation) -> None:
        self.computation = computation
        with _NoGrad():
            self.outputs = computation.forward()
        self.recorded: tuple[Tensor, ...] | None = None

    def record(self) -> tuple[Tensor, ...]:
        if self.recorded is None:
            self.recorded = _Node.apply(self.computation, self.outputs, *self.computation.inputs)
        return self.recorded


class FusedValue:
    """One output of a fused computation.

    Attributes:
        detached: Its value, without autograd.
    """

    __slots__ = ("_evaluation", "_index", "detached")

    def __init__(self, evaluation: _Evaluation, index: int) -> None:
        self._evaluation, self._index, self.detached = evaluation, index, evaluation.outputs[index]

    @property
    def differentiable(self) -> Tensor:
        """The value as a tensor that autograd can differentiate once."""
        return self._evaluation.record()[self._index]


Value = Tensor | FusedValue


def fused_values(computation: FusedComputation) -> list[FusedValue]:
    """The outputs of a computation."""
    evaluation = _Evaluation(computation)
    return [FusedValue(evaluation, i) for i in range(len(evaluation.outputs))]


def evaluate(computation: FusedComputation) -> tuple[Tensor, ...]:
    """The outputs of a computation as tensors that autograd can differentiate once."""
    return _Evaluation(computation).record()


def differentiable(value: Value) -> Tensor:
    """A value as a tensor in autograd's graph."""
    return value if isinstance(value, Tensor) else value.differentiable


def detached(value: Value) -> Tensor:
    """A value without autograd."""
    return value.detach() if isinstance(value, Tensor) else value.detached


def direct_gradients(terms: Sequence[tuple[Value, Scale]], parameters: Sequence[Tensor]) -> list[Tensor | None] | None:
    """Gradients of `sum(weight * value)`, without autograd's engine, where one fused computation gives all values.

    Args:
        terms: Values (R,) and their weights.
        parameters: Tensors to differentiate with respect to.

    Returns:
        Gradients of the parameters, None for those that no value depends on; or None: the values come from elsewhere,
        or hooks on a tensor ask for the engine.
    """
    if not terms or not isinstance(terms[0][0], FusedValue):
        return None
    evaluation = terms[0][0]._evaluation
    output_gradients: list[Scale | None] = [None] * len(evaluation.outputs)
    for value, weight in terms:
        if not isinstance(value, FusedValue) or value._evaluation is not evaluation:
            return None
        previous = output_gradients[value._index]
        output_gradients[value._index] = weight if previous is None else previous + weight
    computation = evaluation.computation
    inputs = computation.inputs
    for tensor in inputs:
        if not tensor.is_leaf or tensor._backward_hooks:
            return None
    if any(value._backward_hooks for value in evaluation.recorded or ()):
        return None
    before = len(inputs) - len(parameters)  # inputs that precede the parameters, as a batch does
    asked = {id(parameter) for parameter in parameters}
    is_shared = any(id(tensor) in asked for tensor in inputs[: max(0, before)])  # by several layers
    if before >= 0 and not is_shared and all(map(is_, inputs[before:], parameters)):
        needed = [False] * before + [parameter.requires_grad for parameter in parameters]
        with _NoGrad():
            return computation.backward(output_gradients, needed)[before:]
    with _NoGrad():
        gradients = computation.backward(output_gradients, [id(t) in asked and t.requires_grad for t in inputs])
        by_tensor: dict[int, Tensor] = {}
        for tensor, gradient in zip(inputs, gradients, strict=True):
            if gradient is not None:  # a parameter may be used by several layers
                earlier = by_tensor.get(id(tensor))
                by_tensor[id(tensor)] = gradient if earlier is None else earlier + gradient
    return [by_tensor.get(id(parameter)) for parameter in parameters]


def can_fuse(x: Tensor) -> bool:
    """Whether a computation on `x` may be fused here: recorded by autograd, in the precision of its tensors.

    Not inside `torch.func` transforms (per-sample gradients, `vmap`), autocast, or `per_sample_squared_gradients`.
    """
    return (
        torch.is_grad_enabled()
        and not torch._C._are_functorch_transforms_active()
        and not (torch._C._is_any_autocast_enabled() and torch.is_autocast_enabled(x.device.type))
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
        own = layer._parameters  # spares two slow look-ups
        weight, bias = own.get("weight"), own.get("bias")
        if weight is None or bias is None:
            return None
        parameters += (weight, bias)
    return parameters


def defines(module: nn.Module, owner: type[nn.Module], *methods: str) -> bool:
    """Whether `methods` of `module` are those that `owner` defines, overridden by no subclass and no instance."""
    of_class = type(module) is owner or all(getattr(type(module), name) is getattr(owner, name) for name in methods)
    return of_class and not has_hooks(module) and module.__dict__.keys().isdisjoint(methods)
