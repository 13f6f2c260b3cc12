"""Safe reading of files from untrusted folders: regular files of limited size, plain values of limited depth.

Anything wrong with a file raises an `OSError`, or a `ValueError` whose one-line message begins with the file's name.
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

MAX_TEXT_BYTES = 4 << 20  # limit for a configuration, status.json
MAX_TABLE_BYTES = 256 << 20  # limit for a CSV table, sweep.json
_MAX_DEPTH = 64  # levels of nested lists and mappings
_MAX_INT = 2**63 - 1  # of torch's int64
_MAX_FLOAT = 1e100  # its square is finite
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
    """Open a regular file in binary mode, with the flags of `os.open`; links, pipes and devices are refused.

    Raises:
        OSError: The file does not exist or may not be read.
        ValueError: It is not a regular file.
    """
    try:
        _check_is_regular(path, os.lstat(path).st_mode)  # before opening, which can have an effect on a device
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
            f"{path.name} is {_FILE_TYPE_NAMES.get(stat.S_IFMT(mode), 'a special file')}, not a regular file"
        )


def read_bytes(path: Path, max_bytes: int = MAX_TABLE_BYTES) -> bytes:
    """The content of a regular file.

    Raises:
        OSError: The file can't be read.
        ValueError: It is not a regular file, or larger than `max_bytes`.
    """
    with open_regular(path) as file:
        content = file.read(max_bytes + 1)
    if len(content) > max_bytes:
        raise ValueError(f"{path.name} is larger than {max_bytes >> 20} MiB")
    return content


def read_text(path: Path, max_bytes: int = MAX_TEXT_BYTES) -> str:
    """The content of a UTF-8 file, independent of the locale.

    Raises:
        OSError: The file can't be read.
        ValueError: It is larger than `max_bytes`, or not text.
    """
    content = read_bytes(path, max_bytes)
    with naming_file(path):
        text = content.decode("utf-8")
        if "\0" in text:
            raise ValueError("holds NUL bytes, and is not text")
    return text


@contextmanager
def naming_file(path: Path) -> Iterator[None]:
    """Turn errors in the content of a file into a `ValueError` that begins with the file's name."""
    try:
        yield
    except KeyError as error:
        raise ValueError(f"{path.name} has no {error.args[0]!r}") from error
    except (RecursionError, OverflowError, TypeError) as error:
        raise ValueError(f"{path.name} holds other than plain values ({type(error).__name__})") from error
    except (csv.Error, yaml.YAMLError, ValueError) as error:
        raise ValueError(f"{path.name} {' '.join(str(error).split())[:200]}") from error


def read_json(path: Path, max_bytes: int = MAX_TEXT_BYTES) -> dict[str, Any]:
    """Read the mapping of plain values in a JSON file.

    Raises:
        OSError: The file can't be read.
        ValueError: It holds anything else, or is larger than `max_bytes`.
    """
    text = read_text(path, max_bytes)
    with naming_file(path):
        return parse_json(text)


def parse_json(text: str) -> dict[str, Any]:
    """The mapping of plain values in a JSON text.

    Raises:
        ValueError: It holds anything else.
    """
    try:
        return check_plain_mapping(
            json.loads(text, parse_constant=_reject_number, object_pairs_hook=_dict_without_duplicates)
        )
    except json.JSONDecodeError as error:
        raise ValueError(f"is no JSON ({error})") from error


def read_yaml(path: Path) -> dict[str, Any]:
    """The mapping of plain values that a YAML file holds, without anchors, aliases and tags.

    Raises:
        OSError: The file can't be read.
        ValueError: It holds anything else.
    """
    text = read_text(path)
    with naming_file(path):
        depth = 0
        for event in yaml.parse(text, _Loader):
            # Ten lines of nested aliases expand to a billion values.
            if isinstance(event, yaml.AliasEvent) or getattr(event, "anchor", None):
                raise ValueError("holds YAML anchors or aliases")
            # Parsing a number takes time quadratic in its length.
            scalar = event if isinstance(event, yaml.ScalarEvent) else None
            if scalar and (scalar.tag or scalar.implicit[0]) and _LONG_NUMBER.fullmatch(scalar.value):
                raise ValueError("holds a number with too many digits")
            depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
            if depth > _MAX_DEPTH:
                raise _depth_error()
        return check_plain_mapping(yaml.load(text, _Loader))


