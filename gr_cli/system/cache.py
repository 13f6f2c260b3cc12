"""Cache for tensors that take long to compute: the last few in memory, all of them on disk. Hashes of tensors."""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor
from torch.utils.weak import WeakIdKeyDictionary

from gr_cli.errors import WriteError
from gr_cli.system.checksums import DamagedError, load_tensors, save_tensors
from gr_cli.system.locks import waiting_mutex
from gr_cli.system.messages import print_status, with_progress

Tensors = dict[str, Tensor]

_MAX_IN_MEMORY = 3  # results: enough for a network and its features of two data sets, which the runs of a sweep share
BLOCK_BYTES = 64 << 20
READING_LABEL = "reading the data set, blocks of 64 MiB"
_recent: OrderedDict[str, Tensors] = OrderedDict()


@dataclass(frozen=True)
class TensorBlocks:
    """A tensor that is read in blocks, for `content_hash`.

    Attributes:
        dtype: Type of its values.
        shape: Its shape.
        blocks: The tensor in pieces along its first axis.
    """

    dtype: torch.dtype
    shape: tuple[int, ...]
    blocks: Iterator[Tensor]


def content_hash(*values: object) -> str:
    """Hash of `values` as hexadecimal digits: tensors by type, shape and content, everything else by `repr`."""
    content = hashlib.blake2b(digest_size=16)
    for value in values:
        if isinstance(value, Tensor):
            value = TensorBlocks(value.dtype, tuple(value.shape), row_blocks(value))
        if isinstance(value, TensorBlocks):
            content.update(repr((value.dtype, value.shape)).encode())
            for block in value.blocks:
                content.update(block.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data)
        else:
            content.update(repr(value).encode())
        content.update(b"\0")
    return content.hexdigest()


def rows_per_block(tensor: Tensor) -> int:
    """Number of rows of a tensor (N, ...) that take about 64 MiB; one at least."""
    return max(1, BLOCK_BYTES * len(tensor) // max(1, tensor.numel() * tensor.element_size()))


def row_blocks(tensor: Tensor) -> Iterator[Tensor]:
    """A tensor in blocks of about 64 MiB along its first axis, counted on a terminal where that takes seconds."""
    if tensor.dim() == 0 or tensor.numel() == 0:
        yield tensor
        return
    blocks = tensor.split(rows_per_block(tensor))
    yield from with_progress(blocks, len(blocks), READING_LABEL)


# Hashes by tensor: runs of a sweep share stores, and transformed tasks share labels.
_tensor_hashes: WeakIdKeyDictionary = WeakIdKeyDictionary()


def tensor_hash(tensor: Tensor) -> str:
    """`content_hash` of a tensor that does not change, computed once."""
    if tensor not in _tensor_hashes:
        _tensor_hashes[tensor] = content_hash(tensor)
    return str(_tensor_hashes[tensor])


def remember_hash(tensor: Tensor, known_hash: str) -> None:
    """Set what `tensor_hash` returns for a tensor, such as a copy of one whose hash is known."""
    _tensor_hashes[tensor] = known_hash


def cached(path: Path, compute: Callable[[], Tensors]) -> Tensors:
    """The tensors stored at `path`; if there is no valid file, call `compute` and store its result.

    A damaged file is replaced. If the folder can't be written, the result is cached in memory only. Of files named
    `<what>-<hash>.pt`, storing one removes the others with the same `<what>`, which are out of date.

    Args:
        path: File of the cache. Its name must be a function of everything that the tensors depend on.
        compute: Computes the tensors by name.

    Returns:
        The tensors by name, on the CPU.
    """
    if path.name not in _recent:
        tensors = _load(path)
        if tensors is None:
            message = f"waiting for another process that computes {path}"
            with waiting_mutex(path.with_name(f".{path.name}.lock"), lambda: print_status(message)):
                # Another process may have stored it while this one waited for the lock.
                tensors = _load(path, silent=True) or _compute_and_store(path, compute)
        _recent[path.name] = tensors
    _recent.move_to_end(path.name)
    while len(_recent) > _MAX_IN_MEMORY:
        _recent.popitem(last=False)
    return _recent[path.name]


def is_in_memory(path: Path) -> bool:
    """Whether `cached` has the tensors of `path` in memory."""
    return path.name in _recent


def _compute_and_store(path: Path, compute: Callable[[], Tensors]) -> Tensors:
    tensors = {name: value.detach().cpu() for name, value in compute().items()}
    # torch.save raises RuntimeError when the disk is full.
    with suppress(WriteError, OSError, RuntimeError):
        path.parent.mkdir(parents=True, exist_ok=True)
        save_tensors(path, {"name": path.name, "tensors": tensors})
        what, dash, _ = path.stem.partition("-")
        for other in path.parent.glob(f"{what}-*.pt") if dash else ():
            if other != path:
                other.unlink(missing_ok=True)
    return tensors


def _load(path: Path, silent: bool = False) -> Tensors | None:
    """The tensors of a file; None if it does not exist or is damaged, which is printed unless `silent`."""
    try:
        stored = load_tensors(path)
        if stored.get("name") != path.name:
            raise DamagedError("it is a copy of another file")
    except OSError:
        return None
    except DamagedError as error:
        if not silent:
            print_status(f"{path}: is damaged ({error}) and is computed anew")
        return None
    tensors: Tensors = stored["tensors"]
    return tensors
