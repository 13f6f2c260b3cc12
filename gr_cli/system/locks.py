"""Locks between processes; the operating system releases them when a process ends.

Folders are locked with `flock` itself: `filelock` can't tell whether a lock is held without acquiring it.
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
except ImportError:  # Windows: folders are not locked
    fcntl = None  # type: ignore[assignment]

LOCK_FILE = ".lock"
LOCKS_AVAILABLE = fcntl is not None


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Lock the folder of a sweep, which shows other processes that it is active. A second lock is not an error."""
    with ExitStack() as stack:
        with suppress(OSError, ValueError):
            try_lock(stack.enter_context(open_regular(path / LOCK_FILE, os.O_RDWR | os.O_CREAT)))
        yield


def is_locked(path: Path) -> bool:
    """Whether a process of this machine has locked the folder of a run or a sweep; False without `flock`."""
    if fcntl is None:
        return False
    with suppress(OSError, ValueError), open_regular(path / LOCK_FILE) as file:
        try:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except OSError:
            return True
    return False


def try_lock(file: IO[bytes]) -> bool:
    """Lock `file`; False if another process has locked it. It retries, because `is_locked` locks it for a moment."""
    if fcntl is None:
        return True
    for delay in (0.05, 0.2, 0.0):
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            time.sleep(delay)
        else:
            return True
    return False


def mutex(path: Path, timeout: float = 10.0) -> FileLock:
    """A lock that one process can hold at a time.

    Args:
        path: Lock file; it is created if it does not exist.
        timeout: Seconds after which entering the context raises OSError: the holder may have been suspended.
    """
    from filelock import FileLock

    return FileLock(path, timeout=timeout)


@contextmanager
def waiting_mutex(path: Path, on_wait: Callable[[], object]) -> Iterator[None]:
    """Hold a lock that is waited for without a limit.

    Args:
        path: Lock file; it is removed at the end. If it can't be created, nothing is locked.
        on_wait: Called before waiting for another process.
    """
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
