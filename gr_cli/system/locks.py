"""Locks on folders, which end with the process that holds them."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import IO

from gr_cli.system.reading import open_regular

try:
    import fcntl
except ImportError:  # Windows: two runs on one folder are not refused there
    fcntl = None  # type: ignore[assignment]

LOCK = ".lock"
AVAILABLE = fcntl is not None


@contextmanager
def held(path: Path) -> Iterator[None]:
    """Hold the folder of a sweep, so that others can tell whether it still goes on; no second one is refused."""
    with ExitStack() as stack:
        with suppress(OSError, ValueError):
            taken(stack.enter_context(open_regular(path / LOCK, os.O_RDWR | os.O_CREAT)))
        yield


def is_held(path: Path) -> bool:
    """Whether a process of this machine holds the folder of a run or a sweep; no, where there are no locks."""
    if fcntl is None:
        return False
    with suppress(OSError, ValueError), open_regular(path / LOCK) as file:
        try:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except OSError:
            return True
    return False


def taken(file: IO[bytes]) -> bool:
    """Lock `file`; False if another process has. Who only looks whether it is locked takes no time to."""
    if fcntl is None:
        return True
    for patience in (0.05, 0.2, 0.0):
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            time.sleep(patience)
        else:
            return True
    return False
