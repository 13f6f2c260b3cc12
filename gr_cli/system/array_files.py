"""Array files of the cache: written block by block, verified by a hash, read into memory or memory-mapped.

`<name>.bin` holds the values and appears whole; `<name>.json` beside it shape, type, hash and whatever else belongs to
the array. While it is written, values go to `.<name>.bin.part`, and `.<name>.bin.journal` lists the finished blocks, so
that an interrupted program continues where it was.
"""

from __future__ import annotations

import io
import json
import os
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from math import prod
from pathlib import Path
from typing import IO, Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from gr_cli.errors import ConfigError, Interrupted, WriteError
from gr_cli.system.cache import BLOCK_BYTES, remember_hash, tensor_hash
from gr_cli.system.files import raising_write_error, remove_file, replace_file, write_json
from gr_cli.system.locks import waiting_mutex
from gr_cli.system.mapping import Storage, is_to_be_mapped, map_file
from gr_cli.system.memory import available_memory
from gr_cli.system.messages import print_status
from gr_cli.system.reading import open_regular, read_json

Array = np.ndarray[Any, Any]


class ArrayFile(NamedTuple):
    """An array of the cache.

    Attributes:
        values: The array, in memory or memory-mapped.
        facts: What else was stored with it, plain values by name.
    """

    values: Tensor
    facts: dict[str, Any]


class ArrayPlan(NamedTuple):
    """An array that is to be written.

    Attributes:
        shape: Its shape (N, ...); fewer rows may be kept in the end.
        dtype: Type of its values.
        contents: What it holds, for messages: "12 images of 32x32 pixels".
        remedy: How to make it smaller, for messages.
    """

    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    contents: str
    remedy: str

    @property
    def num_bytes(self) -> int:
        """Bytes of all rows."""
        return prod(self.shape) * self.dtype.itemsize


