"""Optimizers as values: settings in a frozen dataclass, state in a dict of tensors that is passed in.

Steps use torch's fused kernels. `torch.optim` classes are slower on small networks, and importing them imports a
compiler.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

from gr_cli.errors import ConfigError
from gr_cli.types import Betas, FractionBelowOne, NonNegative, NonNegativeInt, Positive

Schedule = Literal["constant", "cosine", "linear"]
OptimizerState = dict[str, list[Tensor]]


@dataclass(frozen=True, kw_only=True)
class Optimizer(ABC):
    """Settings common to all optimizers.

    Subclasses define the initial state and one step on lists of tensors:

        >>> class SignSGD(Optimizer):
        ...     def init_state(self, parameters):
        ...         return {}
        ...
        ...     def step(self, parameters, gradients, state, lr):
        ...         for parameter, gradient in zip(parameters, gradients):
        ...             parameter.sub_(lr * gradient.sign())
        >>> parameters = [torch.tensor([1.0, -1.0])]
        >>> SignSGD(lr=0.1).step(parameters, [torch.tensor([5.0, -2.0])], {}, lr=0.1)
        >>> parameters
        [tensor([ 0.9000, -0.9000])]

    Args:
        lr: Learning rate; with a schedule or warmup its maximum.
        weight_decay: Weight decay as this optimizer defines it.
        reset_per_task: Whether the optimizer's state (moments, momentum) is reset at the start of each task.
        schedule: Learning rate over one task: `constant`, or decayed to 0 at its end along a cosine (`cosine`) or a
            line (`linear`).
        warmup: Iterations at the start of each task over which the learning rate rises linearly.
    """

    lr: Positive = 0.001
    weight_decay: NonNegative = 0.0
    reset_per_task: bool = False
    schedule: Schedule = "constant"
    warmup: NonNegativeInt = 0

    @abstractmethod
    def init_state(self, parameters: Sequence[Tensor]) -> OptimizerState:
        """The state before the first step: a list with one tensor per parameter, by name."""

    @abstractmethod
    def step(self, parameters: list[Tensor], gradients: list[Tensor], state: OptimizerState, lr: float) -> None:
        """One step, which changes parameters and state in place.

        Args:
            parameters: Parameters.
            gradients: Their gradients, with the same memory layout.
            state: State of these parameters, as from `init_state`.
            lr: Learning rate of this step.
        """

    def lr_at(self, iteration: int, iterations: int) -> float:
        """The learning rate of step `iteration` (from 0) of a task of `iterations` steps."""
        if iteration < self.warmup:
            return self.lr * (iteration + 1) / self.warmup
        if self.schedule == "constant":
            return self.lr
        progress = (iteration - self.warmup) / max(1, iterations - self.warmup)
        return self.lr * (1.0 - progress if self.schedule == "linear" else 0.5 * (1.0 + math.cos(math.pi * progress)))


@dataclass(frozen=True, kw_only=True)
class Adam(Optimizer):
    """Adam (Kingma & Ba 2015).

    Args:
        betas: Decay rates of the first and second moment estimates, each in [0, 1).
        eps: Added to the square root of the second moment estimate in the denominator.
    """

    betas: Betas = (0.9, 0.999)
    eps: Positive = 1e-8

    def init_state(self, parameters: Sequence[Tensor]) -> OptimizerState:
        return {
            "first": [torch.zeros_like(p) for p in parameters],
            "second": [torch.zeros_like(p) for p in parameters],
            # One shared count, until some parameters skip a step.
            "steps": [torch.zeros((), device=parameters[0].device)] * len(parameters) if parameters else [],
        }

    def step(self, parameters: list[Tensor], gradients: list[Tensor], state: OptimizerState, lr: float) -> None:
        steps = state["steps"]
        torch._foreach_add_(list({id(count): count for count in steps}.values()), 1)
        self._kernel(
            parameters,
            gradients,
            state["first"],
            state["second"],
            [],
            steps,
            amsgrad=False,
            lr=lr,
            beta1=self.betas[0],
            beta2=self.betas[1],
            weight_decay=self.weight_decay,
            eps=self.eps,
            maximize=False,
        )

    _kernel: ClassVar[Any] = staticmethod(torch._fused_adam_)


@dataclass(frozen=True, kw_only=True)
class AdamW(Adam):
    """AdamW: Adam with decoupled weight decay (Loshchilov & Hutter 2019).

    Args:
        weight_decay: Decoupled weight decay, multiplied by the learning rate.
    """

    weight_decay: NonNegative = 0.01

    _kernel: ClassVar[Any] = staticmethod(torch._fused_adamw_)


@dataclass(frozen=True, kw_only=True)
class SGD(Optimizer):
    """Stochastic gradient descent, optionally with (Nesterov) momentum.

    Args:
        momentum: Momentum factor; 0: none.
        nesterov: Whether the momentum is Nesterov's; needs `momentum` > 0.
    """

    lr: Positive = 0.1
    momentum: FractionBelowOne = 0.0
    nesterov: bool = False

    def __post_init__(self) -> None:
        if self.nesterov and not self.momentum:
            raise ConfigError("optimizer.nesterov", "true", "needs momentum", "try optimizer.momentum=0.9")

    def init_state(self, parameters: Sequence[Tensor]) -> OptimizerState:
        return {"momentum": [torch.zeros_like(p) for p in parameters]} if self.momentum else {}

    def step(self, parameters: list[Tensor], gradients: list[Tensor], state: OptimizerState, lr: float) -> None:
        torch._fused_sgd_(
            parameters,
            gradients,
            state.get("momentum", []),
            weight_decay=self.weight_decay,
            momentum=self.momentum,
            lr=lr,
            dampening=0.0,
            nesterov=self.nesterov,
            maximize=False,
            # Without dampening, a momentum buffer of 0 equals one that starts as the first gradient.
            is_first_step=False,
        )


class FunctionalOptimizer:
    """Optimizer of one set of parameters for all replicas, with its state.

    Consecutive replicas with the same settings are one parameter group, with one step for all.

    Args:
        parameters: Parameters, changed in place; (R, ...) each if R > 1.
        optimizers: Settings of each replica.
    """

    def __init__(self, parameters: Sequence[Tensor], optimizers: Sequence[Optimizer]) -> None:
        self._num_replicas, self.parameters = len(optimizers), list(parameters)
        self._param_groups: list[tuple[Optimizer, slice, list[Tensor]]] = []
        start = 0
        for optimizer, group in groupby(optimizers):
            stop = start + len(list(group))
            group_parameters = (
                list(parameters) if self._num_replicas == 1 else [p.detach()[start:stop] for p in parameters]
            )
            self._param_groups.append((optimizer, slice(start, stop), group_parameters))
            start = stop
        self._states: list[OptimizerState] = [{} for _ in self._param_groups]

    def rebind_parameters(self, parameters: Sequence[Tensor]) -> None:
        """Replace the parameters of a single replica.

        The state of parameters that stay is preserved; that of new ones is initialized.
        """
        ((optimizer, replicas, _),), (old_state,) = self._param_groups, self._states
        old_index = {id(p): i for i, p in enumerate(self.parameters)}
        self.parameters = list(parameters)
        self._param_groups = [(optimizer, replicas, self.parameters)]
        if not old_state:
            return
        state = optimizer.init_state(self.parameters)
        for name, values in state.items():
            for i, parameter in enumerate(self.parameters):
                old_value = old_state[name][old_index[id(parameter)]] if id(parameter) in old_index else None
                if old_value is not None and old_value.shape == values[i].shape:
                    values[i] = old_value
        self._states = [state]

    def begin_task(self, reset: bool = False) -> None:
        """Drop the state where `reset_per_task` is set, or if `reset`; the next step initializes it."""
        for i, (optimizer, _, _) in enumerate(self._param_groups):
            if reset or optimizer.reset_per_task:
                self._states[i] = {}

    @torch.no_grad()
    def step(self, gradients: Sequence[Tensor | None], learning_rate: Callable[[Optimizer], float]) -> None:
        """One optimizer step.

        Args:
            gradients: Gradients of all parameters; those with None are not changed.
            learning_rate: Learning rate for the settings of a group.
        """
        # The fused kernels require gradients with the memory layout of their parameters.
        aligned_gradients = [
            g if g is None or g.stride() == p.stride() else torch.empty_like(p).copy_(g)
            for p, g in zip(self.parameters, gradients, strict=True)
        ]
        present = [i for i, g in enumerate(aligned_gradients) if g is not None]
        if not present:
            return
        self._initialize_states()
        is_complete = len(present) == len(aligned_gradients)
        if not is_complete:
            self._separate_step_counts()
        for (optimizer, replicas, parameters), state in zip(self._param_groups, self._states, strict=True):
            group_gradients = aligned_gradients
            if len(self._param_groups) > 1:
                group_gradients = [None if g is None else g[replicas] for g in aligned_gradients]
            if not is_complete:
                parameters, group_gradients = [parameters[i] for i in present], [group_gradients[i] for i in present]
                state = {name: [values[i] for i in present] for name, values in state.items()}
            optimizer.step(parameters, group_gradients, state, learning_rate(optimizer))  # type: ignore[arg-type]

    def _initialize_states(self) -> None:
        """Initialize states before their first step, so that parameters that are never trained have none."""
        for i, (optimizer, _, parameters) in enumerate(self._param_groups):
            if not self._states[i]:
                self._states[i] = optimizer.init_state(parameters)

    def _separate_step_counts(self) -> None:
        """Give each parameter its own step count, once some of them skip a step."""
        for state in self._states:
            steps = state.get("steps", [])
            if len({id(count) for count in steps}) < len(steps):
                state["steps"] = [count.clone() for count in steps]

    def state_of(self, replica: int) -> OptimizerState:
        """The state of one replica, without the replica axis."""
        for (_, replicas, _), state in zip(self._param_groups, self._states, strict=True):
            if replicas.start <= replica < replicas.stop:
                index = None if self._num_replicas == 1 else replica - replicas.start
                return {
                    name: [(v if index is None or name == "steps" else v[index]).clone() for v in values]
                    for name, values in state.items()
                }
        raise IndexError(replica)

    def load_states(self, states: Sequence[OptimizerState]) -> None:
        """Restore the states of all replicas, as from `state_of`."""
        for i, (_, replicas, parameters) in enumerate(self._param_groups):
            group_states, device = states[replicas], parameters[0].device
            self._states[i] = {}
            for name, values in group_states[0].items():
                if name == "steps":
                    self._states[i][name] = _step_counts(values, device)
                elif self._num_replicas == 1:
                    self._states[i][name] = [value.clone().to(device) for value in values]
                else:
                    stacked = (torch.stack(tensors) for tensors in zip(*(s[name] for s in group_states), strict=True))
                    self._states[i][name] = [value.to(device) for value in stacked]


def _step_counts(values: list[Tensor], device: torch.device) -> list[Tensor]:
    """Step counts on `device`: one shared tensor if all are equal, else a copy of each."""
    if all(torch.equal(value, values[0]) for value in values):
        return [values[0].to(device, copy=True)] * len(values)
    return [value.to(device, copy=True) for value in values]
