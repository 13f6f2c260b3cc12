"""Read files of folders that may come from anywhere: regular files of bounded size, plain values of bounded depth.

Whatever is wrong with a file is an `OSError`, or a `ValueError` that says it in one line and names the file.
"""

from __future__ import annotations

import csv
import io
import json
import math
import os
import re
import stat
from collections.abc import Hashable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, NoReturn

import yaml

MAX_TEXT_BYTES = 4 << 20  # bytes of a configuration, a status, a list of jobs
MAX_TABLE_BYTES = 256 << 20  # bytes of a table
_MAX_DEPTH = 64  # levels of nested lists and mappings
_MAX_INT = 2**63 - 1  # torch's whole numbers
_MAX_FLOAT = 1e100  # its square can still be counted with
_LONG_NUMBER = re.compile(r"(?=.{100})[-+]?(0[xb][\da-f_]+|[-+.:_\de]+)", re.ASCII | re.IGNORECASE)

_FILE_TYPE_NAMES = {
    stat.S_IFLNK: "a link",
    stat.S_IFDIR: "a folder",
    stat.S_IFIFO: "a named pipe",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
}


def open_regular(path: Path, flags: int = os.O_RDONLY) -> IO[bytes]:
    """Open a file as with `os.open`, unless it is a link, a pipe or anything else that is no regular file.

    Raises:
        OSError, ValueError: it is not there, may not be read, or is of another kind.
    """
    try:
        _check_is_regular(path, os.lstat(path).st_mode)  # before opening: that alone may have an effect on a device
    except FileNotFoundError:
        if not flags & os.O_CREAT:
            raise
    for name in ("O_NOFOLLOW", "O_NONBLOCK", "O_CLOEXEC", "O_BINARY"):
        flags |= getattr(os, name, 0)
    descriptor = os.open(path, flags, 0o666)
    try:
        _check_is_regular(path, os.fstat(descriptor).st_mode)
        return os.fdopen(descriptor, "rb" if flags & 3 == os.O_RDONLY else "r+b")
    except BaseException:
        os.close(descriptor)
        raise


def _check_is_regular(path: Path, mode: int) -> None:
    if not stat.S_ISREG(mode):
        raise ValueError(
            f"{path.name} is {_FILE_TYPE_NAMES.get(stat.S_IFMT(mode), 'something else')}, and no regular file"
        )


def read_bytes(path: Path, max_bytes: int = MAX_TABLE_BYTES) -> bytes:
    """The content of a regular file of at most so many bytes.

    Raises:
        OSError, ValueError: it can't be read, or is larger.
    """
    with open_regular(path) as file:
        content = file.read(max_bytes + 1)
    if len(content) > max_bytes:
        raise ValueError(f"{path.name} is larger than {max_bytes >> 20} MiB")
    return content


def read_text(path: Path, max_bytes: int = MAX_TEXT_BYTES) -> str:
    """The content of a file of UTF-8, whatever the locale.

    Raises:
        OSError, ValueError: it can't be read, is larger, or no text.
    """
    content = read_bytes(path, max_bytes)
    with naming_file(path):
        text = content.decode("utf-8")
        if "\0" in text:
            raise ValueError("holds NUL bytes, and is no text")
    return text


@contextmanager
def naming_file(path: Path) -> Iterator[None]:
    """Make a `ValueError` that begins with the file's name of what its content raises inside the block."""
    try:
        yield
    except KeyError as error:
        raise ValueError(f"{path.name} has no {error.args[0]!r}") from error
    except (RecursionError, OverflowError, TypeError) as error:
        raise ValueError(f"{path.name} holds no plain values ({type(error).__name__})") from error
    except (csv.Error, yaml.YAMLError, ValueError) as error:
        raise ValueError(f"{path.name} {' '.join(str(error).split())[:200]}") from error


def read_json(path: Path) -> dict[str, Any]:
    """The mapping of plain values that a JSON file holds.

    Raises:
        OSError, ValueError: it can't be read, or is anything else.
    """
    text = read_text(path)
    with naming_file(path):
        try:
            return check_plain_mapping(
                json.loads(text, parse_constant=_reject_number, object_pairs_hook=_dict_without_duplicates)
            )
        except json.JSONDecodeError as error:
            raise ValueError(f"is no JSON ({error})") from error