def read_table(path: Path) -> list[dict[str, str]]:
    """Read the rows of a CSV file, as text by column.

    Raises:
        OSError: The file can't be read.
        ValueError: A row has another number of cells than the header, or a column stands twice.
    """
    text = read_text(path, MAX_TABLE_BYTES)
    with naming_file(path):
        rows = csv.reader(io.StringIO(text, newline=""), strict=True)
        header = next(rows, [])
        if not header or len(set(header)) < len(header):
            raise ValueError("names a column twice" if header else "is empty")
        table = []
        for number, row in enumerate(rows, 2):
            if len(row) != len(header):
                raise ValueError(f"has {len(row)} cells in row {number}, but {len(header)} in its header")
            table.append(dict(zip(header, row, strict=True)))
        return table


def parse_finite_float(text: str) -> float:
    """Parse a finite number from a cell of a table.

    Raises:
        ValueError: The text is anything else.
    """
    try:
        value = float(text) if "_" not in text else math.nan
    except ValueError:
        value = math.nan
    if not abs(value) <= _MAX_FLOAT:
        raise ValueError(f"{text[:40]!r} is not a number")
    return value


def read_error_reason(error: BaseException) -> str:
    """The reason of an error in reading a file, in one line without its path."""
    text = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    return " ".join((text or type(error).__name__).split())[:200]


def check_plain_mapping(value: Any) -> dict[str, Any]:
    """Check that `value` is a mapping of strings to plain values, and return it.

    Plain values are strings, finite numbers, booleans, null, and lists and mappings of these.

    Raises:
        ValueError: It holds anything else.
    """
    if not isinstance(value, dict):
        raise ValueError(f"holds {_type_name(value)}, not a mapping of names to values")
    _check_plain(value, 0)
    return value


def _check_plain(value: Any, depth: int) -> None:
    if depth > _MAX_DEPTH:
        raise _depth_error()
    if isinstance(value, (dict, list)):
        for name in value if isinstance(value, dict) else ():
            if not isinstance(name, str):
                raise ValueError(f"has {str(name)[:40]!r} as a name")
        for item in value.values() if isinstance(value, dict) else value:
            _check_plain(item, depth + 1)
    elif isinstance(value, int) and not -_MAX_INT <= value <= _MAX_INT:
        raise ValueError("holds a number beyond 2^63")
    elif isinstance(value, float) and not math.isfinite(value):
        raise ValueError("holds a number that is not finite")
    elif isinstance(value, str) and "\0" in value:
        raise ValueError("holds text with a NUL character")
    elif not (value is None or isinstance(value, (str, bool, int, float))):
        raise ValueError(f"holds {_type_name(value)}")


def _type_name(value: Any) -> str:
    names = {
        list: "a list",
        str: "text",
        bool: "a boolean",
        int: "a number",
        float: "a number",
        type(None): "nothing",
    }
    return names.get(type(value), f"a {type(value).__name__}")


def _depth_error() -> ValueError:
    return ValueError(f"is nested more than {_MAX_DEPTH} levels deep")


def _reject_number(text: str) -> NoReturn:
    raise ValueError(f"holds {text}, which is not a number")


def _dict_without_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    mapping = dict(pairs)
    if len(mapping) < len(pairs):
        raise ValueError("has a name twice")
    return mapping


# The loader in C is ten times as fast, which matters for a thousand files.
class _Loader(getattr(yaml, "CSafeLoader", yaml.SafeLoader)):  # type: ignore[misc]
    """YAML loader of plain values; a name that stands twice is an error instead of the last value."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        names = [name.value for name, _ in node.value]
        if len(set(map(str, names))) < len(names):
            raise ValueError("has a name twice")
        mapping: dict[Hashable, Any] = super().construct_mapping(node, deep)
        return mapping
