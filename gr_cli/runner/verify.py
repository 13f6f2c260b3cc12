"""A run repeated elsewhere: does it come out the same?"""

from __future__ import annotations

import copy
import csv
from collections.abc import Collection, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from itertools import zip_longest
from math import inf, isfinite
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from gr_cli.config.instantiate import foreign_targets
from gr_cli.config.settings import Settings, flatten
from gr_cli.errors import ConfigError, FolderError, GrError, OutOfMemoryError, SizeError
from gr_cli.results.folder import RunFolder
from gr_cli.results.stored_config import check_trust, stored_settings
from gr_cli.runner.checkpoints import check_identity
from gr_cli.runner.provenance import processor
from gr_cli.runner.run import run_together
from gr_cli.system.reading import MAX_TABLE_BYTES, read_text
from gr_cli.training.observer import RunObserver

# What status.json says that may explain a difference.
_EXPLAINING_FIELDS = ("data", "versions", "device", "threads", "commit", "mode", "processor")
SAME, DIFFERENT, UNDECIDED = 0, 1, 3


@dataclass(frozen=True)
class VerificationResult:
    """`code`: SAME, DIFFERENT, or UNDECIDED where the run can't be repeated exactly here; and what there is to say."""

    exit_code: int
    lines: list[str]


def verify(path: Path, view: RunObserver, trust: Collection[str] = ()) -> VerificationResult:
    """Repeat the finished run in `path` in a folder that is thrown away, as it was trained: with so many threads, and
    in a program with the same other runs. All tables but those of the clock must be equal byte for byte.

    Where it can't be trained so here (another processor, other versions, too little memory), the verdict on tables that
    differ is how far they do.

    Raises:
        FolderError: there is no run in `path`, it is not finished, or its state is damaged.
    """
    settings, folder = stored_settings(path, trust), RunFolder(path)
    trained = _training_provenance(settings, folder)
    with TemporaryDirectory(prefix="gr-verify-") as place:
        jobs, number = _runs_of_program(settings, trained, folder, trust)
        obstacles = [] if trained["width"] else [f"it was trained in more than one way ({trained['mode']})"]
        again, more = _repeat(jobs, number, Path(place), path.resolve().name, view)
        obstacles += more
        before, now = folder.status() or {}, again.status() or {}
        obstacles += _environment_differences(before | trained, now)
        names = dict.fromkeys(again.result_files())
        with suppress(OSError, ValueError):  # what describes its tables may be damaged, too
            names |= dict.fromkeys(folder.result_files())
        found = {name: _compare_tables(path / name, again.path / name) for name in names}
        lines = [f"{name}: {what or 'the same byte for byte'}" for name, (what, _) in found.items()]
    furthest = max(deviation for _, deviation in found.values())
    if not any(what for what, _ in found.values()):
        return VerificationResult(SAME, [*lines, "verified: all tables come out the same"])
    if obstacles and furthest < inf:
        return VerificationResult(
            UNDECIDED, [*lines, f"agrees within {furthest:.6g}; not repeated exactly: {obstacles[0]}"]
        )
    return VerificationResult(DIFFERENT, [*lines, "NOT the same" + _possible_causes(before | trained, now)])


def _training_provenance(settings: Settings, folder: RunFolder) -> dict[str, Any]:
    """How a run was trained, as its state says.

    Raises:
        FolderError: it is not finished, or its state is damaged or of another run.
    """
    state, saved = folder.state(), folder.load_checkpoint()
    if saved is not None:
        check_identity(saved, settings, folder)
    if saved is None or state != "finished" or saved.get("stage", 0) < saved.get("stages", 1):
        what = "its state is not that of the end" if state == "finished" else f"it is {state}"
        raise FolderError(f"{folder.path}: can't be verified, {what}; finish it with resume={folder.path}")
    trained: dict[str, Any] = saved.get("training", {})
    return trained


def _runs_of_program(
    settings: Settings, trained: Mapping[str, Any], folder: RunFolder, trust: Collection[str]
) -> tuple[list[Settings], int]:
    """The runs that were trained as one with a run, and which of them it is. They are checked as its own settings are.

    Raises:
        FolderError: they can't be read, or name code that is not trusted.
    """
    try:
        program = trained.get("program") if trained["width"] else None
        differences, place = ([{}], 0) if program is None else (program["jobs"], program["place"])
        jobs = [_with_values(settings, {"threads": trained["threads"], **differs}) for differs in differences]
        for job in jobs:
            check_trust(folder.path, foreign_targets(job.config), trust)
        checked = [Settings.validated(job.config, job.choices, job.overrides) for job in jobs]
        if differences[place]:
            raise ValueError("the run differs from itself")
    except (ConfigError, ArithmeticError, AttributeError, LookupError, TypeError, ValueError) as error:
        raise FolderError(f"{folder.path}: can't be verified, its state does not say how it was trained") from error
    return checked, place


