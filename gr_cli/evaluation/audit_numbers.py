"""Bytes, tensors and nested containers as arrays of numbers."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from numbers import Real
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

Numbers = NDArray[Any]

# "b2" stands for bfloat16, which NumPy lacks.
_TYPES = ("u1", "i1", *(f"{order}{kind}" for kind in ("f2", "b2", "i2", "f4", "i4", "f8", "i8") for order in "<>"))


def as_numbers(content: bytes) -> Iterator[Numbers]:
    """Bytes as numbers of each dtype, in both byte orders, at each alignment."""
    if not content.strip(b"\0"):
        return
    for name in _TYPES:
        is_bfloat16 = name[1] == "b"
        dtype = np.dtype(name.replace("b2", "u2"))
        for offset in range(dtype.itemsize):
            count = (len(content) - offset) // dtype.itemsize
            values: Numbers = np.frombuffer(content, dtype, count, offset)
            if is_bfloat16:
                values = (values.astype(np.uint32) << 16).view(np.float32)
            yield values


def leaves(tree: Any) -> Iterator[tuple[tuple[str, ...], Tensor | Numbers | bytes | str]]:
    """Tensors, arrays, texts, bytes and lists of numbers in nested containers, with their keys."""
    pending: list[tuple[tuple[str, ...], Any]] = [((), tree)]
    seen: set[int] = set()
    while pending:
        keys, value = pending.pop()
        if isinstance(value, (Tensor, np.ndarray)):
            yield keys, value
        elif isinstance(value, (bytes, bytearray)):
            yield keys, bytes(value)
        elif isinstance(value, str):
            yield keys, value
        elif isinstance(value, (Mapping, list, tuple, set, frozenset)) and id(value) not in seen:
            seen.add(id(value))  # shared containers are read once, because nested sharing grows exponentially
            items = value.items() if isinstance(value, Mapping) else enumerate(value)
            entries = [((*keys, str(name)[:100]), item) for name, item in items]
            numbers = [float(item) for _, item in entries if isinstance(item, Real)]
            if numbers:
                yield keys, np.array(numbers)
            pending += [entry for entry in reversed(entries) if not isinstance(entry[1], Real)]


def dense(value: Tensor) -> Tensor | None:
    """A dense tensor without gradient or quantisation; of one with repeating strides only its storage.

    Returns:
        None for a sparse tensor that is too large.
    """
    value = value.detach()
    if value.layout != torch.strided:
        stored = value.values().numel() if value.layout != torch.sparse_coo else value._values().numel()
        if value.numel() > 1000 * max(stored, 1 << 16):
            return None
        value = value.to_dense()
    if value.is_quantized:
        value = value.dequantize()
    storage = value.new_empty(0).set_(value.untyped_storage())
    return value if value.numel() <= storage.numel() else storage


def array_of(value: Tensor) -> Numbers:
    """A dense tensor as an array; complex numbers and dtypes unknown to NumPy as floats."""
    value = torch.view_as_real(value.resolve_conj()) if value.is_complex() else value
    if value.dtype.is_floating_point and value.dtype not in (torch.float16, torch.float32, torch.float64):
        value = value.float()
    array: Numbers = value.resolve_neg().numpy()
    return array
