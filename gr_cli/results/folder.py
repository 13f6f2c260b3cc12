"""The folder of a run: one place that knows its file names."""

from __future__ import annotations

import json
import math
import os
import re
import socket
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from gr_cli.errors import DamagedCheckpointError, FolderError
from gr_cli.results.status_fields import check_status, parse_time
from gr_cli.results.tables import TableFormat, parse_table_formats
from gr_cli.system.checksums import DamagedError, checksum, load_tensors, save_tensors
from gr_cli.system.files import (
    csv_text,
    folder_error,
    json_text,
    make_folder,
    remove_file,
    replace_file,
    write_json,
    write_text,
)
from gr_cli.system.locks import LOCK_FILE, LOCKS_AVAILABLE, is_locked, try_lock
from gr_cli.system.reading import (
    naming_file,
    open_regular,
    parse_finite_float,
    read_bytes,
    read_error_reason,
    read_json,
    read_table,
)

if TYPE_CHECKING:
    from gr_cli.results.record import Record

# What every run leaves besides the tables of its evaluations, which TABLES describes.
RESULT_FILES = ("accuracy_matrix.csv", "metrics.csv", "history.csv")
TABLES_FILE = "tables.json"
# What status.json says of a moment.
_CHANGING_FIELDS = ("state", "reason", "started", "updated", "seconds", "progress", "process", "host")

CONFIG_FILE = "config.yaml"
# The files of a run's state: the newest, one that is to take its place, and that of the end of the task before.
CURRENT, NEXT, PREVIOUS = "checkpoint.pt", "checkpoint.next.pt", "checkpoint.previous.pt"

HEARTBEAT_SECONDS = 10.0  # seconds between two signs of life of a run
HEARTBEAT_TIMEOUT = 6 * HEARTBEAT_SECONDS  # a run of another machine that gave none for so long is no more


