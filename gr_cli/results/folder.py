"""The files of a run's folder: names, reading, writing, locking and checksums."""

from __future__ import annotations

import json
import math
import os
import re
import socket
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from functools import lru_cache
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
    parse_json,
    read_bytes,
    read_error_reason,
    read_json,
    read_table,
    read_text,
)

if TYPE_CHECKING:
    from gr_cli.results.record import Record

# Result tables of every run; TABLES_FILE describes the tables of evaluations.
RESULT_FILES = ("accuracy_matrix.csv", "metrics.csv", "history.csv")
TABLES_FILE = "tables.json"
# Fields of status.json that change while the run is trained; the status checksum leaves them out.
_CHANGING_FIELDS = ("state", "reason", "started", "updated", "seconds", "progress", "process", "host")

CONFIG_FILE = "config.yaml"
AUDIT_FOLDER = "audit"  # subfolder with the shadow runs and the tables of gr-audit
# Checkpoints: the newest one, one that is written but not committed, and the one of the end of the previous task.
CURRENT, NEXT, PREVIOUS = "checkpoint.pt", "checkpoint.next.pt", "checkpoint.previous.pt"

HEARTBEAT_SECONDS = 10.0  # between two updates of status.json while a run is trained
HEARTBEAT_TIMEOUT = 6 * HEARTBEAT_SECONDS  # seconds without an update after which a run on another host counts as dead


