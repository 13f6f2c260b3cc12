"""The folder of a run: one place that knows its file names."""

from __future__ import annotations

import csv
import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from gr_cli.errors import FolderError
from gr_cli.results.files import write_csv, write_json, write_text, write_whole
from gr_cli.results.record import Record

try:
    import fcntl
except ImportError:  # Windows: two runs on one folder are not refused there
    fcntl = None  # type: ignore[assignment]


class RunFolder:
    """Reads and writes the files of one run. Each file appears whole or not at all."""

    def __init__(self, path: Path) -> None:
        self.path = path

    @property
    def figures(self) -> Path:
        """Where pictures go."""
        return self.path / "figures"

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Make the folder and hold it; a second process is refused. The lock ends with the process, however it ends."""
        try:
            self.figures.mkdir(parents=True, exist_ok=True)
            file = (self.path / ".lock").open("a")
        except OSError as error:
            raise FolderError(
                f"{self.path}: can't be made ({error.strerror}); run from a folder that you may write"
            ) from error
        with file:
            if fcntl is not None:
                try:
                    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                except OSError as error:
                    raise FolderError(
                        f"{self.path}: another process is running this very run; wait for it, or use fresh=true"
                    ) from error
            # What a killed process left half-written may hold samples of a task that is over by now.
            for rest in (*self.path.glob(".*.tmp"), *self.figures.glob(".*.tmp")):
                rest.unlink()
            yield

    # --- status

    def status(self) -> dict[str, Any] | None:
        """What status.json says; None where there is none."""
        path = self.path / "status.json"
        if not path.exists():
            return None
        try:
            found: dict[str, Any] = json.loads(path.read_text())
        except (OSError, ValueError) as error:
            raise FolderError(f"{path}: can't be read ({error}); remove the folder or use fresh=true") from error
        return found

    def write_status(self, status: Mapping[str, Any]) -> None:
        """Replace status.json."""
        write_json(self.path / "status.json", status)

    # --- config and tables

    def write_config(self, text: str) -> None:
        """Replace config.yaml."""
        write_text(self.path / "config.yaml", text)

    def write_tables(self, record: Record, metrics: Mapping[str, float | None]) -> None:
        """Replace all CSV files by what `record` holds."""
        write_csv(self.path / "accuracy_matrix.csv", *record.matrix_table())
        write_csv(self.path / "evaluations.csv", *record.evaluations_table())
        write_csv(self.path / "history.csv", *record.history_table())
        write_csv(self.path / "timing.csv", *record.timing_table())
        write_csv(self.path / "metrics.csv", ["metric", "value"], [[name, value] for name, value in metrics.items()])

    def metrics(self) -> dict[str, float | None]:
        """What metrics.csv says."""
        with (self.path / "metrics.csv").open(newline="", encoding="utf-8") as file:
            return {row["metric"]: float(row["value"]) if row["value"] else None for row in csv.DictReader(file)}

    # --- checkpoint

    def save_checkpoint(self, state: Mapping[str, Any]) -> None:
        """Replace checkpoint.pt."""
        import torch

        write_whole(self.path / "checkpoint.pt", lambda file: torch.save(dict(state), file))

    def load_checkpoint(self) -> dict[str, Any] | None:
        """The newest complete state, on the CPU; None where there is none yet."""
        import torch

        path = self.path / "checkpoint.pt"
        if not path.exists():
            return None
        try:
            state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
        except Exception as error:
            raise FolderError(
                f"{path}: can't be read ({type(error).__name__}); remove it to begin this run again"
            ) from error
        return state


def sibling(path: Path) -> Path:
    """The first of `path`, `path-2`, `path-3`, ... that does not exist."""
    number, candidate = 1, path
    while os.path.lexists(candidate):
        number += 1
        candidate = path.with_name(f"{path.name}-{number}")
    return candidate
