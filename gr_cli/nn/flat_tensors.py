"""Tensors of several shapes in one contiguous buffer, for elementwise arithmetic on all of them at once."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from gr_cli.nn.losses import sum_tensors


class FlatTensors:
    """Tensors of given shapes, with a leading replica axis, as views of one contiguous tensor.

    An operator on `flat` replaces one operator for each tensor, whose dispatch would cost more than its arithmetic.

    >>> buffer = FlatTensors([torch.ones(2, 3), torch.ones(2, 1)])  # R = 2
    >>> buffer.copy_([torch.ones(2, 3), torch.ones(2, 1)]).flat.mul_(2)
    tensor([2., 2., 2., 2., 2., 2., 2., 2.])
    >>> buffer.sum_per_replica()
    tensor([8., 8.])

    Args:
        like: Tensors (R, ...) of one dtype and device, whose shapes are taken.

    Attributes:
        flat: The buffer: all values of the first tensor, then all of the second, and so on. Uninitialized.
        views: The tensors (R, ...), contiguous.
    """

    def __init__(self, like: Sequence[Tensor]) -> None:
        sizes = [tensor.numel() for tensor in like]
        self.flat = like[0].new_empty(sum(sizes))
        parts = self.flat.split(sizes)
        self.views = [part.view(tensor.shape) for part, tensor in zip(parts, like, strict=True)]
        # With one replica, its values are the whole buffer.
        replicas = like[0].shape[0]
        self._by_replica = [part.view(replicas, -1) for part in ([self.flat] if replicas == 1 else parts)]

    def copy_(self, tensors: Sequence[Tensor]) -> FlatTensors:
        """Copy values from tensors with shapes that broadcast to those of `views`; returns itself."""
        torch._foreach_copy_(self.views, list(tensors))
        return self

    def sum_per_replica(self) -> Tensor:
        """The sum over all values of each replica: (R,)."""
        return sum_tensors([values.sum(1) for values in self._by_replica])
