"""Locks, which end with the process that holds them.

Those of folders are made here, by flock: whether one is held must be seen without taking it, which `filelock` can't do.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import IO, TYPE_CHECKING

from gr_cli.system.reading import open_regular

if TYPE_CHECKING:
    from filelock import FileLock

try:
    import fcntl
except ImportError:  # Windows: two runs on one folder are not refused there
    fcntl = None  # type: ignore[assignment]

LOCK_FILE = ".lock"
LOCKS_AVAILABLE = fcntl is not None


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold the folder of a sweep, so that others can tell whether it still goes on; no second one is refused."""
    with ExitStack() as stack:
        with suppress(OSError, ValueError):
            try_lock(stack.enter_context(open_regular(path / LOCK_FILE, os.O_RDWR | os.O_CREAT)))
        yield


def is_locked(path: Path) -> bool:
    """Whether a process of this machine holds the folder of a run or a sweep; no, where there are no locks."""
    if fcntl is None:
        return False
    with suppress(OSError, ValueError), open_regular(path / LOCK_FILE) as file:
        try:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except OSError:
            return True
    return False


def try_lock(file: IO[bytes]) -> bool:
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


def mutex(path: Path, timeout: float = 10.0) -> FileLock:
    """A context in which no other process is in one of the same file, which is made if it is not there.

    Entering raises OSError where another process was in its own for `patience` seconds: it may have been stopped there.
    """
    from filelock import FileLock

    return FileLock(path, timeout=timeout)


@contextmanager
def waiting_mutex(path: Path, on_wait: Callable[[], object]) -> Iterator[None]:
    """As `one_at_a_time`, however long the others take; before it waits, `on_wait` is called. The file is gone in the
    end. Where it can't be made, nobody waits."""
    from filelock import FileLock, Timeout

    lock = FileLock(path)
    with suppress(OSError):
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            lock.acquire(timeout=0)
        except Timeout:
            on_wait()
            lock.acquire()
    try:
        yield
    finally:
        if lock.is_locked:
            with suppress(OSError):
                path.unlink()
        lock.release()
