"""Progress of runs that other processes train, read from their folders."""

from __future__ import annotations

import os
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from gr_cli.errors import FolderError, one_line
from gr_cli.results.discovery import NOT_STARTED
from gr_cli.results.folder import HEARTBEAT_TIMEOUT, RunFolder, without_hash
from gr_cli.results.manifest import SweepJob
from gr_cli.results.status_fields import parse_time
from gr_cli.system.file_stamps import ABSENT, FileStamp, file_stamp
from gr_cli.system.reading import read_error_reason

WAITING = "waiting"
# Order in which runs are listed; states that are missing here (failed, killed, ...) come second.
_ORDER_BY_STATE = {"running": 0, "finished": 2, "pruned": 2, WAITING: 3, NOT_STARTED: 3}


@dataclass(frozen=True)
class WatchedRun:
    """State and progress of a run, as its folder gives them now.

    Attributes:
        path: Folder of the run.
        state: As `RunFolder.state` returns it, or `unreadable` or `waiting`.
        progress: `progress` of status.json; empty if there is none.
        accuracy: Average accuracy so far.
        seconds: Time since the run started, without pauses between resumptions.
        seconds_left: Estimate, for a running run.
        reason: Why the run failed, or why its folder can't be read.
        name: Part of the path that distinguishes the run from the others.
    """

    path: Path
    state: str
    progress: Mapping[str, int]
    accuracy: float | None = None
    seconds: float | None = None
    seconds_left: float | None = None
    reason: str = ""
    name: str = ""


class RunWatcher:
    """Polls the folders of runs. A run that is over is read again only if its status.json has changed."""

    def __init__(self) -> None:
        self._last_reads: dict[Path, tuple[FileStamp, WatchedRun, Any]] = {}

    def poll(
        self,
        candidates: Iterable[tuple[Path, SweepJob | None]],
        sweep_is_running: bool,
        unreadable: Mapping[Path, str] | None = None,
    ) -> list[WatchedRun]:
        """Read the runs in `candidates`.

        Args:
            candidates: Folders, and the jobs of those that a sweep lists, as `candidate_folders` yields them.
            sweep_is_running: Whether jobs that have not started are `waiting`, or else `not started`.
            unreadable: Reason by path, for folders that can't be searched.

        Returns:
            Running runs, then failed and killed ones, finished ones, and those that have not started.
        """
        runs, identities, pending = [], set(), []
        for path, job in candidates:
            try:
                run, identity = self._run(path)
            except FolderError as error:
                run, identity = WatchedRun(path, "unreadable", {}, reason=str(error)), None
            if run is not None:
                runs.append(run)
                identities.add(identity)
            elif job is not None:
                pending.append(job)
        runs += [WatchedRun(path, "unreadable", {}, reason=reason) for path, reason in (unreadable or {}).items()]
        state = WAITING if sweep_is_running else NOT_STARTED
        runs += [WatchedRun(job.path, state, {}) for job in pending if job.seed_and_identity not in identities]
        runs.sort(key=lambda run: _ORDER_BY_STATE.get(run.state, 1))
        return [replace(run, name=name) for run, name in zip(runs, _distinct_names(runs), strict=True)] if runs else []

    def _run(self, path: Path) -> tuple[WatchedRun | None, Any]:
        """A run with its seed and identity; None if it has not started."""
        stamp = file_stamp(path / "status.json")
        if stamp == ABSENT:
            return None, None
        last = self._last_reads.get(path)
        if last is None or last[0] != stamp or last[1].state == "running":
            folder = RunFolder(path)
            status = folder.status() or {}
            identity = status.get("seed"), status.get("config_hash")
            last = self._last_reads[path] = stamp, _watched_run(folder, status), identity
        return last[1], last[2]


def _watched_run(folder: RunFolder, status: Mapping[str, Any]) -> WatchedRun:
    accuracy, seconds_left, error_reason = None, None, ""
    try:
        accuracy = folder.metrics().get("average_accuracy")
    except (OSError, ValueError, LookupError) as error:  # expected before the end of the first task
        error_reason = read_error_reason(error)
    state, progress, seconds = folder.state(), status.get("progress") or {}, status.get("seconds")
    if state == "running" and seconds is not None:
        since = _seconds_since_heartbeat(status.get("updated"))
        if done := progress.get("done"):
            seconds_left = max(0.0, seconds / done * (progress["total"] - done) - since)
        seconds += since
    if error_reason and state == "finished":
        return WatchedRun(folder.path, "unreadable", {}, reason=error_reason)
    return WatchedRun(folder.path, state, progress, accuracy, seconds, seconds_left, str(status.get("reason") or ""))


def _seconds_since_heartbeat(updated: Any) -> float:
    """Seconds since the last heartbeat of a live run; 0 if a wrong clock makes them negative or too many."""
    heartbeat = parse_time(updated)
    passed = 0.0 if heartbeat is None else time.time() - heartbeat.timestamp()
    return passed if 0.0 <= passed <= HEARTBEAT_TIMEOUT else 0.0


def _distinct_names(runs: Sequence[WatchedRun]) -> list[str]:
    """Paths without hashes and without the leading folders that all runs share."""
    shared = len(Path(os.path.commonpath([run.path.parent for run in runs])).parts)
    return [one_line(without_hash(str(Path(*run.path.parts[shared:])))) for run in runs]
