"""Checks of IDX files, the format of MNIST and its relatives."""

from __future__ import annotations

from math import prod
from pathlib import Path


def idx_problem(path: Path) -> str:
    """What is wrong with an IDX file of bytes; empty if nothing is. Its name says `idx<dimensions>`."""
    dimensions = int(path.name.partition("idx")[2][0])
    try:
        if path.is_dir():
            return "is a folder, not a file"
        size = path.stat().st_size
        with path.open("rb") as file:
            header = file.read(4 + 4 * dimensions)
    except OSError as error:
        return f"can't be opened: {error.strerror}"
    if size == 0:
        return "is empty"
    if header.startswith(b"\x1f\x8b"):
        return "is compressed, but its name does not end in .gz"
    if header[:4] != bytes([0, 0, 8, dimensions]):
        return f"does not begin as an IDX file of bytes with {dimensions} dimension(s)"
    if len(header) < 4 + 4 * dimensions:
        return f"is cut short: {size} bytes"
    counts = [int.from_bytes(header[i : i + 4]) for i in range(4, len(header), 4)]
    expected_size = len(header) + prod(counts)
    if size != expected_size:
        return f"{'is cut short' if size < expected_size else 'is too long'}: {size} bytes instead of {expected_size}"
    return "" if prod(counts) else f"holds nothing: its shape is {tuple(counts)}"
