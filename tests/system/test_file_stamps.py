"""A changed file has another stamp."""

import os
from pathlib import Path

import pytest

from gr_cli.system.file_stamps import ABSENT, FileStamp, file_stamp, wait_for_next_tick


def test_a_change_right_after_reading_changes_the_stamp():
    file, stamps = Path("file"), []
    file.write_bytes(b"0")
    for _ in range(20):
        stamps.append(file_stamp(file))
        wait_for_next_tick(stamps[-1:])
        file.write_bytes(b"1")
        os.utime(file, ns=(0, 0))
    assert len(set(stamps)) == 20


def test_a_replaced_file_has_the_stamp_of_the_new_one():
    for name in ("a", "b"):
        Path(name).write_bytes(b"0")
        os.utime(name, ns=(0, 0))
    a, b = file_stamp(Path("a")), file_stamp(Path("b"))
    os.replace("a", "b")
    assert file_stamp(Path("a")) == ABSENT and file_stamp(Path("b")).inode == a.inode != b.inode


NOW = 1_700_000_000_123_456_789


@pytest.mark.parametrize(
    ("changed", "seconds"),
    [
        (NOW - 5_000_000, 0.02),
        (NOW, 0.02),
        (NOW + 10**9, 0.02),  # a clock that is ahead
        (NOW - 30_000_000, 0),
        (1_700_000_000_000_000_000, 2.0),  # times of whole seconds
        (1_699_999_998_000_000_000, 0),
    ],
)
def test_the_wait_lasts_one_clock_tick_after_a_recent_change(monkeypatch, changed, seconds):
    sleeps = []
    monkeypatch.setattr("time.sleep", sleeps.append)
    monkeypatch.setattr("time.time_ns", lambda: NOW)
    wait_for_next_tick([ABSENT, FileStamp(1, 0, changed, 1)])
    assert sum(sleeps) == seconds
