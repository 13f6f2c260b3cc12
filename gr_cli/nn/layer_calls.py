"""Records what the layers of networks take in and give out, for gradients of single samples."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from gr_cli.nn.replicas import Replicas


@dataclass(frozen=True)
class LayerCall:
    """One forward pass of a layer with trained parameters.

    Attributes:
        layer: The layer.
        parameters: Its parameters by local name, as an optimizer has them: of all replicas, (R, ...), if R > 1.
        replica: The replica that was called; None: all of them at once, or a single one.
        x: Input (B, ...), or (R, B, ...) for all replicas.
        output: Output, in autograd's graph.
    """

    layer: nn.Module
    parameters: Mapping[str, Tensor]
    replica: int | None
    x: Tensor
    output: Tensor

    @property
    def own_parameters(self) -> dict[str, Tensor]:
        """The parameters that it was called with."""
        index = () if self.replica is None else self.replica
        return {name: value.detach()[index] for name, value in self.parameters.items()}


@contextmanager
def record_layer_calls(networks: Replicas[Any]) -> Iterator[list[LayerCall]]:
    """Within the block, add each call of a layer that autograd records to the list."""
    calls: list[LayerCall] = []
    with ExitStack() as stack:
        stack.enter_context(networks.called_one_by_one())
        for layer, parameters in networks.trained_layers():
            hook = _hook(calls, networks, parameters)
            stack.enter_context(_Removed(layer.register_forward_hook(hook)))
        yield calls


class _Removed:
    """Removes a hook at the end of a block."""

    def __init__(self, handle: Any) -> None:
        self._handle = handle

    def __enter__(self) -> None:
        return None

    def __exit__(self, *_: object) -> None:
        self._handle.remove()


def _hook(
    calls: list[LayerCall], networks: Replicas[Any], parameters: Mapping[str, Tensor]
) -> Callable[[nn.Module, tuple[Tensor, ...], Tensor], Tensor]:
    def record(layer: nn.Module, arguments: tuple[Tensor, ...], output: Tensor) -> Tensor:
        if not (torch.is_grad_enabled() and output.requires_grad):
            return output
        calls.append(LayerCall(layer, parameters, networks.called_replica, arguments[0].detach(), output))
        return output.clone()  # callers may change it in place

    return record