class RunFolder:
    """Reads and writes the files of one run. Each file appears whole or not at all."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._checksums: dict[str, str] = {}  # of the files that were written here

    @property
    def figures(self) -> Path:
        """Where pictures go."""
        return self.path / "figures"

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Make the folder and hold it; a second process is refused. The lock ends with the process, however it ends."""
        make_folder(self.figures)
        for entry in self.path.iterdir():
            if entry.is_symlink() and entry.is_dir():
                raise FolderError(f"{entry}: leads out of the folder of this run; remove that link")
        file = self._lock_file()
        with file:
            status = self.status() or {}
            # Locks may not reach from machine to machine; signs of life do.
            elsewhere = (
                status.get("state") == "running" and _is_on_another_host(status) and _is_alive(self.path, status)
            )
            if elsewhere or not try_lock(file):
                where = f" on {status['host']}" if elsewhere else ""
                raise FolderError(
                    f"{self.path}: another process{where} is running this very run; wait for it, or use fresh=true"
                )
            # What a killed process left half-written may hold samples of a task that is over by now.
            for rest in (*self.path.glob(".*.tmp"), *self.figures.glob(".*.tmp")):
                if rest.is_symlink() or not rest.is_dir():
                    rest.unlink()
            yield

    def _lock_file(self) -> IO[bytes]:
        path = self.path / LOCK_FILE
        try:
            return open_regular(path, os.O_RDWR | os.O_CREAT)
        except OSError as error:
            raise folder_error(self.path, error) from error
        except ValueError as error:
            raise FolderError(f"{path.parent}: can't be held ({error}); remove its {path.name}") from error

    # --- status

    def status(self) -> dict[str, Any] | None:
        """What status.json says; None where there is none."""
        path = self.path / "status.json"
        if not os.path.lexists(path):
            return None
        try:
            status = read_json(path)
            check_status(status)
        except (OSError, ValueError) as error:
            raise FolderError(
                f"{path}: can't be read ({read_error_reason(error)}); nothing was changed; fresh=true runs beside it"
            ) from error
        return status

    def state(self) -> str:
        """What became of the run: finished, failed, interrupted, running, killed or `not started`."""
        status = self.status()
        if status is None:
            return "not started"
        state = str(status.get("state"))
        locks_tell = LOCKS_AVAILABLE and not _is_on_another_host(status)
        if state != "running" or is_locked(self.path) or (not locks_tell and _is_alive(self.path, status)):
            return state
        return "killed"

    def write_status(self, status: Mapping[str, Any]) -> None:
        """Replace status.json, with the checksums of the files that are over."""
        known = {**status.get("checksums", {}), **self._checksums}
        over = status.get("state") == "finished"
        checksums = {name: known[name] for name in known if over or name == CONFIG_FILE}
        facts = {name: value for name, value in status.items() if name != "checksum"} | {"checksums": checksums}
        write_json(self.path / "status.json", facts | {"checksum": _status_checksum(facts)})

    # --- config and tables

    def write_config(self, text: str) -> None:
        """Replace config.yaml."""
        self._write(CONFIG_FILE, text)

    def write_tables(self, record: Record, metrics: Mapping[str, float | None]) -> None:
        """Replace all CSV files by what `record` holds, and the description of those that evaluations made."""
        for name, text in _table_texts(record, metrics).items():
            self._write(name, text)

    def _write(self, name: str, text: str) -> None:
        write_text(self.path / name, text)
        self._checksums[name] = checksum(text.encode())

    def check_status_checksum(self, status: Mapping[str, Any]) -> None:
        """Refuse a `status` of which anything but the state and its times is not what the run wrote.

        Raises:
            FolderError: it was damaged or changed.
        """
        if status.get("checksum") != _status_checksum(status):
            raise FolderError(
                f"{self.path / 'status.json'}: was damaged or changed since the run wrote it; remove this file, and "
                "the run's command writes it anew"
            )

    def check_file(self, name: str, status: Mapping[str, Any]) -> None:
        """Refuse a file that is not what the run wrote, of which `status` has the checksum.

        Raises:
            FolderError: it was damaged or changed.
            OSError, ValueError: it can't be read.
        """
        if status.get("checksums", {}).get(name) != checksum(read_bytes(self.path / name)):
            raise FolderError(
                f"{self.path / name}: was damaged or changed since the run wrote it; the run's command writes it anew"
            )

    def changed_tables(self, record: Record, metrics: Mapping[str, float | None]) -> list[str]:
        """The names of the files that are not what `write_tables` would write."""
        return [
            name for name, text in _table_texts(record, metrics).items() if not _has_content(self.path / name, text)
        ]

    def tables(self) -> dict[str, TableFormat]:
        """The tables of its evaluations by name, as tables.json describes them.

        Raises:
            OSError, ValueError: it can't be read, or describes none.
        """
        path = self.path / TABLES_FILE
        described = read_json(path)
        with naming_file(path):
            return parse_table_formats(described)

    def result_files(self) -> list[str]:
        """The names of the CSV files that follow from configuration and seed alone."""
        return [*RESULT_FILES, *(f"{name}.csv" for name in self.tables())]

    def metrics(self) -> dict[str, float | None]:
        """What metrics.csv says."""
        path = self.path / "metrics.csv"
        rows = read_table(path)
        with naming_file(path):
            found = {row["metric"]: _parse_metric(row["value"]) for row in rows}
            if len(found) < len(rows) or not all(re.fullmatch(r"\w{1,100}", name, re.ASCII) for name in found):
                raise ValueError("names a metric twice, or by what is no name")
        return found

    # --- checkpoint

    # Runs that are trained together go on from one place only. So each writes its new state beside the one before, and
    # when all have done so, these are adopted: at every instant there is a place of which all have the state. The state
    # of the last task's end stays beside a newer one until the run is finished: should that one be damaged.

    def write_checkpoint(self, state: Mapping[str, Any]) -> None:
        """Write a state that is whole, and not yet adopted."""
        save_tensors(self.path / NEXT, state)

    def commit_checkpoint(self, keep_previous: bool = False) -> None:
        """Let the state that was written last, if it was not yet, take the place of the one before; `keep` that one as
        the previous state."""
        if os.path.lexists(self.path / NEXT):
            if keep_previous and os.path.lexists(self.path / CURRENT):
                replace_file(self.path / CURRENT, self.path / PREVIOUS)
            replace_file(self.path / NEXT, self.path / CURRENT)

    def restore_checkpoint(self) -> None:
        """Let the previous state take the place of those after it."""
        replace_file(self.path / PREVIOUS, self.path / CURRENT)
        self.drop_next_checkpoint()

    @property
    def has_checkpoint(self) -> bool:
        """Whether there is a state to go on from."""
        return bool(self._checkpoints)

    @property
    def has_previous_checkpoint(self) -> bool:
        """Whether there is a state of the end of an earlier task."""
        return os.path.lexists(self.path / PREVIOUS)

    def save_checkpoint(self, state: Mapping[str, Any]) -> None:
        """Replace checkpoint.pt."""
        self.write_checkpoint(state)
        self.commit_checkpoint()

    def drop_next_checkpoint(self) -> None:
        """Forget a state that was not adopted."""
        remove_file(self.path / NEXT)

    def drop_previous_checkpoint(self) -> None:
        """Forget the state before the one of checkpoint.pt."""
        remove_file(self.path / PREVIOUS)

    @property
    def _checkpoints(self) -> list[Path]:
        return [self.path / name for name in (NEXT, CURRENT, PREVIOUS) if os.path.lexists(self.path / name)]

    def load_checkpoints(self) -> dict[str, dict[str, Any] | FolderError]:
        """The complete states by file name, on the CPU, the newest first; for a damaged one what to raise."""
        return {path.name: _load_or_error(path) for path in self._checkpoints}

    def load_checkpoint(self) -> dict[str, Any] | None:
        """The newest complete state, on the CPU; None where there is none yet.

        Raises:
            FolderError: it is damaged.
        """
        state = _load_or_error(self._checkpoints[0]) if self.has_checkpoint else None
        if isinstance(state, FolderError):
            raise state
        return state


