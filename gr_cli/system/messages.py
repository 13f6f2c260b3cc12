"""What whoever waits is told, on stderr: what takes minutes the first time shall not be silent."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from time import monotonic
from typing import TypeVar

from gr_cli.errors import GrError, one_line

T = TypeVar("T")

_SECONDS_BETWEEN_LINES = 1.0


def print_status(message: str) -> None:
    """Say something in a line of its own."""
    print(f"gr-run: {one_line(message)}", file=sys.stderr)


def print_failure(folder: Path | None, error: GrError) -> None:
    """Say why a run failed, and which one, if others run beside it and nothing else tells."""
    which = "" if folder is None or str(folder) in str(error) else f"{folder}: "
    print_status(f"{which}{error}")


def with_progress(items: Iterable[T], total: int, label: str) -> Iterator[T]:
    """`items` as they come. On a terminal a line says how many of `total` there were, and is gone at the end."""
    shown, next_line = False, monotonic() + _SECONDS_BETWEEN_LINES
    try:
        for number, item in enumerate(items, 1):
            yield item
            if monotonic() >= next_line and sys.stderr.isatty():
                print(f"\r\x1b[Kgr-run: {label}: {number:,} of {total:,}", end="", file=sys.stderr, flush=True)
                shown, next_line = True, monotonic() + _SECONDS_BETWEEN_LINES
    finally:
        if shown:
            print("\r\x1b[K", end="", file=sys.stderr, flush=True)
