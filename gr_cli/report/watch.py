"""Runs that other processes train, looked at until none is under way any more."""

from __future__ import annotations

import os
import sys
import time
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

from gr_cli.errors import FolderError, one_line
from gr_cli.report.runs import NEVER_BEGUN, Found, Unborn, candidates
from gr_cli.results.folder import LOST, RunFolder, is_held, without_hash
from gr_cli.results.regular import reason_of
from gr_cli.results.status_fields import instant
from gr_cli.streams import reader_left

_PAUSE = 1.0  # seconds between two looks
WAITING = "waiting"
# What is looked at first; what is not named here is over badly.
_ORDER = {"running": 0, "finished": 2, WAITING: 3, NEVER_BEGUN: 3}


@dataclass(frozen=True)
class Watched:
    """A run as its folder tells it now. `name`: what tells it from the others. `progress`: what status.json says of
    how far it is, if it says anything. `left`: seconds until it is over, if it goes on as before. `program`: what those
    that are trained as one have in common; None of a run alone."""

    path: Path
    state: str
    progress: Mapping[str, int]
    accuracy: float | None = None
    seconds: float | None = None
    left: float | None = None
    reason: str = ""
    name: str = ""
    program: str | None = None

    @property
    def share(self) -> float:
        """How much of it is done, by now if it runs."""
        if self.state == "finished":
            return 1.0
        if self.left is not None and self.seconds:
            return self.seconds / (self.seconds + self.left)
        return self.progress["done"] / max(1, self.progress["total"]) if self.progress else 0.0


class Screen(Protocol):
    """Where runs are shown."""

    def show(self, summary: str, runs: Sequence[Watched]) -> None:
        """All runs as they are now."""


class Lines:
    """Where there is no terminal: a line for each change, for as long as anybody reads them."""

    def __init__(self) -> None:
        self._told: dict[Path, str] = {}

    def show(self, summary: str, runs: Sequence[Watched]) -> None:
        """All runs as they are now; at first, what needs no watching is only counted."""
        first = not self._told
        if first:
            print(summary, flush=True)
        for run in runs:
            line = _line(run)
            if line != self._told.get(run.path) and not (first and run.state in ("finished", WAITING, NEVER_BEGUN)):
                print(one_line(f"{line}: {run.path}"), flush=True)
            self._told[run.path] = line
        if reader_left():
            raise KeyboardInterrupt


def watch(roots: Sequence[Path], screen: Screen, pause: float = _PAUSE) -> int:
    """Show the runs below `roots` until none is under way and no sweep goes on; 0 if all of them are finished, or who
    looks on leaves before, else 1. What is not there yet is waited for, and that is said.

    Raises:
        KeyboardInterrupt: who waited leaves, and there was no run at all.
    """
    watcher, awaited, runs = Watcher(), set[str](), list[Watched]()
    try:
        while True:
            found, there = Found(), [root for root in roots if root.is_dir()]
            # Asked before the runs are looked at: one that begins and ends in between is not missed.
            places = list(candidates(there, found))
            goes_on = any(is_held(sweep) for sweep in found.sweeps)
            runs = watcher.look(places, goes_on, found.unreadable)
            missing = [f"{root}: no such folder yet" for root in roots if root not in there]
            if not (runs or missing):
                missing = [f"{', '.join(map(str, roots))}: no run there yet"]
            for line in missing:
                if line not in awaited:
                    print(one_line(f"gr-report: waits for {line}"), file=sys.stderr)
                    awaited.add(line)
            if runs:
                screen.show(_summary(runs), runs)
            if not (missing or goes_on or runs[0].state == "running"):
                return 0 if all(run.state == "finished" for run in runs) else 1
            time.sleep(pause)
    except KeyboardInterrupt:
        if runs:
            return 0
        raise


