"""Tensors that take long to compute and are always the same: kept in memory and, where it can be written, on disk."""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import torch
from torch import Tensor

from gr_cli.errors import WriteError
from gr_cli.system.checksums import DamagedError, load_tensors, save_tensors
from gr_cli.system.locks import waiting_mutex
from gr_cli.system.messages import print_status

Tensors = dict[str, Tensor]

_MAX_IN_MEMORY = 3  # runs of a sweep share what is kept in memory: a network, and what it made of two data sets
_recent: OrderedDict[str, Tensors] = OrderedDict()


def content_hash(*values: object) -> str:
    """A name for `parts`: tensors by what they hold, all else by how it is shown."""
    found = hashlib.blake2b(digest_size=16)
    for part in values:
        if isinstance(part, Tensor):
            found.update(repr((part.dtype, tuple(part.shape))).encode())
            found.update(part.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data)
        else:
            found.update(repr(part).encode())
        found.update(b"\0")
    return found.hexdigest()


def cached(path: Path, compute: Callable[[], Tensors]) -> Tensors:
    """What `compute` gives, on the CPU, from the file at `path` if it is there; else it is computed and written there.

    The name of the file must tell everything that the tensors depend on. A file that is damaged is computed anew; in a
    folder that can't be written nothing is kept. Of names `<what>-<content>.pt` the newest of each `what` stays, the
    others are of what is no more.
    """
    if path.name not in _recent:
        found = _load(path)
        if found is None:
            waits = f"another process computes what is missing in {path.parent}; this one waits for it"
            with waiting_mutex(path.with_name(f".{path.name}.lock"), lambda: print_status(waits)):
                # Another process may have been faster.
                found = _load(path, silent=True) or _compute_and_store(path, compute)
        _recent[path.name] = found
    _recent.move_to_end(path.name)
    while len(_recent) > _MAX_IN_MEMORY:
        _recent.popitem(last=False)
    return _recent[path.name]


def _compute_and_store(path: Path, compute: Callable[[], Tensors]) -> Tensors:
    tensors = {name: value.detach().cpu() for name, value in compute().items()}
    # A full disk: torch's own writer has a RuntimeError for it.
    with suppress(WriteError, OSError, RuntimeError):
        path.parent.mkdir(parents=True, exist_ok=True)
        save_tensors(path, {"name": path.name, "tensors": tensors})
        what, dash, _ = path.stem.partition("-")
        for other in path.parent.glob(f"{what}-*.pt") if dash else ():
            if other != path:
                other.unlink(missing_ok=True)
    return tensors


def _load(path: Path, silent: bool = False) -> Tensors | None:
    """The tensors in a file of that name; None if it is not there, or can't be believed, which is told once."""
    try:
        stored = load_tensors(path)
        if stored.get("name") != path.name:
            raise DamagedError("it is a copy of another")
    except OSError:
        return None
    except DamagedError as error:
        if not silent:
            print_status(f"{path}: is damaged ({error}); what it held is computed anew")
        return None
    tensors: Tensors = stored["tensors"]
    return tensors