class RunFolder:
    """Reads and writes the files of one run. Each file is written atomically.

    Args:
        path: The folder; `locked` creates it.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._checksums: dict[str, str] = {}  # by name of the files that this object wrote

    @property
    def figures(self) -> Path:
        """Folder of the run's figures."""
        return self.path / "figures"

    def sample_figure(self, task: int) -> Path:
        """File of the samples that are generated after `task`."""
        return self.figures / f"samples_task_{task}.png"

    def sample_figures(self) -> dict[int, Path]:
        """The existing files of generated samples by task; none if the folder of figures is a link."""
        if self.figures.is_symlink():
            return {}
        matches = (
            (re.fullmatch(r"samples_task_(\d{1,6})\.png", path.name, re.ASCII), path)
            for path in self.figures.glob("*.png")
        )
        return dict(sorted((int(match[1]), path) for match, path in matches if match))

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Create the folder and lock it inside the block. The lock ends with the process.

        Raises:
            FolderError: Another process has locked it, or it can't be created or locked.
        """
        make_folder(self.figures)
        for entry in self.path.iterdir():
            if entry.is_symlink() and entry.is_dir():
                raise FolderError(f"{entry}: leads out of the folder of this run; remove that link")
        file = self._lock_file()
        with file:
            status = self.status() or {}
            # Locks may not work between hosts; heartbeats do.
            runs_elsewhere = (
                status.get("state") == "running" and _is_on_another_host(status) and _is_alive(self.path, status)
            )
            if runs_elsewhere or not try_lock(file):
                host = f" on {status['host']}" if runs_elsewhere else ""
                raise FolderError(
                    f"{self.path}: another process{host} is training this run; wait for it, or use fresh=true"
                )
            # Temporary files of a killed process may contain samples of a task that is over.
            for leftover in (*self.path.glob(".*.tmp"), *self.figures.glob(".*.tmp")):
                if leftover.is_symlink() or not leftover.is_dir():
                    leftover.unlink()
            yield

    def _lock_file(self) -> IO[bytes]:
        path = self.path / LOCK_FILE
        try:
            return open_regular(path, os.O_RDWR | os.O_CREAT)
        except OSError as error:
            raise folder_error(self.path, error) from error
        except ValueError as error:
            raise FolderError(f"{path.parent}: can't be locked ({error}); remove its {path.name}") from error

    # --- status

    def status(self) -> dict[str, Any] | None:
        """Content of status.json; None if there is no such file.

        Raises:
            FolderError: It can't be read, or a field has a wrong value.
        """
        path = self.path / "status.json"
        if not os.path.lexists(path):
            return None
        try:
            status = read_json(path)
            check_status(status)
        except (OSError, ValueError) as error:
            raise FolderError(
                f"{path}: can't be read ({read_error_reason(error)}); nothing was changed; "
                "fresh=true starts a new run in another folder"
            ) from error
        return status

    def state(self, status: Mapping[str, Any] | None = None) -> str:
        """State of the run: `finished`, `failed`, `interrupted`, `pruned`, `running`, `killed` or `not started`.

        `killed` is a run whose status says `running`, but whose process has ended.

        Args:
            status: Content of status.json, if it was read; one that says `running` is read again.
        """
        if status is None or status.get("state") == "running":
            status = self.status()
        if status is None:
            return "not started"
        state = str(status.get("state"))
        lock_is_reliable = LOCKS_AVAILABLE and not _is_on_another_host(status)
        if state != "running" or is_locked(self.path) or (not lock_is_reliable and _is_alive(self.path, status)):
            return state
        return "killed"

    def write_status(self, status: Mapping[str, Any]) -> None:
        """Replace status.json. Checksums are added for the files that will not change any more."""
        known = {**status.get("checksums", {}), **self._checksums}
        finished = status.get("state") == "finished"
        checksums = {name: known[name] for name in known if finished or name == CONFIG_FILE}
        fields = {name: value for name, value in status.items() if name != "checksum"} | {"checksums": checksums}
        write_json(self.path / "status.json", fields | {"checksum": _status_checksum(fields)})

    # --- config and tables

    def write_config(self, text: str) -> None:
        """Replace config.yaml."""
        self._write(CONFIG_FILE, text)

    def write_tables(self, record: Record, metrics: Mapping[str, float | None], durable: bool = True) -> None:
        """Replace all CSV files by those of `record` and `metrics`, and tables.json.

        Args:
            record: Results so far.
            metrics: Metrics of the whole run.
            durable: Wait for the disk; not needed while a later checkpoint or the end of the run rewrites them.
        """
        for name, text in _table_texts(record, metrics).items():
            self._write(name, text, durable)

    def _write(self, name: str, text: str, durable: bool = True) -> None:
        write_text(self.path / name, text, durable)
        self._checksums[name] = checksum(text.encode())

    def check_status_checksum(self, status: Mapping[str, Any]) -> None:
        """Check that the lasting fields of status.json are as the run wrote them.

        Raises:
            FolderError: It was damaged or changed.
        """
        if status.get("checksum") != _status_checksum(status):
            raise FolderError(
                f"{self.path / 'status.json'}: was damaged or changed since the run wrote it; remove this file, and "
                "the run's command rewrites it"
            )

    def check_file(self, name: str, status: Mapping[str, Any]) -> None:
        """Check that the file `name` has the checksum that `status` gives.

        Raises:
            FolderError: It was damaged or changed.
            OSError, ValueError: It can't be read.
        """
        if status.get("checksums", {}).get(name) != checksum(read_bytes(self.path / name)):
            raise FolderError(
                f"{self.path / name}: was damaged or changed since the run wrote it; the run's command rewrites it"
            )

    def changed_tables(self, record: Record, metrics: Mapping[str, float | None]) -> list[str]:
        """Names of the files that differ from what `write_tables` would write."""
        return [
            name for name, text in _table_texts(record, metrics).items() if not _has_content(self.path / name, text)
        ]

    def tables(self) -> dict[str, TableFormat]:
        """Formats of the evaluations' tables by name, from tables.json.

        Raises:
            OSError, ValueError: It can't be read, or is malformed.
        """
        path = self.path / TABLES_FILE
        text = read_text(path)
        with naming_file(path):
            return dict(_formats_in(text))

    def result_files(self) -> list[str]:
        """Names of the CSV files that configuration and seed determine: all but timing.csv."""
        return [*RESULT_FILES, *(f"{name}.csv" for name in self.tables())]

    def metrics(self) -> dict[str, float | None]:
        """Content of metrics.csv: a value by name, None for a metric without meaning in this run.

        Raises:
            OSError, ValueError: It can't be read, or is malformed.
        """
        path = self.path / "metrics.csv"
        rows = read_table(path)
        with naming_file(path):
            metrics = {row["metric"]: _parse_metric(row["value"]) for row in rows}
            if len(metrics) < len(rows) or not all(re.fullmatch(r"\w{1,100}", name, re.ASCII) for name in metrics):
                raise ValueError("has a metric twice, or a name with characters other than letters, digits and _")
        return metrics

    # --- checkpoint

    # A group of runs resumes from one common point. Each run writes its new checkpoint next to the current one, and all
    # commit once all have written: at every instant there is a resume point that all runs have. The checkpoint of the
    # previous task's end is kept until the run is finished, in case a newer one is damaged.

    def write_checkpoint(self, state: Mapping[str, Any]) -> None:
        """Write a new checkpoint without committing it."""
        save_tensors(self.path / NEXT, state)

    def commit_checkpoint(self, keep_previous: bool = False) -> None:
        """Replace checkpoint.pt by the checkpoint that was written last; without one, do nothing.

        Args:
            keep_previous: Keep the replaced checkpoint as checkpoint.previous.pt.
        """
        if os.path.lexists(self.path / NEXT):
            if keep_previous and os.path.lexists(self.path / CURRENT):
                replace_file(self.path / CURRENT, self.path / PREVIOUS)
            replace_file(self.path / NEXT, self.path / CURRENT)

    def restore_checkpoint(self) -> None:
        """Replace checkpoint.pt by checkpoint.previous.pt, and remove newer ones."""
        replace_file(self.path / PREVIOUS, self.path / CURRENT)
        self.drop_next_checkpoint()

    @property
    def has_checkpoint(self) -> bool:
        """Whether there is any checkpoint."""
        return bool(self._checkpoints)

    @property
    def has_previous_checkpoint(self) -> bool:
        """Whether there is a checkpoint of the end of an earlier task."""
        return os.path.lexists(self.path / PREVIOUS)

    def save_checkpoint(self, state: Mapping[str, Any]) -> None:
        """Write a checkpoint and commit it."""
        self.write_checkpoint(state)
        self.commit_checkpoint()

    def drop_next_checkpoint(self) -> None:
        """Remove a checkpoint that was not committed."""
        remove_file(self.path / NEXT)

    def drop_previous_checkpoint(self) -> None:
        """Remove the checkpoint of the previous task's end."""
        remove_file(self.path / PREVIOUS)

    @property
    def _checkpoints(self) -> list[Path]:
        return [self.path / name for name in (NEXT, CURRENT, PREVIOUS) if os.path.lexists(self.path / name)]

    def load_checkpoints(self) -> dict[str, dict[str, Any] | FolderError]:
        """Checkpoints by file name, on the CPU, the newest first; an error in place of a damaged one."""
        return {path.name: _load_or_error(path) for path in self._checkpoints}

    def load_checkpoint(self) -> dict[str, Any] | None:
        """The newest checkpoint, on the CPU; None if there is none.

        Raises:
            FolderError: It is damaged or can't be read.
        """
        state = _load_or_error(self._checkpoints[0]) if self.has_checkpoint else None
        if isinstance(state, FolderError):
            raise state
        return state


