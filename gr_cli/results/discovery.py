"""Which runs there are below some folders, what became of them, and what the finished ones found."""

from __future__ import annotations

import math
import os
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path, PurePath
from typing import Any

from gr_cli.config.arguments import matches
from gr_cli.config.settings import flatten, result_relevant, short_hash
from gr_cli.errors import FolderError
from gr_cli.results.folder import TABLES_FILE, RunFolder
from gr_cli.results.stored_config import read_config
from gr_cli.results.tables import TableFormat
from gr_cli.system.reading import naming_file, parse_finite_float, read_error_reason, read_json, read_table

NOT_STARTED = "not started"
_READ_ERRORS = (OSError, ValueError, LookupError, TypeError, AttributeError, ArithmeticError, FolderError)
_MAX_DEPTH = 40  # levels of folders below the one that is named


@dataclass(frozen=True)
class Cost:
    """What a run took: seconds of training and evaluation, and the peak of its memory in MiB (NaN: not known)."""

    seconds: float
    peak_memory_mib: float


@dataclass(frozen=True)
class DiscoveredRun:
    """A run as its folder tells it. `settings`: by dotted name, all that decides what it finds, but the seed.

    `metrics` and `cost` are None unless it is finished. `broken`: by file, why what else it found can't be shown.
    """

    folder: RunFolder
    state: str
    seed: int
    settings: dict[str, Any]
    identity: str
    choices: dict[str, str]
    status: dict[str, Any]
    metrics: dict[str, float | None] | None = None
    cost: Cost | None = None
    unreadable_files: dict[str, str] = field(default_factory=dict, compare=False)

    @contextmanager
    def noting_unreadable(self, name: str) -> Iterator[None]:
        """Take note that the file of that name is broken, if what is read from it inside the block is."""
        try:
            yield
        except _READ_ERRORS as error:
            why = _reason(error)
            self.unreadable_files[name] = why if name in why else f"{name}: {why}"

    @cached_property
    def tables(self) -> dict[str, TableFormat]:
        """What its evaluations measured, by the name of the table; none where that can't be read."""
        found: dict[str, TableFormat] = {}
        with self.noting_unreadable(TABLES_FILE):
            found = self.folder.tables()
            self.folder.check_file(TABLES_FILE, self.status)
        return found

    @property
    def path(self) -> Path:
        """Where it lies."""
        return self.folder.path

    @property
    def overrides(self) -> tuple[str, ...]:
        """What was typed to get it."""
        return tuple(self.status.get("overrides", ()))

    @property
    def finished(self) -> bool:
        """Whether there are results."""
        return self.state == "finished"


@dataclass(frozen=True)
class PendingJob:
    """A job of a sweep that never began: all that is known of it."""

    path: Path
    overrides: tuple[str, ...]

    @property
    def seed_and_identity(self) -> tuple[int, str] | None:
        """Which run it would be, by the name of its folder."""
        found = re.search(r"seed(\d+)-([0-9a-f]{8})(-\d+)?$", self.path.name)
        return (int(found[1]), found[2]) if found else None


@dataclass
class DiscoveredRuns:
    """Everything below the folders. `unreadable`: by path, why not."""

    runs: list[DiscoveredRun] = field(default_factory=list)
    pending: list[PendingJob] = field(default_factory=list)
    unreadable: dict[Path, str] = field(default_factory=dict)
    sweeps: list[Path] = field(default_factory=list)


def discover_runs(roots: Sequence[Path]) -> DiscoveredRuns:
    """All runs below `roots`: folders with a status.json, and the jobs that the sweep.json of a sweep lists.

    Raises:
        FolderError: one of `roots` is no folder, or there is no run at all.
    """
    found = DiscoveredRuns()
    for path, job in candidate_folders(roots, found):
        try:
            folder = RunFolder(path)
            status = folder.status()
            if status is not None:
                found.runs.append(_read_run(folder, status))
            elif job is not None:
                found.pending.append(PendingJob(path, tuple(job)))
        except _READ_ERRORS as error:
            found.unreadable[path] = _reason(error)
    if not (found.runs or found.pending or found.unreadable):
        listed = ", ".join(map(str, roots))
        raise FolderError(f"{listed}: no run here (no status.json); name a folder that gr-run left, such as outputs")
    # A folder that is found under its sweep is no news if it is found in its place, too.
    known = {(run.seed, run.identity) for run in found.runs}
    found.pending = [job for job in found.pending if job.seed_and_identity not in known]
    return found


