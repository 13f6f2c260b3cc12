"""status.json: what became of a run, and on what it ran."""

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
    """How far runs are that are trained together: so many steps into a stage of `plan`, the steps of each."""

    steps_per_stage: Sequence[int]
    stage: int
    steps_done: int

    def as_dict(self) -> dict[str, int]:
        """What status.json says of it; `done` and `total` count the steps of all tasks."""
        over = self.stage >= len(self.steps_per_stage)
        stage = len(self.steps_per_stage) - 1 if over else self.stage
        return {
            "tasks_learned": self.stage,
            "tasks": len(self.steps_per_stage),
            "iteration": self.steps_per_stage[stage] if over else self.steps_done,
            "iterations": self.steps_per_stage[stage],
            "done": sum(self.steps_per_stage[: self.stage]) + self.steps_done,
            "total": sum(self.steps_per_stage),
        }


class StatusWriter:
    """The status of one run: `facts`, written with each state, which is running, finished, failed or interrupted.
    `reached` is renewed during training, and written with each sign of life."""

    def __init__(self, folder: RunFolder, facts: dict[str, Any]) -> None:
        self._folder, self.provenance = folder, facts
        self.progress: Progress | None = None
        earlier = folder.status() or {}
        self._begun = earlier.get("started", _now())
        self._seconds = float(earlier.get("seconds", 0.0))
        self._checksums = earlier.get("checksums", {})
        self._clock = time.monotonic()
        self._state = ""
        self._writing = threading.Lock()

    def write(self, state: str, reason: str | None = None) -> None:
        """Replace status.json."""
        with self._writing:
            self._state = state
            self._write(state, reason)

    def heartbeat(self) -> None:
        """Give a sign of life of a run that is under way."""
        with self._writing:
            if self._state == "running":
                self._write("running", None)

    def _write(self, state: str, reason: str | None) -> None:
        self._folder.write_status(
            {
                "state": state,
                "reason": reason,
                "started": self._begun,
                "updated": _now(),
                "seconds": round(self._seconds + time.monotonic() - self._clock, 3),
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
        """Say that the run ended by `error`: interrupted if that is what the user did, else failed."""
        failed = isinstance(error, Exception) and not getattr(error, "interrupted", False)
        reason = str(error) if isinstance(error, GrError) else f"{type(error).__name__}: {error}"
        with suppress(WriteError):  # the first error is the one to tell
            self.write("failed" if failed else "interrupted", reason)


@contextmanager
def heartbeats(statuses: Sequence[StatusWriter], seconds: float = HEARTBEAT_SECONDS) -> Iterator[None]:
    """Give signs of life of runs that are under way inside the block, so that others can tell them from dead ones."""
    over = threading.Event()

    def beat() -> None:
        while not over.wait(seconds):
            for status in statuses:
                with suppress(WriteError):  # what matters will be written again, and will tell
                    status.heartbeat()

    thread = threading.Thread(target=beat, name="signs of life", daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


def _now() -> str:
    return datetime.now(timezone.utc).isoformat(timespec="seconds")