class BlockWriter:
    """Takes an array (N, ...) in blocks of rows, in memory; `ArrayWriter` writes them to a file.

    Attributes:
        plan: Shape and type of the array.
        num_rows: Number of finished rows.
        starts: The first row of each finished block.
        records: The plain values given to `append` with the finished blocks, in order.
    """

    def __init__(self, plan: ArrayPlan, file: IO[bytes] | None = None) -> None:
        self.plan, self._file = plan, io.BytesIO() if file is None else file
        self._row_bytes = prod(plan.shape[1:]) * plan.dtype.itemsize
        self.num_rows = 0
        self.starts: list[int] = []
        self.records: list[Any] = []

    @property
    def rows_per_block(self) -> int:
        """Number of rows that take about 64 MiB; one at least."""
        return max(1, BLOCK_BYTES // self._row_bytes)

    def append(self, values: Array, record: Any = None) -> None:
        """Write the next rows (n, ...), and remember `record`, a plain value, with them."""
        self.write(self.num_rows, values)
        self._finished(len(values), record)

    def _finished(self, num_rows: int, record: Any) -> None:
        self.starts.append(self.num_rows)
        self.records.append(record)
        self.num_rows += num_rows

    def write(self, start: int, values: Array) -> None:
        """Write rows (n, ...) from row `start` on."""
        self._file.seek(start * self._row_bytes)
        self._file.write(np.ascontiguousarray(values, self.plan.dtype).data)

    def blocks(self) -> Iterator[tuple[int, Array]]:
        """The finished rows in blocks, each with the index of its first row."""
        for start in range(0, self.num_rows, self.rows_per_block):
            self._file.seek(start * self._row_bytes)
            content = self._file.read(min(self.rows_per_block, self.num_rows - start) * self._row_bytes)
            yield start, np.frombuffer(bytearray(content), self.plan.dtype).reshape(-1, *self.plan.shape[1:])

    def begin_rewriting(self) -> None:
        """Call it before `write` replaces finished rows: an interruption then starts from the beginning."""

    def finish(self, facts: Mapping[str, Any], num_rows: int | None = None) -> ArrayFile:
        """The array, of which the first `num_rows` rows are kept."""
        shape = (self.num_rows if num_rows is None else num_rows, *self.plan.shape[1:])
        self._file.seek(0)
        content = bytearray(self._file.read(prod(shape) * self.plan.dtype.itemsize))
        return ArrayFile(torch.from_numpy(np.frombuffer(content, self.plan.dtype).reshape(shape)), dict(facts))


class ArrayWriter(BlockWriter):
    """Writes an array to `path` in blocks, after those that an interrupted program finished.

    Values are written, not mapped, so that a full disk is an error that can be caught. Hold a lock on `path`.

    Raises:
        WriteError: The folder is read-only, or the disk is full; so do all methods.
    """

    def __init__(self, path: Path, plan: ArrayPlan) -> None:
        self._path, self._part = path, path.with_name(f".{path.name}.part")
        self._journal = _journal(path)
        with raising_write_error(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            super().__init__(plan, open_regular(self._part, os.O_RDWR | os.O_CREAT))
            entries = _journal_entries(path)
            finished = sum(entry["rows"] for entry in entries[1:])
            if entries[:1] == [self._first_entry] and self._part.stat().st_size >= finished * self._row_bytes:
                for entry in entries[1:]:
                    self._finished(entry["rows"], entry["record"])
            else:
                entries = [self._first_entry]
            lines = [json.dumps(entry) + "\n" for entry in entries]  # without a last one that was cut short
            self._journal.write_text("".join(lines), encoding="utf-8")

    @property
    def _first_entry(self) -> dict[str, Any]:
        plan = self.plan
        return {
            "shape": list(plan.shape),
            "dtype": plan.dtype.str,
            "contents": plan.contents,
            "remedy": plan.remedy,
        }

    def append(self, values: Array, record: Any = None) -> None:
        super().append(values, record)
        with raising_write_error(self._path):
            os.fsync(self._file.fileno())  # before the journal says that they are there
            with self._journal.open("a", encoding="utf-8") as journal:
                journal.write(json.dumps({"rows": len(values), "record": record}) + "\n")

    def write(self, start: int, values: Array) -> None:
        with raising_write_error(self._path):
            super().write(start, values)
            self._file.flush()

    def begin_rewriting(self) -> None:
        remove_file(self._journal)

    def finish(self, facts: Mapping[str, Any], num_rows: int | None = None) -> ArrayFile:
        """Publish the array, of which the first `num_rows` rows are kept, and return it memory-mapped.

        Files of the cache whose names begin with the same `<what>-` are out of date and are removed.
        """
        shape = (self.num_rows if num_rows is None else num_rows, *self.plan.shape[1:])
        with raising_write_error(self._path):
            self._file.truncate(prod(shape) * self.plan.dtype.itemsize)
            os.fsync(self._file.fileno())
        values = map_file(self._part, self.plan.dtype, shape)
        description = {"shape": list(shape), "dtype": self.plan.dtype.str, "hash": tensor_hash(values)}
        remove_file(self._path)  # a damaged array must not stand beside the new description
        write_json(self._path.with_suffix(".json"), description | {"facts": dict(facts)})
        replace_file(self._part, self._path)
        remove_file(self._journal)
        _remove_outdated(self._path)
        return ArrayFile(values, dict(facts))

    def close(self) -> None:
        """Close the file; what is unfinished stays for the next attempt."""
        self._file.close()

    def discard(self) -> None:
        """Remove what was written."""
        for path in (self._journal, self._part):
            path.unlink(missing_ok=True)


# --- the cache


def cached_array(
    path: Path, storage: Storage, plan: Callable[[], ArrayPlan], write: Callable[[BlockWriter], ArrayFile]
) -> ArrayFile:
    """The array stored at `path`; if there is no valid one, it is written, from where an interrupted attempt stopped.

    Args:
        path: File of the cache, `<what>-<hash>.bin`; a function of everything that the array depends on.
        storage: Whether the array is read into memory or memory-mapped; `auto`: by its size.
        plan: Determines shape and type of a new array.
        write: Appends all blocks to a writer after those that it has already, and returns what `finish` returns.

    Raises:
        ConfigError: There is too little memory, or too little space on the disk.
        WriteError: An array that does not fit into memory can't be written.
    """
    if (stored := read_array(path, storage)) is not None:
        return stored
    message = f"waiting for another process that computes {path}"
    with waiting_mutex(path.with_name(f".{path.name}.lock"), lambda: print_status(message)):
        # Another process may have stored it while this one waited for the lock.
        if (stored := read_array(path, storage, silent=True)) is not None:
            return stored
        planned = _interrupted_plan(path) or plan()
        mapped = is_to_be_mapped(storage, planned.num_bytes)
        _check_size(path, planned, mapped)
        try:
            return _write_file(path, planned, write, mapped)
        except WriteError:
            if mapped:
                raise
        return write(BlockWriter(planned))


def read_array(path: Path, storage: Storage, silent: bool = False) -> ArrayFile | None:
    """The array stored at `path`; None if it does not exist or is damaged, which is printed unless `silent`."""
    try:
        description = read_json(path.with_suffix(".json"))
        shape, dtype = tuple(description["shape"]), np.dtype(description["dtype"])
        num_bytes = prod(shape) * dtype.itemsize
        if path.stat().st_size != num_bytes:
            raise ValueError("its size differs")
        values = map_file(path, dtype, shape)
        if tensor_hash(values) != description["hash"]:
            raise ValueError("its hash differs")
        array = ArrayFile(values, dict(description["facts"]))
        return array if is_to_be_mapped(storage, num_bytes) else _in_memory(array)
    except OSError:
        return None
    except (KeyError, TypeError, ValueError) as error:
        if not silent:
            print_status(f"{path}: is damaged ({error}) and is computed anew")
        return None


def _in_memory(array: ArrayFile) -> ArrayFile:
    values = array.values.clone()
    remember_hash(values, tensor_hash(array.values))
    return array._replace(values=values)


def _write_file(path: Path, plan: ArrayPlan, write: Callable[[BlockWriter], ArrayFile], mapped: bool) -> ArrayFile:
    writer = ArrayWriter(path, plan)
    try:
        array = write(writer)
    except Exception as error:
        if not isinstance(error, Interrupted) and not (mapped and isinstance(error, WriteError)):
            writer.discard()  # else the finished blocks are of use to the next attempt
        raise
    finally:
        writer.close()
    return array if mapped else _in_memory(array)


def _check_size(path: Path, plan: ArrayPlan, mapped: bool) -> None:
    """Raise ConfigError for an array that does not fit into memory, or, if it is to be mapped, on the disk."""
    needed = f"{plan.contents} take {plan.num_bytes / 2**30:,.1f} GiB"
    if not mapped and plan.num_bytes > available_memory(torch.device("cpu")):
        raise ConfigError("storage", "memory", f"{needed}, and there is less", f"try storage=auto, or {plan.remedy}")
    folder = path.parent.absolute()
    free = shutil.disk_usage(next(parent for parent in (folder, *folder.parents) if parent.exists())).free
    with suppress(OSError):
        free += path.with_name(f".{path.name}.part").stat().st_size
    if mapped and plan.num_bytes > free:
        raise ConfigError(
            "cache_root",
            path.parent.parent,
            f"{needed} in {path.parent}, and {free / 2**30:,.1f} GiB are free there",
            f"free disk space, set cache_root=<folder on another disk>, or {plan.remedy}",
        )


def _journal(path: Path) -> Path:
    return path.with_name(f".{path.name}.journal")


def _journal_entries(path: Path) -> list[dict[str, Any]]:
    """The plan of an interrupted attempt and its finished blocks; empty if there is none."""
    with suppress(OSError, ValueError):
        lines = _journal(path).read_text(encoding="utf-8").split("\n")[:-1]  # the last line may be cut short
        return [json.loads(line) for line in lines]
    return []


def _interrupted_plan(path: Path) -> ArrayPlan | None:
    """The plan of an interrupted attempt."""
    with suppress(IndexError, KeyError, TypeError, ValueError):
        first = _journal_entries(path)[0]
        return ArrayPlan(tuple(first["shape"]), np.dtype(first["dtype"]), first["contents"], first["remedy"])
    return None


def _remove_outdated(path: Path) -> None:
    """Remove all files of the cache, also unfinished ones, whose names begin like `path` up to its first dash."""
    what, dash, _ = path.stem.partition("-")
    for pattern in (f"{what}-*", f".{what}-*.part", f".{what}-*.journal") if dash else ():
        for other in path.parent.glob(pattern):
            if path.stem not in other.name:
                with suppress(OSError):
                    other.unlink()
