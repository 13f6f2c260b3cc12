"""Replicas: networks of one architecture that are trained together, called as one.

Everything that passes between learner and strategy has a leading axis of R replicas: samples (R, B, ...), losses
(R,). For R = 1 the network itself is called. For R > 1 the parameters of all replicas are stacked, (R, ...) each,
and one batched computation calls them all, or, where `supports_vmap` is false, one after the other. Networks are
written for one replica.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any, Generic, TypeVar, cast

import torch
from torch import Tensor, nn
from torch.func import functional_call, vmap

from gr_cli.nn.layers import train_mode

M = TypeVar("M", bound=nn.Module)


class Replicas(Generic[M]):
    """R networks of one architecture, whose parameters are views of stacked tensors.

    Args:
        modules: The networks.
        varying: Settings in which the networks differ, by the name of their attribute: a tensor (R,) each.

    Raises:
        ValueError: A network has a parameter under two names, so that it can't be stacked.
    """

    def __init__(self, modules: Sequence[M], varying: Mapping[str, Tensor] | None = None) -> None:
        self.modules = list(modules)
        self._varying = dict(varying or {})
        self._number = len(self.modules)  # also of a frozen copy, which has one module
        self._is_single = self._number == 1
        self._is_natively_batched = bool(getattr(self.modules[0], "supports_leading_axes", False))
        self._template: M = self.modules[0]
        self._architecture = self.modules[0]
        self._stacked_tensors: dict[str, Tensor] = {}
        self._methods: dict[str, _FunctionalMethod] = {}
        self._calls_one_by_one = self._never_in_vmap = not getattr(self.modules[0], "supports_vmap", True)
        self.called_replica: int | None = None
        if not self._is_single:
            self._stack()

    def _stack(self) -> None:
        """Stack the parameters and buffers of all networks, and make the originals views of them."""
        names = dict(self.modules[0].named_parameters())
        for name, _ in self.modules[0].named_parameters(remove_duplicate=False):
            if name not in names:
                raise ValueError(f"`{name}` is another name of a parameter")
        self._template = copy.deepcopy(self.modules[0])
        for method in ("named_parameters", "named_buffers"):
            for name, tensor in list(getattr(self.modules[0], method)()):
                stacked = torch.stack([_get_tensor(module, name).detach() for module in self.modules])
                for module, view in zip(self.modules, stacked, strict=True):
                    _get_tensor(module, name).data = view
                if isinstance(tensor, nn.Parameter):
                    stacked = nn.Parameter(stacked, requires_grad=tensor.requires_grad)
                self._stacked_tensors[name] = stacked
                if self._is_natively_batched:
                    owner, _, leaf = name.rpartition(".")
                    setattr(self._template.get_submodule(owner), leaf, stacked)
        if self._is_natively_batched:
            for name, value in self._varying.items():
                setattr(self._template, name, value)

    def select_parameters(self, selector: Callable[[M], Iterable[nn.Parameter]]) -> list[Tensor]:
        """The parameters that `selector` returns for a network: stacked (R, ...), or the network's own if R = 1."""
        selected = selector(self.modules[0])
        if self._is_single:
            return list(selected)
        names = {id(parameter): name for name, parameter in self.modules[0].named_parameters()}
        return [self._stacked_tensors[names[id(parameter)]] for parameter in selected]

    def noise_specs(self, method: str, batch_size: int) -> dict[str, Any]:
        """The noise specified by `method` of the networks; the union if they differ."""
        specs: dict[str, Any] = {}
        for module in self.modules[:1] if not self._varying else self.modules:
            specs |= getattr(module, method)(batch_size)
        return specs

    def call(self, method: str, *arguments: Any) -> Any:
        """Call `method` of all networks on `arguments`: tensors, or dicts of them, with the replica axis."""
        if self._is_single:
            result = getattr(self._template, method)(
                *(_map_tensors(argument, _without_replica_axis) for argument in arguments)
            )
            return _map_tensors(result, _add_replica_axis)
        if self._is_natively_batched:
            return getattr(self._template, method)(*arguments)
        if method not in self._methods:
            self._methods[method] = _FunctionalMethod(self._template, method)
        values = {f"module.{name}": value for name, value in self._stacked_tensors.items()}
        if self._calls_one_by_one:
            return self._call_one_by_one(self._methods[method], values, arguments)
        axes = tuple(0 if isinstance(argument, (Tensor, Mapping)) else None for argument in arguments)
        batched_call = vmap(self._methods[method].call, in_dims=(0, 0, *axes), randomness="error")
        return batched_call(values, self._varying, *arguments)

    def _call_one_by_one(self, method: _FunctionalMethod, values: Mapping[str, Tensor], arguments: Any) -> Any:
        results = []
        for replica in range(self._number):
            self.called_replica = replica
            of_replica = unstack([dict(values), self._varying, list(arguments)], replica)
            results.append(method.call(of_replica[0], of_replica[1], *of_replica[2]))
        self.called_replica = None
        return stack_states(results)

    @contextmanager
    def called_one_by_one(self) -> Iterator[None]:
        """Within the block, networks that `torch.func` would batch are called one after the other.

        Autograd then records operations of single networks. `called_replica` is the one that is being called.
        """
        before, self._calls_one_by_one = self._calls_one_by_one, True
        try:
            yield
        finally:
            self._calls_one_by_one = before

    def trained_layers(self) -> Iterator[tuple[nn.Module, dict[str, Tensor]]]:
        """The layers that are called and own parameters with gradients.

        Yields:
            A layer, and its parameters as `select_parameters` returns them, by local name.
        """
        for path, layer in self._template.named_modules():
            own: dict[str, Tensor] = dict(layer.named_parameters(recurse=False))
            if any(parameter.requires_grad for parameter in own.values()):
                prefix = f"{path}." if path else ""
                yield layer, {name: self._stacked_tensors.get(prefix + name, value) for name, value in own.items()}

    def has_native(self, method: str) -> bool:
        """Whether the networks have `method`, and calls reach it with all replicas at once."""
        return (self._is_single or self._is_natively_batched) and hasattr(self._template, method)

    def frozen_copy(self) -> Replicas[M]:
        """A copy in evaluation mode, without gradients."""
        frozen: Replicas[M] = Replicas.__new__(Replicas)
        frozen.__dict__ |= self.__dict__ | {"_methods": {}, "_calls_one_by_one": self._never_in_vmap}
        frozen._template = copy.deepcopy(self._template).eval().requires_grad_(False)
        frozen.modules = [frozen._template]
        if self._is_natively_batched:
            frozen._stacked_tensors = dict(frozen._template.named_parameters()) | dict(frozen._template.named_buffers())
        else:
            frozen._stacked_tensors = {name: value.detach().clone() for name, value in self._stacked_tensors.items()}
        return frozen

    def module_of(self, replica: int) -> M:
        """The network of one replica; of a frozen copy again a copy."""
        if len(self.modules) > replica and (self._is_single or self.modules[replica] is not self._template):
            return self.modules[replica]
        single = copy.deepcopy(self._architecture)
        single.load_state_dict({name: value[replica] for name, value in self.state_dict().items()})
        return single.eval().requires_grad_(False)

    def for_each_module(self, function: Callable[[M], object]) -> None:
        """Apply `function` to each network, and to the template used in batched calls."""
        for module in {id(m): m for m in (self._template, *self.modules)}.values():
            function(module)

    @contextmanager
    def train_mode(self, training: bool) -> Iterator[None]:
        """Set all networks to training or evaluation mode within the block, then restore their modes."""
        with ExitStack() as stack:
            self.for_each_module(lambda module: stack.enter_context(train_mode(module, training)))
            yield

    def state_dict(self) -> dict[str, Tensor]:
        """Parameters and buffers by name, with the replica axis."""
        if self._is_single:
            return {name: value.unsqueeze(0) for name, value in self.modules[0].state_dict().items()}
        return {name: self._stacked_tensors[name].detach() for name in self._architecture.state_dict()}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Restore a state."""
        if self._is_single:
            self.modules[0].load_state_dict({name: value[0] for name, value in state.items()})
            return
        with torch.no_grad():
            for name, value in state.items():
                self._stacked_tensors[name].copy_(value)


class _FunctionalMethod(nn.Module):
    """A method of a module as a pure function of its parameters."""

    def __init__(self, module: nn.Module, method: str) -> None:
        super().__init__()
        self.module, self._method = module, method

    def forward(self, varying: Mapping[str, Tensor], *arguments: Any) -> Any:
        original = {name: getattr(self.module, name) for name in varying}
        try:
            for name, value in varying.items():
                setattr(self.module, name, value)
            return getattr(self.module, self._method)(*arguments)
        finally:
            for name, value in original.items():
                setattr(self.module, name, value)

    def call(self, values: dict[str, Tensor], varying: Mapping[str, Tensor], *arguments: Any) -> Any:
        return functional_call(self, values, (varying, *arguments))


def _get_tensor(module: nn.Module, name: str) -> Tensor:
    owner, _, leaf = name.rpartition(".")
    return cast(Tensor, getattr(module.get_submodule(owner), leaf))


def _without_replica_axis(value: Tensor) -> Tensor:
    return value[0]


def _add_replica_axis(value: Tensor) -> Tensor:
    return value.unsqueeze(0)


def _map_tensors(tree: Any, function: Callable[[Tensor], Tensor]) -> Any:
    """Apply `function` to each tensor in nested dicts, lists and tuples."""
    if isinstance(tree, Tensor):
        return function(tree)
    if isinstance(tree, dict):
        return {name: _map_tensors(value, function) for name, value in tree.items()}
    if isinstance(tree, (list, tuple)):
        return type(tree)(_map_tensors(value, function) for value in tree)
    return tree


def select_samples(values: Tensor, index: Tensor) -> Tensor:
    """The values (R, B, ...) of the samples at `index` (R, B) in `values` (R, N, ...), indexed within each replica."""
    # Whole rows are copied by one index, several times as fast as by an index for each of two axes.
    replicas, num_samples = values.shape[:2]
    if replicas > 1:
        index = index + torch.arange(0, replicas * num_samples, num_samples, device=index.device).unsqueeze(1)
    selected = values.flatten(0, 1).index_select(0, index.flatten())
    return selected.view(*index.shape, *values.shape[2:])


def unstack(state: Any, replica: int) -> Any:
    """The state of one replica: copies of the tensors without the replica axis."""
    return _map_tensors(state, lambda value: value[replica].clone())


def stack_states(states: Sequence[Any], device: torch.device | None = None) -> Any:
    """The inverse of `unstack`, on `device` if it is given: stacked tensors, other values from the first state."""
    first = states[0]
    if isinstance(first, Tensor):
        return torch.stack([state if device is None else state.to(device) for state in states])
    if isinstance(first, Mapping):
        return {name: stack_states([state[name] for state in states], device) for name in first}
    if isinstance(first, (list, tuple)):
        return type(first)(stack_states(list(values), device) for values in zip(*states, strict=True))
    return first
