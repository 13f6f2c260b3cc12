"""Atomic writing of files: an interrupted write leaves the previous file."""

from __future__ import annotations

import csv
import errno
import io
import json
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any

from gr_cli.errors import FolderError, WriteError


def write_atomically(path: Path, write: Callable[[IO[bytes]], object], durable: bool = True) -> None:
    """Call `write` with a temporary file, flush it to the disk and rename it to `path`.

    Args:
        path: The file.
        write: Writes its content.
        durable: Wait for the disk, so that the file is whole even after a power failure.

    Raises:
        WriteError: The disk is full, the folder is read-only, ...; the previous file is unchanged.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with suppress(FileNotFoundError):
            temporary.unlink()
        with temporary.open("x+b") as file:  # `x`: never follow a symbolic link of that name
            write(file)
            file.flush()
            if durable:
                os.fsync(file.fileno())
        os.replace(temporary, path)
    except (OSError, RuntimeError) as error:
        cause = _underlying_os_error(error)
        if cause is None:
            raise
        raise _write_error(path, cause) from error
    finally:
        with suppress(OSError):
            temporary.unlink()


@contextmanager
def raising_write_error(path: Path) -> Iterator[None]:
    """Turn an OSError into the `WriteError` of `path`."""
    try:
        yield
    except OSError as error:
        raise _write_error(path, error) from error


def _underlying_os_error(error: BaseException | None) -> OSError | None:
    """The OSError that caused an error: torch and others wrap it in one of their own."""
    while error is not None and not isinstance(error, OSError):
        error = error.__cause__ or error.__context__
    return error


def replace_file(source: Path, target: Path) -> None:
    """Rename `source` to `target`, which is replaced.

    Raises:
        WriteError: See `write_atomically`.
    """
    with raising_write_error(target):
        os.replace(source, target)


def remove_file(path: Path) -> None:
    """Remove a file, if it exists.

    Raises:
        WriteError: It can't be removed.
    """
    with raising_write_error(path):
        path.unlink(missing_ok=True)


def _write_error(path: Path, error: OSError) -> WriteError:
    reason = error.strerror or error
    return WriteError(
        f"{path}: can't be written ({reason}); the previous file is unchanged; free disk space, and repeat the command"
        if error.errno in (errno.ENOSPC, errno.EDQUOT)
        else f"{path}: can't be written ({reason}); the previous file is unchanged; make its folder writable"
    )


def folder_error(folder: Path, error: OSError) -> FolderError:
    """The error to raise when a folder can't be created."""
    return FolderError(
        f"{folder}: can't be created ({error.strerror}); name a folder that you may write to, or run there"
    )


def make_folder(path: Path) -> None:
    """Create a folder and its parents, unless they exist.

    Raises:
        FolderError: It can't be created; no new parent is left.
    """
    missing = [parent for parent in path.parents if not os.path.lexists(parent)]
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        for parent in missing:
            with suppress(OSError):
                parent.rmdir()
        raise folder_error(path, error) from error


def write_bytes(path: Path, content: bytes, durable: bool = True) -> None:
    """Write `content` atomically."""
    write_atomically(path, lambda file: file.write(content), durable)


def write_text(path: Path, text: str, durable: bool = True) -> None:
    """Write `text` atomically as UTF-8; undecodable bytes of file names are written as escapes."""
    write_bytes(path, text.encode(errors="backslashreplace"), durable)


def write_json(path: Path, value: Mapping[str, Any]) -> None:
    """Write `value` atomically as indented JSON."""
    write_text(path, json_text(value))


def json_text(value: Mapping[str, Any]) -> str:
    """`value` as indented JSON."""
    return json.dumps(value, indent=2, ensure_ascii=False) + "\n"


def csv_text(columns: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    """Rows as CSV: floats with 6 decimals, None as an empty cell."""
    return csv_lines([columns]) + csv_lines(rows)


def csv_lines(rows: Iterable[Sequence[Any]]) -> str:
    """The lines of a CSV file, without a header."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerows([f"{value:.6f}" if isinstance(value, float) else value for value in row] for row in rows)
    return text.getvalue()
