"""File stamps: what stands for the content of a file in a cache key, so that a start need not read every file."""

from __future__ import annotations

import os
import time
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

_CLOCK_TICK_NS = 20_000_000  # nanoseconds: a kernel sets times from a clock that moves on every 1 to 10 ms
_COARSEST_RESOLUTION_NS = 2_000_000_000  # nanoseconds: the coarsest file systems store every other second


class FileStamp(NamedTuple):
    """What changes when a file is rewritten or another one takes its name.

    `size`: bytes. `modified`: time of modification, which archives and copies set. `changed` (of the inode) and
    `inode`: which they can't set. Times are in nanoseconds.
    """

    size: int
    modified: int
    changed: int
    inode: int

    @classmethod
    def from_stat(cls, status: os.stat_result) -> FileStamp:
        """The stamp of a file with that status."""
        return cls(status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_ino)


# Of a file that is not there, or can't be looked up.
ABSENT = FileStamp(-1, 0, 0, 0)


def file_stamp(path: Path) -> FileStamp:
    """The stamp of the file at `path`; `ABSENT` if there is none."""
    try:
        return FileStamp.from_stat(path.stat())
    except OSError:
        return ABSENT


def wait_for_next_tick(stamps: Iterable[FileStamp]) -> None:
    """Return once a change of any of the files would change its stamp: at once, or after 20 ms (2 s where times are
    whole seconds) if one changed only now. Call it between taking stamps and reading."""
    newest = max((stamp.changed for stamp in stamps), default=0)
    resolution = _CLOCK_TICK_NS if newest % 1_000_000_000 else _COARSEST_RESOLUTION_NS
    if newest > time.time_ns() - resolution:
        time.sleep(resolution / 1e9)
