"""Write status.json: state, progress, heartbeat and provenance of a run."""

from __future__ import annotations

import os
import platform
import socket
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import datetime, timezone
from typing import Any

import torch

from gr_cli.errors import GrError, WriteError
from gr_cli.results.folder import HEARTBEAT_SECONDS, RunFolder
from gr_cli.system.environment import commit, versions


@dataclass
class Progress:
    """Progress of the runs of a group, which train the same stages.

    A stage is one call of `train_task`: a task, or all tasks of joint training.
    """

    steps_per_stage: Sequence[int]
    """Steps of each stage."""
    stage: int
    """The stage in training, from 0; the number of stages when all are over."""
    steps_done: int
    """Steps of that stage that are done."""

    def as_dict(self) -> dict[str, int]:
        """The field `progress` of status.json; `done` and `total` are steps over all tasks."""
        finished = self.stage >= len(self.steps_per_stage)
        stage = len(self.steps_per_stage) - 1 if finished else self.stage
        return {
            "tasks_learned": self.stage,
            "tasks": len(self.steps_per_stage),
            "iteration": self.steps_per_stage[stage] if finished else self.steps_done,
            "iterations": self.steps_per_stage[stage],
            "done": sum(self.steps_per_stage[: self.stage]) + self.steps_done,
            "total": sum(self.steps_per_stage),
        }


class StatusWriter:
    """Writes the status of one run. Time and checksums of an earlier status of the folder are kept.

    Args:
        folder: Folder of the run.
        provenance: Fields that are written with each state.

    Attributes:
        provenance: As above; fields may be added.
        progress: Written with each state and heartbeat; None before training.
    """

    def __init__(self, folder: RunFolder, provenance: dict[str, Any]) -> None:
        self._folder, self.provenance = folder, provenance
        self.progress: Progress | None = None
        earlier = folder.status() or {}
        self._started = earlier.get("started", _now())
        self._seconds_before = float(earlier.get("seconds", 0.0))
        self._checksums = earlier.get("checksums", {})
        self._start_time = time.monotonic()
        self._state = ""
        self._lock = threading.Lock()

    def write(self, state: str, reason: str | None = None) -> None:
        """Replace status.json.

        Args:
            state: `running`, `finished`, `failed`, `interrupted` or `pruned`.
            reason: Message of the error that ended the run.
        """
        with self._lock:
            self._state = state
            self._write(state, reason)

    def heartbeat(self) -> None:
        """Update the time and progress of a running run."""
        with self._lock:
            if self._state == "running":
                self._write("running", None)

    def _write(self, state: str, reason: str | None) -> None:
        self._folder.write_status(
            {
                "state": state,
                "reason": reason,
                "started": self._started,
                "updated": _now(),
                "seconds": round(self._seconds_before + time.monotonic() - self._start_time, 3),
                "progress": None if self.progress is None else self.progress.as_dict(),
                **self.provenance,
                "checksums": self._checksums,
                "process": os.getpid(),
                "host": socket.gethostname(),
                "commit": commit(),
                "versions": {"python": platform.python_version()} | versions() | {"torch": str(torch.__version__)},
            }
        )

    def write_end(self, error: BaseException) -> None:
        """Write the state of a run that `error` ended: `interrupted` if the user stopped it, `pruned`, or `failed`."""
        state = getattr(error, "run_state", "failed" if isinstance(error, Exception) else "interrupted")
        reason = str(error) if isinstance(error, GrError) else f"{type(error).__name__}: {error}"
        with suppress(WriteError):  # the caller raises `error`, which matters more
            self.write(state, reason)


@contextmanager
def heartbeats(statuses: Sequence[StatusWriter], seconds: float = HEARTBEAT_SECONDS) -> Iterator[None]:
    """Send heartbeats of runs from a thread inside the block.

    Args:
        statuses: Statuses of the runs.
        seconds: Between two heartbeats.
    """
    stopped = threading.Event()

    def send() -> None:
        while not stopped.wait(seconds):
            for status in statuses:
                with suppress(WriteError):  # the next save raises it in the main thread
                    status.heartbeat()

    thread = threading.Thread(target=send, name="heartbeats", daemon=True)
    thread.start()
    try:
        yield
    finally:
        stopped.set()
        thread.join()


def _now() -> str:
    return datetime.now(timezone.utc).isoformat(timespec="seconds")
