"""A disk that fills up at each file in turn, and a read-only folder."""

import errno
import json
import os
from pathlib import Path

import pandas as pd
import pytest
import torch

from gr_cli.results.status import StatusWriter
from gr_cli.system import files

WORDS = ("train.iterations=3", "log.every=2", "benchmark.classes_per_task=5", "strategy.memory_size=20",
         "model.hidden_sizes=[8]", "generator.hidden_dims=[8]", "evaluate.generated_samples=20")  # fmt: skip
FULL = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


class Disk:
    """Counts written files; after `last` files the disk is full, with `bytes_left` of the next file."""

    def __init__(self, last: int | None = None, bytes_left: int = 0) -> None:
        self.written, self._last, self._left = 0, last, bytes_left

    def write_atomically(self, path, write, durable=True):
        self.written += "cache" not in path.parts  # where what can't be written is no error
        full = self._last is not None and self.written > self._last and "cache" not in path.parts
        original(path, lambda file: write(Filling(file, self._left) if full else file), durable)


class Filling:
    """A file on a disk that has room for `left` more bytes."""

    def __init__(self, file, left):
        self._file, self._left = file, left

    def write(self, data):
        self._left -= len(memoryview(data).cast("B"))
        if self._left < 0:
            raise FULL
        return self._file.write(data)

    def __getattr__(self, name):
        return getattr(self._file, name)


original = files.write_atomically


@pytest.fixture
def disk(monkeypatch, pictures):
    monkeypatch.setattr(
        StatusWriter, "heartbeat", lambda _: None
    )  # how many files there are must not depend on the clock

    def use(disk: Disk) -> Disk:
        for module in ("system.files", "system.checksums", "results.canvas"):
            monkeypatch.setattr(f"gr_cli.{module}.write_atomically", disk.write_atomically)
        return disk

    return use


def assert_files_complete(home: Path) -> None:
    """Assert that every file below `home` is complete."""
    assert not list(home.rglob("*.tmp"))
    readers = {
        ".json": lambda path: json.loads(path.read_text()),
        ".csv": lambda path: pd.read_csv(path),
        ".pt": lambda path: torch.load(path, weights_only=True),
        ".yaml": lambda path: path.read_text(),
        ".png": lambda path: path.read_bytes().index(b"IEND"),
    }
    for path in home.rglob("*"):
        if path.is_file() and path.name != ".lock":
            readers[path.suffix](path)


def tables(home: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in home.rglob("*.csv") if path.name != "timing.csv"}


def test_a_full_disk_damages_no_file(gr_run, tmp_path, monkeypatch, disk):
    monkeypatch.chdir((whole := tmp_path / "whole").mkdir() or whole)
    counted = disk(Disk())
    assert gr_run(*WORDS)[0] == 0
    expected, number = tables(whole), counted.written
    assert number > 15
    failed_files = set()
    for last in range(number):
        home = tmp_path / str(last)
        home.mkdir()
        monkeypatch.chdir(home)
        disk(Disk(last, bytes_left=(last % 3) * 200))
        code, _, err = gr_run(*WORDS)
        assert code == 1, (last, err)
        assert err.count("\n") == 1, err
        assert "can't be written (No space left on device); the previous file is unchanged; free disk space" in err
        failed_files.add(Path(err.removeprefix("gr-run: ").partition(":")[0]).name)
        assert_files_complete(home)
        disk(Disk())
        code, _, err = gr_run(*WORDS)
        assert code == 0, (last, err)
        assert tables(home) == expected
    assert {"config.yaml", "status.json", "checkpoint.next.pt", "history.csv", "accuracy_matrix.png"} <= failed_files


def test_a_sweep_on_a_full_disk_reports_it(gr_run, disk):
    disk(Disk(0))
    code, _, err = gr_run("-m", *WORDS, "seed=0,1")
    assert code == 1 and err.count("\n") == 1
    assert "sweep.json: can't be written (No space left on device)" in err
    assert_files_complete(Path())


@pytest.mark.parametrize("words", [(), ("-m", "seed=0,1")])
def test_a_folder_that_may_not_be_written_is_one_line(gr_run, monkeypatch, words):
    make = Path.mkdir

    def refused(self, *rest, **named):
        if not self.exists():
            raise OSError(errno.EROFS, os.strerror(errno.EROFS))
        make(self, *rest, **named)

    monkeypatch.setattr(Path, "mkdir", refused)
    code, _, err = gr_run(*words, *WORDS)
    assert code == 2 and err.count("\n") == 1
    assert "can't be created (Read-only file system)" in err
    assert not Path("outputs").exists()
