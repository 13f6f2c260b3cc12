"""How far runs are that other processes train."""

from __future__ import annotations

import os
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from gr_cli.errors import FolderError, one_line
from gr_cli.results.discovery import NOT_STARTED, PendingJob
from gr_cli.results.folder import HEARTBEAT_TIMEOUT, RunFolder, without_hash
from gr_cli.results.status_fields import parse_time
from gr_cli.system.file_stamps import ABSENT, FileStamp, file_stamp
from gr_cli.system.reading import read_error_reason

WAITING = "waiting"
# What is looked at first; what is not named here is over badly.
_ORDER_BY_STATE = {"running": 0, "finished": 2, WAITING: 3, NOT_STARTED: 3}


@dataclass(frozen=True)
class WatchedRun:
    """A run as its folder tells it now. `name`: what tells it from the others. `progress`: what status.json says of
    how far it is, if it says anything. `left`: seconds until it is over, if it goes on as before."""

    path: Path
    state: str
    progress: Mapping[str, int]
    accuracy: float | None = None
    seconds: float | None = None
    seconds_left: float | None = None
    reason: str = ""
    name: str = ""


class RunWatcher:
    """Looks at runs again and again. What is over is not read again, unless its status was written since."""

    def __init__(self) -> None:
        self._last_reads: dict[Path, tuple[FileStamp, WatchedRun, Any]] = {}

    def poll(
        self,
        candidates: Iterable[tuple[Path, Sequence[str] | None]],
        sweep_is_running: bool,
        unreadable: Mapping[Path, str] | None = None,
    ) -> list[WatchedRun]:
        """The runs in `places`: those that run, those that did not end well, the finished ones, those that never began.
        With each place go the overrides of what may not have begun; if a sweep `goes_on`, that will have its turn."""
        runs, ones, unborn = [], set(), []
        for path, job in candidates:
            try:
                run, identity = self._run(path)
            except FolderError as error:
                run, identity = WatchedRun(path, "unreadable", {}, reason=str(error)), None
            if run is not None:
                runs.append(run)
                ones.add(identity)
            elif job is not None:
                unborn.append(path)
        runs += [WatchedRun(path, "unreadable", {}, reason=why) for path, why in (unreadable or {}).items()]
        state = WAITING if sweep_is_running else NOT_STARTED
        runs += [WatchedRun(p, state, {}) for p in unborn if PendingJob(p, ()).seed_and_identity not in ones]
        runs.sort(key=lambda run: _ORDER_BY_STATE.get(run.state, 1))
        return [replace(run, name=name) for run, name in zip(runs, _distinct_names(runs), strict=True)] if runs else []

    def _run(self, path: Path) -> tuple[WatchedRun | None, Any]:
        """A run, and which one it is; None where there is none yet."""
        stamp = file_stamp(path / "status.json")
        if stamp == ABSENT:
            return None, None
        known = self._last_reads.get(path)
        if known is None or known[0] != stamp or known[1].state == "running":
            folder = RunFolder(path)
            status = folder.status() or {}
            identity = status.get("seed"), status.get("config_hash")
            known = self._last_reads[path] = stamp, _watched_run(folder, status), identity
        return known[1], known[2]


def _watched_run(folder: RunFolder, status: Mapping[str, Any]) -> WatchedRun:
    accuracy, left, broken = None, None, ""
    try:
        accuracy = folder.metrics().get("average_accuracy")
    except (OSError, ValueError, LookupError) as error:  # not written yet, or of no task yet
        broken = read_error_reason(error)
    state, progress, seconds = folder.state(), status.get("progress") or {}, status.get("seconds")
    if state == "running" and seconds is not None:
        since = _seconds_since_heartbeat(status.get("updated"))
        if done := progress.get("done"):
            left = max(0.0, seconds / done * (progress["total"] - done) - since)
        seconds += since
    if broken and state == "finished":
        return WatchedRun(folder.path, "unreadable", {}, reason=broken)
    return WatchedRun(folder.path, state, progress, accuracy, seconds, left, str(status.get("reason") or ""))


def _seconds_since_heartbeat(sign: Any) -> float:
    """Seconds since the last sign of life of a run that is alive, so they can't be many: else a clock was wrong."""
    then = parse_time(sign)
    passed = 0.0 if then is None else time.time() - then.timestamp()
    return passed if 0.0 <= passed <= HEARTBEAT_TIMEOUT else 0.0


def _distinct_names(runs: Sequence[WatchedRun]) -> list[str]:
    """Paths without the hash, and without the folders that all runs share."""
    shared = len(Path(os.path.commonpath([run.path.parent for run in runs])).parts)
    return [one_line(without_hash(str(Path(*run.path.parts[shared:])))) for run in runs]