def read_yaml(path: Path) -> dict[str, Any]:
    """The mapping of plain values that a YAML file holds, without anchors, aliases and tags.

    Raises:
        OSError, ValueError: it can't be read, or is anything else.
    """
    text = read_text(path)
    with naming_file(path):
        depth = 0
        for event in yaml.parse(text, _Loader):
            # Ten lines of aliases of aliases are a billion values.
            if isinstance(event, yaml.AliasEvent) or getattr(event, "anchor", None):
                raise ValueError("holds YAML anchors or aliases")
            # To read a number takes a time that grows with the square of its length.
            scalar = event if isinstance(event, yaml.ScalarEvent) else None
            if scalar and (scalar.tag or scalar.implicit[0]) and _LONG_NUMBER.fullmatch(scalar.value):
                raise ValueError("holds a number of more digits than any has")
            depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
            if depth > _MAX_DEPTH:
                raise _depth_error()
        return check_plain_mapping(yaml.load(text, _Loader))


def read_table(path: Path) -> list[dict[str, str]]:
    """The rows of a CSV file, by column.

    Raises:
        OSError, ValueError: it can't be read, or its rows are not as wide as its header.
    """
    text = read_text(path, MAX_TABLE_BYTES)
    with naming_file(path):
        rows = csv.reader(io.StringIO(text, newline=""), strict=True)
        header = next(rows, [])
        if not header or len(set(header)) < len(header):
            raise ValueError("names a column twice" if header else "is empty")
        found = []
        for number, row in enumerate(rows, 2):
            if len(row) != len(header):
                raise ValueError(f"has {len(row)} cells in row {number}, and {len(header)} in its header")
            found.append(dict(zip(header, row, strict=True)))
        return found


def parse_finite_float(text: str) -> float:
    """The finite number that a cell of a table holds.

    Raises:
        ValueError: it holds none.
    """
    try:
        value = float(text) if "_" not in text else math.nan
    except ValueError:
        value = math.nan
    if not abs(value) <= _MAX_FLOAT:
        raise ValueError(f"{text[:40]!r} is no number")
    return value


def read_error_reason(error: BaseException) -> str:
    """Why a file could not be read, in one line without its path."""
    text = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    return " ".join((text or type(error).__name__).split())[:200]


def check_plain_mapping(value: Any) -> dict[str, Any]:
    """`value`, if it is a mapping of texts, finite numbers, truth values, null, and lists and mappings of these.

    Raises:
        ValueError: it is anything else.
    """
    if not isinstance(value, dict):
        raise ValueError(f"holds {_type_name(value)}, and no settings by name")
    _check_plain(value, 0)
    return value


def _check_plain(value: Any, depth: int) -> None:
    if depth > _MAX_DEPTH:
        raise _depth_error()
    if isinstance(value, (dict, list)):
        for name in value if isinstance(value, dict) else ():
            if not isinstance(name, str):
                raise ValueError(f"has {str(name)[:40]!r} for a name")
        for part in value.values() if isinstance(value, dict) else value:
            _check_plain(part, depth + 1)
    elif isinstance(value, int) and not -_MAX_INT <= value <= _MAX_INT:
        raise ValueError("holds a number beyond 2^63")
    elif isinstance(value, float) and not math.isfinite(value):
        raise ValueError("holds a number that is not finite")
    elif isinstance(value, str) and "\0" in value:
        raise ValueError("holds text with a NUL")
    elif not (value is None or isinstance(value, (str, bool, int, float))):
        raise ValueError(f"holds {_type_name(value)}")


def _type_name(value: Any) -> str:
    names = {
        list: "a list",
        str: "text",
        bool: "a truth value",
        int: "a number",
        float: "a number",
        type(None): "nothing",
    }
    return names.get(type(value), f"a {type(value).__name__}")


def _depth_error() -> ValueError:
    return ValueError(f"is nested more than {_MAX_DEPTH} deep")


def _reject_number(text: str) -> NoReturn:
    raise ValueError(f"holds {text}, which is no number")


def _dict_without_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        raise ValueError("names something twice")
    return found


# The one written in C takes a tenth of the time, which counts where there are a thousand files.
class _Loader(getattr(yaml, "CSafeLoader", yaml.SafeLoader)):  # type: ignore[misc]
    """Plain values only. A name that stands twice is refused: one of its values would be lost."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        names = [name.value for name, _ in node.value]
        if len(set(map(str, names))) < len(names):
            raise ValueError("names something twice")
        found: dict[Hashable, Any] = super().construct_mapping(node, deep)
        return found
