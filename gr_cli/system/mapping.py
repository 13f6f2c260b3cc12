"""Memory-mapped tensors: their pages are those of a file, which the operating system reads and drops as needed."""

from __future__ import annotations

import mmap
import warnings
from math import prod
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor
from torch.utils.weak import WeakIdKeyDictionary

from gr_cli.system.memory import available_memory
from gr_cli.system.reading import open_regular

Storage = Literal["auto", "memory", "mapped"]

_MEMORY_DIVISOR = 4  # a data set that takes more than a quarter of the available memory is mapped
_mapped_tensors: WeakIdKeyDictionary = WeakIdKeyDictionary()


def is_to_be_mapped(storage: Storage, num_bytes: int) -> bool:
    """Whether a data set of `num_bytes` is memory-mapped; `auto`: if it takes a quarter of the available memory."""
    if storage == "auto":
        return num_bytes > available_memory(torch.device("cpu")) // _MEMORY_DIVISOR
    return storage == "mapped"


def map_file(path: Path, dtype: np.dtype[Any], shape: tuple[int, ...]) -> Tensor:
    """The content of a file as a read-only tensor of `shape`.

    Raises:
        OSError: The file does not exist or may not be read.
        ValueError: It is not a regular file, or smaller than `shape`.
    """
    with open_regular(path) as file:
        # A shared mapping that can't be written: it counts neither as memory of the process nor against its limits.
        content = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    return as_mapped(np.frombuffer(content, dtype, prod(shape)).reshape(shape))


def as_mapped(array: np.ndarray[Any, Any]) -> Tensor:
    """A memory-mapped array as a tensor, without a copy. It must not be written to."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="The given NumPy array is not writable")
        return mark_as_mapped(torch.from_numpy(array))


def mark_as_mapped(tensor: Tensor) -> Tensor:
    """`tensor` itself, a view of a mapped one, for which `is_mapped` is true from now on."""
    _mapped_tensors[tensor] = True
    return tensor


def is_mapped(tensor: Tensor) -> bool:
    """Whether a tensor is memory-mapped, and therefore may be larger than memory; views of it are not known."""
    return tensor in _mapped_tensors
