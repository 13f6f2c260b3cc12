"""File stamps: size, times and inode of a file, as a key of caches in place of its content."""

from __future__ import annotations

import os
import time
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

_CLOCK_TICK_NS = 20_000_000  # kernels set file times from a clock that ticks every 1 to 10 ms
_COARSEST_RESOLUTION_NS = 2_000_000_000  # FAT stores times in steps of two seconds


class FileStamp(NamedTuple):
    """Values that change when a file is rewritten or replaced.

    Attributes:
        size: Bytes.
        modified: Time of modification in nanoseconds; programs can set it.
        changed: Time of the last change of the inode in nanoseconds; programs can't set it.
        inode: Inode number.
    """

    size: int
    modified: int
    changed: int
    inode: int

    @classmethod
    def from_stat(cls, status: os.stat_result) -> FileStamp:
        """The stamp of a file with this result of `os.stat`."""
        return cls(status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_ino)


# Stamp of a file that does not exist or can't be accessed.
ABSENT = FileStamp(-1, 0, 0, 0)


def file_stamp(path: Path) -> FileStamp:
    """The stamp of a file; `ABSENT` if it does not exist."""
    try:
        return FileStamp.from_stat(path.stat())
    except OSError:
        return ABSENT


def wait_for_next_tick(stamps: Iterable[FileStamp]) -> None:
    """Wait until a further change of any of the files would change its stamp.

    Call it between taking stamps and reading the files. It sleeps 20 ms (2 s if times are in whole seconds) if a file
    has changed within that time, else not at all.
    """
    newest = max((stamp.changed for stamp in stamps), default=0)
    resolution = _CLOCK_TICK_NS if newest % 1_000_000_000 else _COARSEST_RESOLUTION_NS
    if newest > time.time_ns() - resolution:
        time.sleep(resolution / 1e9)
