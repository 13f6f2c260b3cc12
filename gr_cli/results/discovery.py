"""Find run folders below given folders and read their state, settings and metrics."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar

from gr_cli.config.settings import flatten, result_relevant, short_hash
from gr_cli.errors import FolderError
from gr_cli.results.audits import MEMBERSHIP, Audit, find_audit
from gr_cli.results.cells import Cell, parse_cell
from gr_cli.results.folder import AUDIT_FOLDER, TABLES_FILE, RunFolder
from gr_cli.results.manifest import MANIFEST, SweepJob, read_manifest
from gr_cli.results.manifest import NOT_STARTED as NOT_STARTED
from gr_cli.results.references import add_reference_metrics
from gr_cli.results.stored_config import read_config
from gr_cli.results.tables import TableFormat
from gr_cli.system.reading import naming_file, parse_finite_float, read_error_reason, read_table

# What reading a damaged or foreign file may raise.
_READ_ERRORS = (OSError, ValueError, LookupError, TypeError, AttributeError, ArithmeticError, FolderError)
_MAX_DEPTH = 40  # levels of folders that are searched below a root
CsvRows = Sequence[Mapping[str, str]]  # of a table, by column
_T = TypeVar("_T")


@dataclass(frozen=True)
class Cost:
    """Time and memory of a finished run, from timing.csv."""

    seconds: float
    """Training and evaluation, summed over tasks."""
    peak_memory_mib: float
    """NaN if it was not measured."""


@dataclass(frozen=True)
class DiscoveredRun:
    """A run that was read from its folder.

    Attributes:
        folder: The run's folder.
        state: As `RunFolder.state` returns it.
        seed: Seed of the run.
        settings: Settings that affect the result, except the seed, by dotted name.
        identity: Short hash of `settings`, equal for all seeds of a configuration.
        choices: Option that was chosen in each config group.
        status: Content of status.json.
        metrics: Content of metrics.csv, and metrics of the audit; None unless the run is finished.
        cost: Time and memory; None unless the run is finished.
        audit: What gr-audit measured of the run; None unless it is finished and was audited.
        unreadable_files: Reason by file name, for result files that could not be read. Filled while files are read.
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
    audit: Audit | None = None
    unreadable_files: dict[str, str] = field(default_factory=dict, compare=False)
    _cells: dict[str, float | None] = field(default_factory=dict, compare=False, repr=False)

    @contextmanager
    def noting_unreadable(self, name: str) -> Iterator[None]:
        """Catch errors of reading the file `name` in the block, and add them to `unreadable_files`."""
        try:
            yield
        except _READ_ERRORS as error:
            reason = _reason(error)
            self.unreadable_files[name] = reason if name in reason else f"{name}: {reason}"

    @cached_property
    def tables(self) -> dict[str, TableFormat]:
        """Formats of the run's tables by name, from tables.json and of the audit; without those that can't be read."""
        return ({} if self.audit is None else {MEMBERSHIP: self.audit.format}) | self._own_tables

    @cached_property
    def _own_tables(self) -> dict[str, TableFormat]:
        formats: dict[str, TableFormat] = {}
        with self.noting_unreadable(TABLES_FILE):
            formats = self.folder.tables()
            self.check_file(TABLES_FILE)
        return formats

    def check_file(self, name: str) -> None:
        """Check the checksum of a result file; a run that has not finished rewrites its files after each task.

        Raises:
            FolderError: It was damaged or changed.
            OSError, ValueError: It can't be read.
        """
        if self.status.get("state") == "finished":
            self.folder.check_file(name, self.status)

    def metric(self, name: str) -> float | None:
        """A metric of metrics.csv by its name, or the value of a cell by its address (`sample_quality.recall`).

        None for a run that is not finished, does not have it, or whose table can't be read.
        """
        if self.metrics is None or name in self.metrics or (cell := parse_cell(name)) is None:
            return (self.metrics or {}).get(name)
        if name not in self._cells:
            self._cells[name] = self._read_cell(cell)
        return self._cells[name]

    def _read_cell(self, cell: Cell) -> float | None:
        table_format = self.tables.get(cell.table)
        if table_format is None or cell.column_in(table_format) is None or cell.unknown_keys(table_format):
            return None
        return self.parse_table(cell.table, cell.value)

    def parse_table(self, name: str, parse: Callable[[CsvRows], _T]) -> _T | None:
        """What `parse` returns for the rows of a table; None, and a note, where it can't be read.

        Args:
            name: Name of the table, without `.csv`.
            parse: Raises ValueError or LookupError for a damaged table.
        """
        file_name = f"{name}.csv"
        with self.noting_unreadable(file_name):
            if self.audit is not None and name == MEMBERSHIP and name not in self._own_tables:
                return parse(self.audit.rows)
            path = self.path / file_name
            rows = read_table(path)
            with naming_file(path):
                parsed = parse(rows)
            self.check_file(file_name)
            return parsed
        return None

    @property
    def path(self) -> Path:
        """Path of the run's folder."""
        return self.folder.path

    @property
    def overrides(self) -> tuple[str, ...]:
        """Overrides of the command line that started the run."""
        return tuple(self.status.get("overrides", ()))

    @property
    def finished(self) -> bool:
        """Whether the run is finished and has results."""
        return self.state == "finished"


