"""Files that appear whole or not at all."""

from __future__ import annotations

import csv
import errno
import io
import json
import os
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import IO, Any

from gr_cli.errors import FolderError, WriteError


def write_atomically(path: Path, write: Callable[[IO[bytes]], object]) -> None:
    """Let `write` fill a temporary file beside `path`, flush it to the disk and rename it.

    Raises:
        WriteError: the disk is full, the folder is read-only, ...; what was at `path` is still there.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with suppress(FileNotFoundError):
            temporary.unlink()
        with temporary.open("x+b") as file:  # made anew: a link of that name would lead elsewhere
            write(file)
            file.flush()
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


def _underlying_os_error(error: BaseException | None) -> OSError | None:
    """The error of the disk that is behind another: torch and others raise one of their own on top of it."""
    while error is not None and not isinstance(error, OSError):
        error = error.__cause__ or error.__context__
    return error


def replace_file(source: Path, target: Path) -> None:
    """Let a whole file take the place of another.

    Raises:
        WriteError: as `write_whole`.
    """
    try:
        os.replace(source, target)
    except OSError as error:
        raise _write_error(target, error) from error


def remove_file(path: Path) -> None:
    """Remove a file, if it is there.

    Raises:
        WriteError: it can't be removed.
    """
    try:
        path.unlink(missing_ok=True)
    except OSError as error:
        raise _write_error(path, error) from error


def _write_error(path: Path, error: OSError) -> WriteError:
    why = error.strerror or error
    return WriteError(
        f"{path}: can't be written ({why}); what was there is unchanged; make room, and repeat the command"
        if error.errno in (errno.ENOSPC, errno.EDQUOT)
        else f"{path}: can't be written ({why}); what was there is unchanged; see to it that its folder may be written"
    )


def folder_error(folder: Path, error: OSError) -> FolderError:
    """What to raise when a folder that is needed can't be made."""
    return FolderError(f"{folder}: can't be made ({error.strerror}); run from a folder that you may write")


def make_folder(path: Path) -> None:
    """Make a folder, and those above it, unless it is there.

    Raises:
        FolderError: it can't be made.
    """
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise folder_error(path, error) from error


def write_text(path: Path, text: str) -> None:
    """Write `text` as UTF-8, whole or not at all; bytes of file names that are no UTF-8 are written out."""
    write_atomically(path, lambda file: file.write(text.encode(errors="backslashreplace")))


def write_json(path: Path, value: Mapping[str, Any]) -> None:
    """Write `value` as JSON that a person can read."""
    write_text(path, json_text(value))


def json_text(value: Mapping[str, Any]) -> str:
    """`value` as JSON that a person can read."""
    return json.dumps(value, indent=2, ensure_ascii=False) + "\n"


def csv_text(columns: list[str], rows: list[list[Any]]) -> str:
    """Rows as CSV; floats with 6 decimals, None empty."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(columns)
    writer.writerows([f"{value:.6f}" if isinstance(value, float) else value for value in row] for row in rows)
    return text.getvalue()