def _table_texts(record: Record, metrics: Mapping[str, float | None]) -> dict[str, str]:
    """Content of tables.json and of each CSV file of a run, by file name."""
    texts = {f"{name}.csv": text for name, text in record.csv_texts().items()}
    formats = {"tables": [table.format.as_dict() for table in record.tables.values()]}
    metric_rows = [[name, value] for name, value in metrics.items()]
    return {TABLES_FILE: json_text(formats), "metrics.csv": csv_text(["metric", "value"], metric_rows)} | texts


def _status_checksum(status: Mapping[str, Any]) -> str:
    lasting = {name: value for name, value in status.items() if name not in (*_CHANGING_FIELDS, "checksum")}
    return checksum(json.dumps(lasting, sort_keys=True).encode())


def _has_content(path: Path, text: str) -> bool:
    with suppress(OSError, ValueError):
        return read_bytes(path) == text.encode()
    return False


def _load_or_error(path: Path) -> dict[str, Any] | FolderError:
    """Load a checkpoint of tensors and plain values; return, not raise, the error of a damaged one."""
    try:
        return load_tensors(path)
    except OSError as error:
        return FolderError(f"{path}: can't be read ({error.strerror or error}); make it readable")
    except DamagedError as error:
        return DamagedCheckpointError(
            f"{path}: is damaged ({error}); the run's command resumes from the checkpoint before it, if there is one, "
            "and starts a new run in another folder with fresh=true"
        )


def _parse_metric(text: str) -> float | None:
    """A value of metrics.csv; an empty cell, for a metric without meaning, is None."""
    return None if not text else math.nan if text == "nan" else parse_finite_float(text)


def _is_on_another_host(status: Mapping[str, Any]) -> bool:
    return status.get("host") != socket.gethostname()


def _is_alive(folder: Path, status: Mapping[str, Any]) -> bool:
    """Whether the last heartbeat of a run is recent."""
    now, updated = time.time(), parse_time(status.get("updated"))
    if updated is None:
        return False
    heartbeat = updated.timestamp()
    if heartbeat > now + HEARTBEAT_TIMEOUT:
        # The clock of its host is wrong: use the modification time of the file.
        with suppress(OSError):
            heartbeat = os.lstat(folder / "status.json").st_mtime
    return abs(now - heartbeat) < HEARTBEAT_TIMEOUT


def without_hash(name: str) -> str:
    """Shorten the name of a run's folder: `seed0-1a2b3c4d` becomes `seed0`."""
    return re.sub(r"(?<=seed)(\d+)-[0-9a-f]{8}\b", r"\1", name)


@lru_cache(maxsize=64)  # the same text in many runs
def _formats_in(text: str) -> dict[str, TableFormat]:
    return parse_table_formats(parse_json(text))