@dataclass
class DiscoveredRuns:
    """The runs, jobs and sweeps below some folders."""

    runs: list[DiscoveredRun] = field(default_factory=list)
    pending: list[SweepJob] = field(default_factory=list)
    """Jobs of sweeps that have not started."""
    unreadable: dict[Path, str] = field(default_factory=dict)
    """Reason by path, for folders and files that could not be read."""
    sweeps: list[Path] = field(default_factory=list)
    """Folders of sweeps."""


def discover_runs(roots: Sequence[Path]) -> DiscoveredRuns:
    """Read all runs below `roots`: folders with a status.json, and jobs that a sweep.json lists.

    Raises:
        FolderError: One of `roots` is not a folder, or there is no run below them.
    """
    discovered = DiscoveredRuns()
    for path, job in candidate_folders(roots, discovered):
        try:
            folder = RunFolder(path)
            status = folder.status()
            if status is not None:
                discovered.runs.append(_read_run(folder, status))
            elif job is not None:
                discovered.pending.append(job)
        except _READ_ERRORS as error:
            discovered.unreadable[path] = _reason(error)
    if not (discovered.runs or discovered.pending or discovered.unreadable):
        names = ", ".join(map(str, roots))
        raise FolderError(f"{names}: no run here (no status.json); name a folder that gr-run wrote, such as outputs")
    # A job whose folder was moved is not pending if its run lies elsewhere below the roots.
    started = {(run.seed, run.identity) for run in discovered.runs}
    discovered.pending = [job for job in discovered.pending if job.seed_and_identity not in started]
    add_reference_metrics(discovered.runs)
    return discovered


def candidate_folders(roots: Sequence[Path], discovered: DiscoveredRuns) -> Iterator[tuple[Path, SweepJob | None]]:
    """Yield the run folders below `roots`, each once, with the job of those that a sweep lists.

    Args:
        roots: Folders to search.
        discovered: Gets the sweeps, and what can't be read.

    Raises:
        FolderError: One of `roots` is not a folder.
    """
    yielded = set[Path]()
    for root in roots:
        if not root.is_dir():
            raise FolderError(f"{root}: is not a folder; name folders of runs, of sweeps, or parents of them")
        for path, job in _candidates_below(root, discovered):
            resolved = path.resolve()
            if resolved not in yielded:
                yielded.add(resolved)
                yield path, job


def _candidates_below(root: Path, discovered: DiscoveredRuns) -> Iterator[tuple[Path, SweepJob | None]]:
    """The same for one root; a folder may come twice."""

    def add_unreadable(error: OSError) -> None:
        discovered.unreadable[Path(error.filename)] = error.strerror or str(error)

    for name, folders, files in os.walk(root, onerror=add_unreadable):
        folders.sort()
        path = Path(name)
        if "status.json" in (*files, *folders):
            folders.clear()  # runs are not nested
            yield path, None
        elif MANIFEST in files:
            discovered.sweeps.append(path)
            try:
                yield from ((job.path, job) for job in read_manifest(path))
            except _READ_ERRORS as error:
                discovered.unreadable[path / MANIFEST] = _reason(error)
        if folders and len(path.relative_to(root).parts) >= _MAX_DEPTH:
            discovered.unreadable[path / folders[0]] = f"lies more than {_MAX_DEPTH} levels below {root}"
            folders.clear()


def _read_run(folder: RunFolder, status: dict[str, Any]) -> DiscoveredRun:
    config, choices = read_config(folder.path)
    relevant = result_relevant(config)
    seed, state = config["seed"], folder.state(status)
    if type(seed) is not int or seed < 0:
        raise ValueError("the seed in config.yaml must be a whole number ≥ 0")
    results = (folder.metrics(), _read_cost(folder.path)) if state == "finished" else (None, None)
    folder.check_status_checksum(status)
    for name in ("config.yaml", "metrics.csv", "timing.csv") if state == "finished" else ("config.yaml",):
        folder.check_file(name, status)
    run = DiscoveredRun(folder, state, seed, flatten(relevant), short_hash(relevant), dict(choices), status, *results)
    return run if run.metrics is None else _with_audit(run)


def _with_audit(run: DiscoveredRun) -> DiscoveredRun:
    """A finished run with what was measured by auditing it."""
    with run.noting_unreadable(AUDIT_FOLDER):
        audit = find_audit(run.path, run.seed, run.identity)
        if audit is not None:
            return replace(run, audit=audit, metrics={**(run.metrics or {}), **audit.metrics})
    return run


def _read_cost(path: Path) -> Cost:
    """Sum the times of timing.csv, which has a row per task and a column per kind of work."""
    timing = path / "timing.csv"
    rows = read_table(timing)
    with naming_file(timing):
        seconds = [value for row in rows for name, value in row.items() if name.endswith("_seconds") and value]
        peaks = [
            parse_finite_float(row["peak_memory_mib"]) for row in rows if row["peak_memory_mib"] not in ("", "nan")
        ]
        return Cost(sum(map(parse_finite_float, seconds)), max(peaks, default=math.nan))


def _reason(error: BaseException) -> str:
    """The reason of an error of reading, in one line without the file's folder."""
    if isinstance(error, OSError):
        return f"{Path(error.filename).name}: {error.strerror}" if error.filename else read_error_reason(error)
    if isinstance(error, FolderError):
        return _reason(error.__cause__) if error.__cause__ is not None else str(error).partition(";")[0]
    if isinstance(error, KeyError):
        return f"there is no {error.args[0]!r}"
    return read_error_reason(error)
