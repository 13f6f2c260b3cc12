"""Verify a finished run: repeat it in a temporary folder and compare the tables."""

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
from gr_cli.results.forgotten import notices
from gr_cli.results.stored_config import check_code, check_trust, stored_settings
from gr_cli.runner.checkpoints import check_identity
from gr_cli.runner.load import load_state
from gr_cli.runner.provenance import processor
from gr_cli.runner.run import run_together
from gr_cli.runner.verify_secure import NOT_REPEATABLE, is_repeatable, stored_consistency
from gr_cli.system.reading import MAX_TABLE_BYTES, read_text
from gr_cli.training.observer import RunObserver

# Fields of status.json that may explain a difference.
_EXPLAINING_FIELDS = ("data", "versions", "device", "threads", "commit", "mode", "processor")
SAME, DIFFERENT, UNDECIDED = 0, 1, 3  # exit codes


@dataclass(frozen=True)
class VerificationResult:
    """Outcome of a verification."""

    exit_code: int
    """SAME, DIFFERENT, or UNDECIDED if the run can't be repeated exactly on this machine."""
    lines: list[str]
    """A line per table, and the conclusion."""


def verify(path: Path, observer: RunObserver, trust: Collection[str] = ()) -> VerificationResult:
    """Repeat a finished run in a temporary folder and compare the tables, except timing.csv, byte for byte.

    The run is repeated as it was trained: with the same number of threads, and in a group with the same other runs.
    If that is impossible here (another processor, other versions, too little memory), tables that differ only in
    numbers are undecided, and the largest difference is reported. A run with noise of the operating system's generator
    can't be repeated anywhere: its tables are compared with its checkpoint, and its ledger with its claim.

    Args:
        path: Folder of the run.
        observer: Notified of what happens.
        trust: Dotted names of components outside this program that may be imported.

    Raises:
        FolderError: There is no run in `path`, it is not finished, or its checkpoint is damaged.
    """
    settings, folder = stored_settings(path, trust), RunFolder(path)
    check_code(path, settings)
    trained = _training_provenance(settings, folder)
    if not is_repeatable(settings):
        return _verify_stored(settings, folder)
    with TemporaryDirectory(prefix="gr-verify-") as temporary:
        jobs, index = _runs_of_program(settings, trained, folder, trust)
        obstacles = [] if trained["width"] else [f"it was trained in more than one way ({trained['mode']})"]
        repeated, more_obstacles = _repeat(jobs, index, Path(temporary), path.resolve().name, observer)
        obstacles += more_obstacles
        before, now = folder.status() or {}, repeated.status() or {}
        obstacles += _environment_differences(before | trained, now)
        names = dict.fromkeys(repeated.result_files())
        with suppress(OSError, ValueError):  # tables.json of the run may be damaged
            names |= dict.fromkeys(folder.result_files())
        comparisons = {name: _compare_tables(path / name, repeated.path / name) for name in names}
        lines = [f"{name}: {difference or 'the same byte for byte'}" for name, (difference, _) in comparisons.items()]
    lines += notices(before.get("forgotten", []))
    deviation = max(deviation for _, deviation in comparisons.values())
    if not any(difference for difference, _ in comparisons.values()):
        return VerificationResult(SAME, [*lines, "verified: all tables are the same"])
    if obstacles and deviation < inf:
        return VerificationResult(
            UNDECIDED, [*lines, f"agrees within {deviation:.6g}; not repeated exactly: {obstacles[0]}"]
        )
    return VerificationResult(DIFFERENT, [*lines, "NOT the same" + _possible_causes(before | trained, now)])


def _verify_stored(settings: Settings, folder: RunFolder) -> VerificationResult:
    lines, is_consistent = stored_consistency(settings, folder, load_state(settings, folder))
    lines += notices((folder.status() or {}).get("forgotten", []))
    if not is_consistent:
        return VerificationResult(DIFFERENT, [*lines, f"NOT consistent, and {NOT_REPEATABLE}"])
    return VerificationResult(UNDECIDED, [*lines, f"consistent, but {NOT_REPEATABLE}"])


def _training_provenance(settings: Settings, folder: RunFolder) -> dict[str, Any]:
    """Training provenance of a finished run, from its checkpoint.

    Raises:
        FolderError: The run is not finished, or its checkpoint is damaged or of another run.
    """
    state, saved = folder.state(), folder.load_checkpoint()
    if saved is not None:
        check_identity(saved, settings, folder)
    if saved is None or state != "finished" or saved.get("stage", 0) < saved.get("stages", 1):
        reason = "its checkpoint is not from the end" if state == "finished" else f"it is {state}"
        raise FolderError(f"{folder.path}: can't be verified, {reason}; finish it with resume={folder.path}")
    provenance: dict[str, Any] = saved.get("training", {})
    return provenance


