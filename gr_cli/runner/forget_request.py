"""What to forget of a run: classes and tasks, or single samples that the caller hands in."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor

from gr_cli.errors import ConfigError, DataError, suggestion
from gr_cli.nn.sample_spec import SampleSpec
from gr_cli.results.forgotten import listed, numbered
from gr_cli.runner.checkpoints import State
from gr_cli.runner.sample_file import samples_of
from gr_cli.strategies.base import Strategy
from gr_cli.system.cache import content_hash


@dataclass(frozen=True)
class Selection:
    """What to forget: classes in all tasks, tasks with all their classes, classes of certain tasks, or single samples.

    Attributes:
        classes: Names of classes.
        tasks: Tasks, from 0; of single samples those in which they were.
        samples: Single samples as the strategy had them: a file, or a tensor or array (N, ...).
        label: Name of their class, if it is not in the file.
    """

    classes: Sequence[str] = ()
    tasks: Sequence[int] = ()
    samples: Path | Any = None
    label: str | None = None


class Request(Protocol):
    """A valid request to forget.

    Attributes:
        entry: The entry of `forgotten` in status.json.
        is_repeated: Whether all of it was forgotten before.
        splits_tasks: Whether a task keeps other samples.
    """

    entry: dict[str, Any]
    is_repeated: bool
    splits_tasks: bool

    def apply(self, strategy: Strategy) -> None:
        """Let a strategy forget it."""


class ClassRequest:
    """A request to forget classes and tasks.

    Args:
        saved: Checkpoint of the run.
        selection: The classes and tasks.

    Raises:
        ConfigError: There is no such class or task, or none of them belongs to the tasks.
    """

    def __init__(self, saved: State, selection: Selection) -> None:
        if selection.label is not None:
            raise ConfigError("label", selection.label, "is for samples=<file>", "name classes by classes=[3]")
        if not selection.classes and not selection.tasks:
            raise ConfigError("forget", "nothing", "names neither classes nor tasks", "add classes=[3] or tasks=[1]")
        self._stream = _Stream(saved)
        self._dropped = dropped = self._stream.select(selection.classes, selection.tasks)
        self.entry = self._stream.entry(dropped)
        self.is_repeated = not (dropped & ~self._stream.forgotten).any()
        self.splits_tasks = bool((dropped.any(1) & (self._stream.units & ~dropped).any(1)).any())

    def apply(self, strategy: Strategy) -> None:
        strategy.forget(self._dropped)


class SampleRequest:
    """A request to forget single samples.

    Args:
        saved: Checkpoint of the run.
        selection: The samples.

    Raises:
        ConfigError: There is no such class or task, or the task of a sample is not clear.
        DataError: The samples can't be read, are not of the shape and range that the strategy had, or some of them were
            forgotten before.
    """

    splits_tasks = True

    def __init__(self, saved: State, selection: Selection) -> None:
        if selection.classes:
            named, remedy = listed(selection.classes), "name the class of the samples by label=3"
            raise ConfigError("classes", named, "can't be combined with samples", remedy)
        stream = _Stream(saved)
        self._x, labels = samples_of(selection.samples, selection.label, SampleSpec(**saved["spec"]))
        self._units = [stream.only_unit(label, selection.tasks) for label in labels]
        dropped = torch.zeros_like(stream.units)
        for task, unit in self._units:
            dropped[task, unit] = True
        # The hashes make a repeated call do nothing, also after a process was killed in the middle.
        hashes = [content_hash(x, unit) for x, unit in zip(self._x, self._units, strict=True)]
        self.entry = stream.entry(dropped) | {"samples": len(labels), "hashes": sorted(hashes)}
        before = Counter(value for entry in saved["forgotten"] for value in entry.get("hashes", []))
        self.is_repeated = Counter(hashes) <= before
        repeated = [i for i, value in enumerate(hashes) if value in before]
        if repeated and not self.is_repeated:
            raise DataError(
                f"samples: {listed(repeated)} of {len(hashes)} (from 0) were forgotten before, and would be taken out "
                "twice; hand in the others alone"
            )

    def apply(self, strategy: Strategy) -> None:
        for task, unit in dict.fromkeys(self._units):
            rows = [i for i, pair in enumerate(self._units) if pair == (task, unit)]
            strategy.forget_samples(task, unit, self._x[rows])


class _Stream:
    """The tasks, classes and output units of a run, from its checkpoint.

    Attributes:
        tasks: For each task the output unit of each class.
        units: bool (T, U), the output units of each task.
    """

    def __init__(self, saved: State) -> None:
        self._forgotten = saved["forgotten"]
        self.tasks: list[dict[str, int]] = [
            {name: task["first_unit"] + i for i, name in enumerate(task["classes"])} for task in saved["tasks"]
        ]
        self.units = torch.zeros(len(self.tasks), saved["learner"]["task_units"].shape[1], dtype=torch.bool)
        for row, units in zip(self.units, self.tasks, strict=True):
            row[list(units.values())] = True

    def select(self, classes: Sequence[str], tasks: Sequence[int]) -> Tensor:
        """The output units of classes of tasks, bool (T, U); all classes or all tasks if none is named.

        Raises:
            ConfigError: There is no such class or task, or none of them belongs to the tasks.
        """
        names = list(dict.fromkeys(name for units in self.tasks for name in units))
        for name in classes:
            if name not in names:
                allowed = f"is no class of this run; there are {listed(names)}"
                raise ConfigError("classes", name, allowed, suggestion(name, names))
        for number in tasks:
            if not 0 <= number < len(self.tasks):
                last = len(self.tasks) - 1
                raise ConfigError("tasks", number, f"is no task of this run; they count from 0 to {last}")
        selected = torch.zeros_like(self.units)
        for number in tasks or range(len(self.tasks)):
            for name, unit in self.tasks[number].items():
                selected[number, unit] = not classes or name in classes
        if not selected.any():
            numbers = numbered("task", "tasks", tasks)
            raise ConfigError("classes", listed(classes), f"not in {numbers}", "leave out one of the two")
        return selected

    def only_unit(self, name: str, tasks: Sequence[int]) -> tuple[int, int]:
        """The task and the output unit of a class.

        Raises:
            ConfigError: It is in several tasks.
        """
        pairs: list[list[int]] = self.select([name], tasks).nonzero().tolist()
        if len(pairs) > 1:
            numbers = [task for task, _ in pairs]
            raise ConfigError(
                "label", name, f"is in tasks {listed(numbers)}", f"add tasks=[{pairs[0][0]}] for that of the sample"
            )
        return pairs[0][0], pairs[0][1]

    @cached_property
    def forgotten(self) -> Tensor:
        """The units of each task that were forgotten before: bool (T, U)."""
        result = torch.zeros_like(self.units)
        for entry in self._forgotten:
            if "samples" not in entry:
                result |= self.select(entry["classes"], entry["tasks"])
        return result

    def entry(self, dropped: Tensor) -> dict[str, Any]:
        """The entry of `forgotten` for output units (T, U): classes and tasks by name and number, and the time."""
        numbers = [number for number, row in enumerate(dropped) if row.any()]
        classes = [name for number in numbers for name in self._names(number, dropped[number])]
        now = datetime.now(timezone.utc).isoformat(timespec="seconds")
        return {"classes": list(dict.fromkeys(classes)), "tasks": numbers, "at": now}

    def _names(self, task: int, dropped: Tensor) -> list[str]:
        return [name for name, unit in self.tasks[task].items() if dropped[unit]]
