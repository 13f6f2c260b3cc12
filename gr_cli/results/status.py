"""status.json: what became of a run, and on what it ran."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import socket
import time
from contextlib import suppress
from datetime import datetime, timezone
from typing import Any

import torch

from gr_cli.errors import GrError, WriteError
from gr_cli.results.folder import RunFolder

_LIBRARIES = ("gr-cli", "torchvision", "hydra-core", "omegaconf", "numpy", "pandas")


class Status:
    """The status of one run. `facts` stay the same; the state is running, finished, failed or interrupted."""

    def __init__(self, folder: RunFolder, facts: dict[str, Any]) -> None:
        self._folder, self._facts = folder, facts
        earlier = folder.status() or {}
        self._begun = earlier.get("started", _now())
        self._seconds = float(earlier.get("seconds", 0.0))
        self._clock = time.monotonic()

    def write(self, state: str, reason: str | None = None) -> None:
        """Replace status.json."""
        self._folder.write_status(
            {
                "state": state,
                "reason": reason,
                "started": self._begun,
                "updated": _now(),
                "seconds": round(self._seconds + time.monotonic() - self._clock, 3),
                **self._facts,
                "process": os.getpid(),
                "host": socket.gethostname(),
                "versions": {"python": platform.python_version()} | _versions() | {"torch": str(torch.__version__)},
            }
        )

    def write_end(self, error: BaseException) -> None:
        """Say that the run ended by `error`: interrupted if that is what the user did, else failed."""
        failed = isinstance(error, Exception) and not getattr(error, "interrupted", False)
        reason = str(error) if isinstance(error, GrError) else f"{type(error).__name__}: {error}"
        with suppress(WriteError):  # the first error is the one to tell
            self.write("failed" if failed else "interrupted", reason)


def _now() -> str:
    return datetime.now(timezone.utc).isoformat(timespec="seconds")


def _versions() -> dict[str, str]:
    found = {}
    for name in _LIBRARIES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found