def _repeat(
    jobs: Sequence[Settings], place: int, home: Path, name: str, view: RunObserver
) -> tuple[RunFolder, list[str]]:
    """The run trained again below `home`, and why not exactly as it was, if so."""
    try:
        return _repeat_in(jobs, place, home / "as it was" / name, view), []
    except (OutOfMemoryError, SizeError) as error:
        if len(jobs) == 1:
            raise
        obstacle = f"a program of {len(jobs)} runs does not fit here ({error})"
    return _repeat_in([jobs[place]], 0, home / "alone" / name, view), [obstacle]


def _repeat_in(jobs: Sequence[Settings], place: int, path: Path, view: RunObserver) -> RunFolder:
    folders = [RunFolder(path.with_name(f"{path.name}-{i}") if i != place else path) for i in range(len(jobs))]
    outcome = run_together(jobs, folders, view)[place]
    if isinstance(outcome, GrError):
        raise outcome
    return folders[place]


def _with_values(settings: Settings, differs: Mapping[str, Any]) -> Settings:
    """`settings` with other values, by dotted name."""
    config = copy.deepcopy(settings.config)
    for name, value in differs.items():
        *groups, leaf = name.split(".")
        node = config
        for group in groups:
            node = node[group]
        node[leaf] = value
    return replace(settings, config=config)


def _environment_differences(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """Why the same arithmetic may round otherwise here."""
    versions = [status.get("versions", {}).get("torch") for status in (before, now)]
    pairs = {
        "processor": (before["processor"], processor()),
        "device": (before.get("device"), now.get("device")),
        "torch": versions,
    }
    return [f"{name} was {_as_text(was)} and is {_as_text(here)}" for name, (was, here) in pairs.items() if was != here]


def _as_text(value: Any) -> str:
    return " ".join(map(str, value.values())) if isinstance(value, Mapping) else str(value)


def _possible_causes(before: Mapping[str, Any], now: Mapping[str, Any]) -> str:
    """What may explain a difference."""
    was, here = (flatten({name: status.get(name) for name in _EXPLAINING_FIELDS}) for status in (before, now))
    other = [
        f"{name} was {was.get(name)} and is {value}"
        for name, value in here.items()
        if was.get(name) not in (None, value)
    ]
    return f"; what else differs: {', '.join(other)}" if other else ""


def _compare_tables(one: Path, other: Path) -> tuple[str, float]:
    """Where two tables differ first, empty if they are the same byte for byte; and by how much numbers in them differ,
    inf if they differ in anything else."""
    if not (one.exists() and other.exists()):
        return ("is missing" if other.exists() else "is there, and does not come out again"), inf
    try:
        mine, theirs = read_text(one, MAX_TABLE_BYTES), read_text(other, MAX_TABLE_BYTES)
    except (OSError, ValueError) as error:
        return f"can't be read ({error})", inf
    if mine == theirs:
        return "", 0.0
    deviation = _max_deviation(mine, theirs)
    by = f" (by {deviation:.6g} at most)" if deviation < inf else ""
    for number, (a, b) in enumerate(zip_longest(mine.splitlines(), theirs.splitlines()), 1):
        if a != b:
            return f"differs from row {number} on{by}: {a or 'nothing'} there, {b or 'nothing'} here", deviation
    return "differs in form, not in content", inf


def _max_deviation(one: str, other: str) -> float:
    """The largest difference of two numbers at the same place in two tables; inf where anything else differs."""
    tables = [list(csv.reader(text.splitlines())) for text in (one, other)]
    if [len(row) for row in tables[0]] != [len(row) for row in tables[1]]:
        return inf
    pairs = zip((c for row in tables[0] for c in row), (c for row in tables[1] for c in row), strict=True)
    return max((_absolute_difference(a, b) for a, b in pairs if a != b), default=inf)


def _absolute_difference(one: str, other: str) -> float:
    try:
        found = abs(float(one) - float(other))
    except ValueError:
        return inf
    return found if isfinite(found) else inf