def _runs_of_program(
    settings: Settings, trained: Mapping[str, Any], folder: RunFolder, trust: Collection[str]
) -> tuple[list[Settings], int]:
    """Settings of the runs that were trained together with a run, validated as its own, and its index among them.

    Raises:
        FolderError: They are malformed, or name code that is not trusted.
    """
    try:
        program = trained.get("program") if trained["width"] else None
        all_differences, index = ([{}], 0) if program is None else (program["jobs"], program["index"])
        jobs = [_with_values(settings, {"threads": trained["threads"], **values}) for values in all_differences]
        for job in jobs:
            check_trust(folder.path, foreign_targets(job.config), trust)
        validated = [Settings.validated(job.config, job.choices, job.overrides) for job in jobs]
        if all_differences[index]:
            raise ValueError("the run differs from itself")
    except (ConfigError, ArithmeticError, AttributeError, LookupError, TypeError, ValueError) as error:
        raise FolderError(
            f"{folder.path}: can't be verified, its checkpoint does not say how it was trained"
        ) from error
    return validated, index


def _repeat(
    jobs: Sequence[Settings], index: int, parent: Path, name: str, observer: RunObserver
) -> tuple[RunFolder, list[str]]:
    """Train the run again below `parent`; return its folder and the obstacles to an exact repetition."""
    try:
        return _repeat_in(jobs, index, parent / "together" / name, observer), []
    except (OutOfMemoryError, SizeError) as error:
        if len(jobs) == 1:
            raise
        obstacle = f"a program of {len(jobs)} runs does not fit here ({error})"
    return _repeat_in([jobs[index]], 0, parent / "alone" / name, observer), [obstacle]


def _repeat_in(jobs: Sequence[Settings], index: int, path: Path, observer: RunObserver) -> RunFolder:
    folders = [RunFolder(path.with_name(f"{path.name}-{i}") if i != index else path) for i in range(len(jobs))]
    outcome = run_together(jobs, folders, observer)[index]
    if isinstance(outcome, GrError):
        raise outcome
    return folders[index]


def _with_values(settings: Settings, values: Mapping[str, Any]) -> Settings:
    """`settings` with other values, given by dotted name."""
    config = copy.deepcopy(settings.config)
    for name, value in values.items():
        *parents, key = name.split(".")
        node = config
        for parent in parents:
            node = node[parent]
        node[key] = value
    return replace(settings, config=config)


def _environment_differences(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """Differences of processor, device and torch, with which the same arithmetic may round differently."""
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
    """Changed fields of the status that may explain a difference, as the end of a sentence."""
    was, here = (flatten({name: status.get(name) for name in _EXPLAINING_FIELDS}) for status in (before, now))
    changes = [
        f"{name} was {was.get(name)} and is {value}"
        for name, value in here.items()
        if was.get(name) not in (None, value)
    ]
    return f"; what else differs: {', '.join(changes)}" if changes else ""


def _compare_tables(stored: Path, repeated: Path) -> tuple[str, float]:
    """Compare two CSV files.

    Returns:
        The first difference in words, empty if they are the same byte for byte; and the largest difference of two
        numbers, inf if anything but numbers differs.
    """
    if not (stored.exists() and repeated.exists()):
        return ("is missing" if repeated.exists() else "exists, but the repeated run does not write it"), inf
    try:
        stored_text, repeated_text = read_text(stored, MAX_TABLE_BYTES), read_text(repeated, MAX_TABLE_BYTES)
    except (OSError, ValueError) as error:
        return f"can't be read ({error})", inf
    if stored_text == repeated_text:
        return "", 0.0
    deviation = _max_deviation(stored_text, repeated_text)
    by = f" (by {deviation:.6g} at most)" if deviation < inf else ""
    for number, (there, here) in enumerate(zip_longest(stored_text.splitlines(), repeated_text.splitlines()), 1):
        if there != here:
            return f"differs from row {number} on{by}: {there or 'nothing'} there, {here or 'nothing'} here", deviation
    return "differs in line ends only", inf


def _max_deviation(one: str, other: str) -> float:
    """Largest difference of two numbers in the same cell of two tables; inf if anything but numbers differs."""
    tables = [list(csv.reader(text.splitlines())) for text in (one, other)]
    if [len(row) for row in tables[0]] != [len(row) for row in tables[1]]:
        return inf
    pairs = zip((c for row in tables[0] for c in row), (c for row in tables[1] for c in row), strict=True)
    return max((_absolute_difference(a, b) for a, b in pairs if a != b), default=inf)


def _absolute_difference(one: str, other: str) -> float:
    try:
        difference = abs(float(one) - float(other))
    except ValueError:
        return inf
    return difference if isfinite(difference) else inf