class Watcher:
    """Looks at runs again and again. What is over is not read again, unless its status was written since."""

    def __init__(self) -> None:
        self._known: dict[Path, tuple[tuple[int, int, int], Watched, Any]] = {}

    def look(
        self,
        places: Iterable[tuple[Path, Sequence[str] | None]],
        goes_on: bool,
        unreadable: Mapping[Path, str] | None = None,
    ) -> list[Watched]:
        """The runs in `places`: those that run, those that did not end well, the finished ones, those that never began.
        With each place go the overrides of what may not have begun; if a sweep `goes_on`, that will have its turn."""
        runs, ones, unborn = [], set(), []
        for path, job in places:
            try:
                run, identity = self._run(path)
            except FolderError as error:
                run, identity = Watched(path, "unreadable", {}, reason=str(error)), None
            if run is not None:
                runs.append(run)
                ones.add(identity)
            elif job is not None:
                unborn.append(path)
        runs += [Watched(path, "unreadable", {}, reason=why) for path, why in (unreadable or {}).items()]
        state = WAITING if goes_on else NEVER_BEGUN
        runs += [Watched(p, state, {}) for p in unborn if Unborn(p, ()).seed_and_identity not in ones]
        runs.sort(key=lambda run: _ORDER.get(run.state, 1))
        return [replace(run, name=name) for run, name in zip(runs, _names(runs), strict=True)] if runs else []

    def _run(self, path: Path) -> tuple[Watched | None, Any]:
        """A run, and which one it is; None where there is none yet."""
        try:
            about = os.lstat(path / "status.json")
        except OSError:
            return None, None
        stamp = about.st_mtime_ns, about.st_ino, about.st_size
        known = self._known.get(path)
        if known is None or known[0] != stamp or known[1].state == "running":
            folder = RunFolder(path)
            status = folder.status() or {}
            identity = status.get("seed"), status.get("config_hash")
            known = self._known[path] = stamp, _watched(folder, status), identity
        return known[1], known[2]


def _watched(folder: RunFolder, status: Mapping[str, Any]) -> Watched:
    accuracy, left, broken = None, None, ""
    try:
        accuracy = folder.metrics().get("average_accuracy")
    except (OSError, ValueError, LookupError) as error:  # not written yet, or of no task yet
        broken = reason_of(error)
    state, progress, seconds = folder.state(), status.get("progress") or {}, status.get("seconds")
    if state == "running" and seconds is not None:
        since = _seconds_since(status.get("updated"))
        if done := progress.get("done"):
            left = max(0.0, seconds / done * (progress["total"] - done) - since)
        seconds += since
    if broken and state == "finished":
        return Watched(folder.path, "unreadable", {}, reason=broken)
    reason, program = str(status.get("reason") or ""), (status.get("program") or {}).get("id")
    return Watched(folder.path, state, progress, accuracy, seconds, left, reason, program=program)


def _seconds_since(sign: Any) -> float:
    """Seconds since the last sign of life of a run that is alive, so they can't be many: else a clock was wrong."""
    then = instant(sign)
    passed = 0.0 if then is None else time.time() - then.timestamp()
    return passed if 0.0 <= passed <= LOST else 0.0


def _names(runs: Sequence[Watched]) -> list[str]:
    """Paths without the hash, and without the folders that all runs share."""
    shared = len(Path(os.path.commonpath([run.path.parent for run in runs])).parts)
    return [one_line(without_hash(str(Path(*run.path.parts[shared:])))) for run in runs]


def _summary(runs: Sequence[Watched]) -> str:
    return " · ".join(f"{number} {state}" for state, number in Counter(run.state for run in runs).items())


def _line(run: Watched) -> str:
    """A run in a few words, which change when there is something to tell."""
    words = [run.state]
    if run.progress and run.state != "finished":
        words.append(f"task {run.progress['task']}/{run.progress['tasks']}")
    if run.accuracy is not None:
        words.append(f"{100 * run.accuracy:.1f} %")
    if run.reason:
        words.append(f"({run.reason})")
    return ", ".join(words)
