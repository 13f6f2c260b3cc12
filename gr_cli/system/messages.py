"""Status lines on stderr, for errors and for slow steps."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from time import monotonic
from typing import TypeVar

from gr_cli.errors import GrError, one_line

T = TypeVar("T")

_UPDATE_SECONDS = 1.0  # least time between two updates of a counter


def print_status(message: str) -> None:
    """Print `message` as one line on stderr."""
    print(f"gr-run: {one_line(message)}", file=sys.stderr, flush=True)


def print_failure(folder: Path | None, error: GrError) -> None:
    """Print the error of a run, after its folder if there is one and the error does not name it."""
    prefix = "" if folder is None or str(folder) in str(error) else f"{folder}: "
    print_status(f"{prefix}{error}")


def with_progress(items: Iterable[T], total: int, label: str) -> Iterator[T]:
    """Yield `items`. On a terminal a line counts them, and is erased at the end.

    Args:
        items: What is iterated over.
        total: How many there are.
        label: Text before the count.
    """
    is_shown, next_update = False, monotonic() + _UPDATE_SECONDS
    try:
        for number, item in enumerate(items, 1):
            yield item
            if monotonic() >= next_update and sys.stderr.isatty():
                print(f"\r\x1b[Kgr-run: {label}: {number:,} of {total:,}", end="", file=sys.stderr, flush=True)
                is_shown, next_update = True, monotonic() + _UPDATE_SECONDS
    finally:
        if is_shown:
            print("\r\x1b[K", end="", file=sys.stderr, flush=True)