def _table_texts(record: Record, metrics: Mapping[str, float | None]) -> dict[str, str]:
    """The content of each CSV file of a run, and of the description of those that evaluations made."""
    found: dict[str, tuple[list[str], list[list[Any]]]] = {
        "accuracy_matrix.csv": record.matrix_table(),
        "history.csv": record.history_table(),
        "timing.csv": record.timing_table(),
        "metrics.csv": (["metric", "value"], [[name, value] for name, value in metrics.items()]),
    }
    found |= {f"{name}.csv": table.csv_rows() for name, table in record.tables.items()}
    described = {"tables": [table.format.as_dict() for table in record.tables.values()]}
    return {TABLES_FILE: json_text(described)} | {name: csv_text(*table) for name, table in found.items()}


def _status_checksum(status: Mapping[str, Any]) -> str:
    facts = {name: value for name, value in status.items() if name not in (*_CHANGING_FIELDS, "checksum")}
    return checksum(json.dumps(facts, sort_keys=True).encode())


def _has_content(path: Path, text: str) -> bool:
    with suppress(OSError, ValueError):
        return read_bytes(path) == text.encode()
    return False


def _load_or_error(path: Path) -> dict[str, Any] | FolderError:
    """A state, in which nothing but tensors and plain values can be."""
    try:
        return load_tensors(path)
    except OSError as error:
        return FolderError(f"{path}: can't be read ({error.strerror or error}); see to it that it may be read")
    except DamagedError as error:
        return DamagedCheckpointError(
            f"{path}: is damaged ({error}); the run's command goes on from the state before it, if there is one, and "
            "with fresh=true begins a new run beside this one"
        )


def _parse_metric(text: str) -> float | None:
    """A value of metrics.csv: empty where it has no meaning, NaN where it came to none."""
    return None if not text else math.nan if text == "nan" else parse_finite_float(text)


def _is_on_another_host(status: Mapping[str, Any]) -> bool:
    return status.get("host") != socket.gethostname()


def _is_alive(folder: Path, status: Mapping[str, Any]) -> bool:
    """Whether a run gave a sign of life not long ago."""
    now, then = time.time(), parse_time(status.get("updated"))
    if then is None:
        return False
    sign = then.timestamp()
    if sign > now + HEARTBEAT_TIMEOUT:
        # A clock was wrong, and does not tell when that was: the file's own time may.
        with suppress(OSError):
            sign = os.lstat(folder / "status.json").st_mtime
    return abs(now - sign) < HEARTBEAT_TIMEOUT


def without_hash(name: str) -> str:
    """The name of a run's folder as people tell it from others, for where there is little room."""
    return re.sub(r"(?<=seed)(\d+)-[0-9a-f]{8}\b", r"\1", name)


def unused_sibling(path: Path) -> Path:
    """The first of `path`, `path-2`, `path-3`, ... that does not exist."""
    number, candidate = 1, path
    while os.path.lexists(candidate):
        number += 1
        candidate = path.with_name(f"{path.name}-{number}")
    return candidate
