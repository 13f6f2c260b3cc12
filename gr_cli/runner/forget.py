"""Forget classes or tasks of a finished run: drop what was computed from their samples, as if they had never come."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from gr_cli.config.settings import Settings
from gr_cli.errors import ConfigError, FolderError, suggestion
from gr_cli.nn.shared_fit import SharedFit
from gr_cli.results.folder import RunFolder
from gr_cli.results.forgotten import describe_forgotten, listed
from gr_cli.results.stored_config import check_code, stored_settings
from gr_cli.runner.checkpoints import State
from gr_cli.runner.load import load_learner, load_state
from gr_cli.runner.remains import delete_remains, remaining_copies
from gr_cli.training.learner import Learner


@dataclass(frozen=True)
class Selection:
    """What to forget: classes in all tasks, tasks with all their classes, or classes of certain tasks.

    Attributes:
        classes: Names of classes.
        tasks: Tasks, from 0.
    """

    classes: Sequence[str] = ()
    tasks: Sequence[int] = ()


@dataclass(frozen=True)
class Forgotten:
    """Outcome of forgetting.

    Attributes:
        classes: Names of the classes.
        tasks: The tasks that had samples of them.
        is_repeated: Whether all of it was forgotten before.
        deleted: Files that were deleted.
        remaining: What may still hold it, each with a reason: files that this program does not change.
    """

    classes: tuple[str, ...]
    tasks: tuple[int, ...]
    is_repeated: bool
    deleted: tuple[Path, ...]
    remaining: Mapping[str, str]

    @property
    def lines(self) -> list[str]:
        """Lines for a reader."""
        what = describe_forgotten({"classes": self.classes, "tasks": self.tasks})
        first = f"{what}: forgotten before; nothing to do" if self.is_repeated else f"forgotten: {what}"
        deleted = [f"deleted: {', '.join(map(str, self.deleted))}"] if self.deleted else []
        return [first, *deleted, *(f"unchanged: {name} ({reason})" for name, reason in self.remaining.items())]


def forget(
    path: Path, selection: Selection, trust: Collection[str] = (), settings: Settings | None = None
) -> Forgotten:
    """Forget classes or tasks of a finished run.

    Afterwards statistics, weights and predictions in its checkpoint equal, bit for bit, those of a run with the same
    stream without these samples. Tables stay as they were written; status.json lists what was forgotten. The new
    checkpoint replaces the old one at once: a process that is killed leaves the run as it was or forgotten, and the
    same call again deletes what is left.

    Args:
        path: Folder of the run.
        selection: What to forget.
        trust: Dotted names of code that the run's settings may import.
        settings: Settings of the run; None: those in the folder.

    Raises:
        ConfigError: The run has no such class or task.
        FolderError: The run is not finished or is being trained, or something was fitted on these samples together
            with others.
    """
    settings, folder = settings or stored_settings(path, trust), RunFolder(path)
    check_code(path, settings)
    if (state := folder.state()) != "finished":
        raise FolderError(f"{path}: is {state}, and only a finished run can forget; finish it with resume={path}")
    with folder.locked():
        saved = load_state(settings, folder)
        dropped = _dropped_units(saved, selection)
        entry = _entry(saved["tasks"], dropped)
        is_repeated = not (dropped & ~_forgotten_units(saved)).any()
        if not is_repeated:
            learner = load_learner(settings, saved)
            _check_forgettable(
                path, describe_forgotten(entry), [*map(_fit, saved["shared_fits"]), *_fits(learner)], entry
            )
            learner.strategy.forget(dropped)
            changes = {"learner": saved["learner"] | _changed_state(learner), "forgotten": [*saved["forgotten"], entry]}
            folder.write_checkpoint(saved | changes)
            saved |= changes
        folder.commit_checkpoint()
        folder.drop_previous_checkpoint()
        deleted = delete_remains(folder, min(entry["tasks"]))
        folder.write_status((folder.status() or {}) | {"forgotten": saved["forgotten"]})
        remaining = remaining_copies(folder, settings.config)
    return Forgotten(tuple(entry["classes"]), tuple(entry["tasks"]), is_repeated, deleted, remaining)


# --- the samples


def _units_of(task: Mapping[str, Any]) -> dict[str, int]:
    """The output unit of each class of a task, from the checkpoint."""
    return {name: task["first_unit"] + i for i, name in enumerate(task["classes"])}


def _dropped_units(saved: State, selection: Selection) -> Tensor:
    """The output units of each task that a selection names: bool (T, U).

    Raises:
        ConfigError: There is no such class or task, or none of them belongs to the tasks.
    """
    tasks, names = saved["tasks"], list(dict.fromkeys(name for task in saved["tasks"] for name in task["classes"]))
    if not selection.classes and not selection.tasks:
        raise ConfigError("forget", "nothing", "names neither classes nor tasks", "add classes=[3] or tasks=[1]")
    for name in selection.classes:
        if name not in names:
            allowed = f"is no class of this run; there are {listed(names)}"
            raise ConfigError("classes", name, allowed, suggestion(name, names))
    for number in selection.tasks:
        if not 0 <= number < len(tasks):
            raise ConfigError("tasks", number, f"is no task of this run; they count from 0 to {len(tasks) - 1}")
    dropped = torch.zeros(len(tasks), saved["learner"]["task_units"].shape[1], dtype=torch.bool)
    for number in selection.tasks or range(len(tasks)):
        for name, unit in _units_of(tasks[number]).items():
            dropped[number, unit] = not selection.classes or name in selection.classes
    if not dropped.any():
        remedy = "leave out one of the two"
        raise ConfigError("classes", listed(selection.classes), f"not in tasks {listed(selection.tasks)}", remedy)
    return dropped


def _entry(tasks: Sequence[Mapping[str, Any]], dropped: Tensor) -> dict[str, Any]:
    """The entry of `forgotten` for dropped units: classes and tasks by name and number, and the time."""
    numbers = [number for number in range(len(tasks)) if dropped[number].any()]
    classes = [n for number in numbers for n, unit in _units_of(tasks[number]).items() if dropped[number, unit]]
    now = datetime.now(timezone.utc).isoformat(timespec="seconds")
    return {"classes": list(dict.fromkeys(classes)), "tasks": numbers, "at": now}


def _forgotten_units(saved: State) -> Tensor:
    """The units of each task that were forgotten before: bool (T, U)."""
    result = torch.zeros(len(saved["tasks"]), saved["learner"]["task_units"].shape[1], dtype=torch.bool)
    for entry in saved["forgotten"]:
        result |= _dropped_units(saved, Selection(entry["classes"], entry["tasks"]))
    return result


# --- what can be forgotten


def _fit(stored: Mapping[str, Any]) -> SharedFit:
    return SharedFit(**stored)


def _fits(learner: Learner) -> tuple[SharedFit, ...]:
    strategy = learner.strategy
    if strategy.stores_raw_samples:
        return (SharedFit("the strategy keeps a memory of samples"), *strategy.shared_fits)
    return strategy.shared_fits


def _check_forgettable(path: Path, what: str, fits: Sequence[SharedFit], entry: Mapping[str, Any]) -> None:
    """Check that nothing was fitted on the samples together with others.

    Raises:
        FolderError: Something was.
    """
    for fit in fits:
        if not fit.first_task_only or 0 in entry["tasks"]:
            remedy = f"train a run without them{f', or one that can: {fit.remedy}' if fit.remedy else ''}"
            raise FolderError(f"{path}: can't forget {what}, because {fit.reason}; {remedy}")


def _changed_state(learner: Learner) -> State:
    """The parts of a learner's state in which strategies keep what they computed from samples."""
    state = learner.state_of(0)
    return {name: state[name] for name in ("solver", "generator", "strategy")}