def candidate_folders(roots: Sequence[Path], discovered: DiscoveredRuns) -> Iterator[tuple[Path, Sequence[str] | None]]:
    """Folders below `roots` that are runs, each once; with the overrides, if a sweep names them, of what may not have
    begun. `found` gets the sweeps, and what can't be read.

    Raises:
        FolderError: one of `roots` is no folder.
    """
    seen = set[Path]()
    for root in roots:
        if not root.is_dir():
            raise FolderError(f"{root}: is no folder; name folders of runs, of sweeps, or parents of them")
        for path, job in _candidates_below(root, discovered):
            place = path.resolve()
            if place not in seen:
                seen.add(place)
                yield path, job


def _candidates_below(root: Path, discovered: DiscoveredRuns) -> Iterator[tuple[Path, Sequence[str] | None]]:
    """Folders that are runs; with the overrides, if a sweep names them."""

    def note(error: OSError) -> None:
        discovered.unreadable[Path(error.filename)] = error.strerror or str(error)

    for name, folders, files in os.walk(root, onerror=note):
        folders.sort()
        path = Path(name)
        if "status.json" in (*files, *folders):
            folders.clear()  # nothing below a run is a run
            yield path, None
        elif "sweep.json" in files:
            discovered.sweeps.append(path)
            try:
                yield from _sweep_jobs(path)
            except _READ_ERRORS as error:
                discovered.unreadable[path / "sweep.json"] = _reason(error)
        if folders and len(path.relative_to(root).parts) >= _MAX_DEPTH:
            discovered.unreadable[path / folders[0]] = f"lies more than {_MAX_DEPTH} levels below {root}"
            folders.clear()


def _sweep_jobs(sweep: Path) -> list[tuple[Path, Sequence[str]]]:
    """The folders of a sweep's jobs, which are named as seen from where it was started: beside `outputs`."""
    jobs: dict[str, list[str]] = read_json(sweep / "sweep.json").get("jobs", [])
    if not matches(jobs, dict[str, list[str]]):
        raise ValueError("lists no overrides of jobs by their folders")
    beside = Path(*sweep.resolve().parts[:-3])
    with suppress(ValueError):
        beside = beside.relative_to(Path.cwd())
    for path in jobs:
        if PurePath(path).is_absolute() or ".." in PurePath(path).parts:
            raise ValueError(f"names a folder that is not below its own place, {path}")
    return [(beside / path, overrides) for path, overrides in jobs.items()]


def _read_run(folder: RunFolder, status: dict[str, Any]) -> DiscoveredRun:
    config, choices = read_config(folder.path)
    decides = result_relevant(config)
    seed, state = config["seed"], folder.state()
    if type(seed) is not int or seed < 0:
        raise ValueError("the seed in config.yaml is no whole number ≥ 0")
    results = (folder.metrics(), _read_cost(folder.path)) if state == "finished" else (None, None)
    folder.check_status_checksum(status)
    for name in ("config.yaml", "metrics.csv", "timing.csv") if state == "finished" else ("config.yaml",):
        folder.check_file(name, status)
    return DiscoveredRun(folder, state, seed, flatten(decides), short_hash(decides), dict(choices), status, *results)


def _read_cost(path: Path) -> Cost:
    """What timing.csv says: a row per task, a column per kind of work."""
    table = path / "timing.csv"
    rows = read_table(table)
    with naming_file(table):
        cells = [value for row in rows for name, value in row.items() if name.endswith("_seconds") and value]
        peaks = [
            parse_finite_float(row["peak_memory_mib"]) for row in rows if row["peak_memory_mib"] not in ("", "nan")
        ]
        return Cost(sum(map(parse_finite_float, cells)), max(peaks, default=math.nan))


def _reason(error: BaseException) -> str:
    """One line."""
    if isinstance(error, OSError):
        return f"{Path(error.filename).name}: {error.strerror}" if error.filename else read_error_reason(error)
    if isinstance(error, FolderError):
        return _reason(error.__cause__) if error.__cause__ is not None else str(error).partition(";")[0]
    if isinstance(error, KeyError):
        return f"there is no {error.args[0]!r}"
    return read_error_reason(error)
