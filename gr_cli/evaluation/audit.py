"""The raw-sample audit: which training samples of its benchmark a run's folder holds, wherever in it they lie.

Nothing here knows where a strategy keeps things: every file of the folder is read as numbers, and samples are searched
for in all of them.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from gr_cli.benchmarks.base import Samples, Task
from gr_cli.config.instantiate import resolve
from gr_cli.config.settings import Settings
from gr_cli.errors import DataError, FolderError
from gr_cli.evaluation.audit_files import FolderReader
from gr_cli.evaluation.audit_layouts import Target
from gr_cli.evaluation.audit_match import Match
from gr_cli.evaluation.audit_search import search
from gr_cli.evaluation.audit_streams import streams
from gr_cli.results.folder import RunFolder
from gr_cli.results.stored_config import settings_of
from gr_cli.training.experiment import load_benchmark
from gr_cli.training.stages import trained_in

# Rows of fewer values than this resemble samples by chance.
_LEAST_VALUES = 16
# The gradient of a unit that one sample alone moved is that sample times a small number. Optimisers and regularisers
# keep what they make of gradients; a row of theirs that is this much fainter than its sample is a trace. The largest
# that was found in runs of few iterations was 0.004; in those of usual length they are below 0.0001.
_GRADIENTS, _TRACE = re.compile(r"checkpoint(\.\w+)?\.pt: learner\.(optimizers|regularizer)\."), 0.05
# A sample is found where parts with so much of its contrast (squared deviations from its mean) are.
_LEAST_CONTRAST = 0.4


@dataclass(frozen=True)
class TaskFinding:
    """How many different training samples of a task were found, and in which places; `under_way`: whether the
    checkpoint was written in the middle of the task, while its samples may lie there."""

    task: int
    samples: int
    places: tuple[str, ...]
    under_way: bool

    def __str__(self) -> str:
        return f"task {self.task}{' (under way)' if self.under_way else ''}: {self.samples}"


@dataclass(frozen=True)
class Audit:
    """What was found in a run's folder.

    Attributes:
        tasks: a finding for each task.
        outlived: how many different samples were found that are not of a task under way.
        places: where these lie.
        traces: how many more left their gradient in the state of an optimiser or a regulariser.
        claims_to_store: whether status.json says that the run stores raw samples.
        unread: what could not be read, by place, with the reason.
    """

    tasks: tuple[TaskFinding, ...]
    outlived: int
    places: tuple[str, ...]
    traces: int
    claims_to_store: bool
    unread: Mapping[str, str]

    @property
    def violated(self) -> bool:
        """Whether samples were found that should not be there."""
        return self.outlived > 0 and not self.claims_to_store

    @property
    def incomplete(self) -> bool:
        """Whether nothing speaks against the run, but not all of its folder could be read."""
        return bool(self.unread) and not self.violated

    @property
    def verdict(self) -> str:
        """One line: whether what was found agrees with what the run says of itself."""
        said, where = f"stores_raw_samples: {str(self.claims_to_store).lower()}", ", ".join(self.places)
        if self.violated:
            return f"{said}, but {self.outlived} training samples were found, in {where}"
        if self.outlived:
            return f"stores raw samples, as it says: {self.outlived} in {where}"
        return f"{said}, and none was found" + (
            " of a task that is over" if any(task.samples for task in self.tasks) else ""
        )

    def __str__(self) -> str:
        """A line for each task, one for traces if there are any, one for each thing not read, and the verdict."""
        traces = f"traces of {self.traces} samples, their gradients, in the state of optimisers and regulariser"
        unread = [f"not read: {place}: {reason}" for place, reason in sorted(self.unread.items())]
        return "\n".join([*map(str, self.tasks), *([traces] if self.traces else []), *unread, self.verdict])


def audit(path: Path, trust: Collection[str] = ()) -> Audit:
    """Look for training samples in every file of the folder `path` of a run, and of the folders below.

    A sample is found at any scale, offset and rounding to 8 bits or more, by rows or by columns, flipped, inverted,
    padded, as differences of neighbours, at half its size, and in pieces of a quarter or more, once so many of these
    are there that they hold 2/5 of its contrast. Samples are looked for as each task presents them, and, where it
    transforms them, also as the source has them. One that lies in several places counts once. A faint copy in the
    state of an optimiser or a regulariser, where a gradient may be one, is a trace, and no violation.

    Not found are samples that were rotated by other than right angles, distorted, encrypted, or rounded more coarsely,
    those with something between all their values, and those that are constant.

    Raises:
        FolderError: there is no run, or no checkpoint yet.
        ConfigError, DataError: the run's benchmark can't be loaded, or its samples have too few values.
    """
    folder, settings = RunFolder(path), settings_of(path, trust)
    claim = (folder.status() or {}).get("stores_raw_samples")
    if not isinstance(claim, bool):
        raise FolderError(f"{path}: its status.json does not say whether raw samples are stored; go on with the run")
    saved = folder.load_checkpoint()
    if saved is None:
        raise FolderError(f"{path}: holds no checkpoint yet; go on with resume={path}")
    tasks = load_benchmark(settings).tasks
    found, reader = _Notes(_under_way(settings, saved, tasks, path)), FolderReader(path)
    by_shape: dict[tuple[int, ...], list[_View]] = {}
    for view in _views(tasks):
        by_shape.setdefault(view.shape, []).append(view)
    for shape, views in by_shape.items():
        owners = {id(target): (target, view) for view in views for target in view.targets()}
        for match in search([target for target, _ in owners.values()], streams(reader.arrays(), shape)):
            found.note(match, owners[id(match.target)][1])
    return found.summed_up(tasks, claim, reader.unread)


def _under_way(settings: Settings, saved: Any, tasks: Sequence[Task], path: Path) -> set[int]:
    """The tasks in the middle of which a checkpoint was written."""
    if not isinstance(saved, Mapping) or not {"stage", "iteration"} <= saved.keys():
        raise FolderError(f"{path}: its checkpoint is not that of a run of gr-run; name the folder of one")
    if saved["iteration"] == 0:
        return set()
    sees = getattr(resolve(settings.config["strategy"]["_target_"], "strategy"), "sees", "task")
    return {task.id for task in trained_in(tasks, sees, saved["stage"])}


# --- what is looked for


@dataclass(frozen=True)
class _View:
    """Training samples in one presentation, labelled by their rows in the store; `members`: which of its rows, bool
    (M,), each task has."""

    samples: Samples
    members: Mapping[int, Tensor]

    @cached_property
    def shape(self) -> tuple[int, ...]:
        """The shape of a sample."""
        return tuple(self.samples.values(self.samples.y[:1]).shape[1:])

    def targets(self) -> list[Target]:
        """What is searched for: the samples, and what can be made of them."""

        def values(labels: NDArray[np.int64]) -> NDArray[np.float32]:
            rows: NDArray[np.float32] = self.samples.values(torch.from_numpy(labels.astype(np.int64))).numpy()
            return rows

        samples = Target(self.samples.y.numpy(), self.shape, values, plain=self.samples.transform is None)
        return [samples, *samples.derived()]


def _views(tasks: Sequence[Task]) -> list[_View]:
    """The samples of each store as they are, and in each presentation of it: what tasks share is looked for once."""
    shared: dict[tuple[int, int], list[Task]] = {}
    transforms = {id(transform): transform for task in tasks for transform in (None, task.train.transform)}
    for task in tasks:
        for way in dict.fromkeys((id(None), id(task.train.transform))):
            shared.setdefault((id(task.train.store), way), []).append(task)
    views = []
    for (_, way), owners in shared.items():
        store, members = owners[0].train.store, {}
        for task in owners:
            members[task.id] = torch.zeros(len(store), dtype=torch.bool)
            members[task.id][task.train.rows(torch.arange(len(task.train)))] = True
        rows = torch.stack(list(members.values())).any(0).nonzero().squeeze(1)
        views.append(_View(Samples(store, rows, transforms[way], rows), members))
    for view in views:
        if prod(view.shape) < _LEAST_VALUES:
            raise DataError(
                f"benchmark: samples of {prod(view.shape)} values can't be told from chance; "
                f"an audit takes {_LEAST_VALUES} or more"
            )
    return views


# A sample, by its store and its row in it, whatever presentation it was found in; and the places that it lies in.
_Sample = tuple[int, int]
_Found = dict[_Sample, set[str]]


@dataclass
class _Pieces:
    """Pieces of a sample: which of its values (D,) were found, in which places, and the view that has the sample."""

    view: _View
    values: NDArray[np.bool_]
    places: set[str]


class _Notes:
    """Takes down what is found."""

    def __init__(self, under_way: set[int]) -> None:
        self._under_way = under_way
        self._by_task: dict[int, _Found] = defaultdict(dict)
        self._outlived: _Found = {}
        self._traces: _Found = {}
        self._pieces: dict[tuple[Target, int, bool], _Pieces] = {}

    def note(self, match: Match, view: _View) -> None:
        """A sample of the view's store was found, or a piece of one."""
        faint = match.scale < _TRACE and bool(_GRADIENTS.match(match.place))
        if match.values is None:
            self._note_sample(view, match.label, faint, {match.place})
            return
        none = _Pieces(view, np.zeros_like(match.values), set())
        pieces = self._pieces.setdefault((match.target, match.label, faint), none)
        pieces.values |= match.values
        pieces.places.add(match.place)

    def _note_sample(self, view: _View, label: int, faint: bool, places: set[str]) -> None:
        owners = {task for task, member in view.members.items() if member[label]}
        # What the task under way has may lie there, whichever other task has it too.
        current = owners & self._under_way
        lists = [] if current else [self._traces if faint else self._outlived]
        if not faint:
            lists += [self._by_task[task] for task in current or owners]
        for found in lists:
            found.setdefault((id(view.samples.store), label), set()).update(places)

    def summed_up(self, tasks: Sequence[Task], claims_to_store: bool, unread: Mapping[str, str]) -> Audit:
        """All that was noted, with the samples of which enough pieces were found."""
        for (target, label, faint), pieces in self._pieces.items():
            x = target.flat(np.array([label]))[0].astype(np.float64)
            contrast = np.square(x - x.mean())
            if contrast[pieces.values].sum() >= _LEAST_CONTRAST * contrast.sum():
                self._note_sample(pieces.view, label, faint, pieces.places)
        by_task = [(task.id, self._by_task[task.id]) for task in tasks]
        return Audit(
            tuple(TaskFinding(i, len(found), _places(found), i in self._under_way) for i, found in by_task),
            len(self._outlived),
            _places(self._outlived),
            len(self._traces.keys() - self._outlived.keys()),
            claims_to_store,
            dict(unread),
        )


def _places(found: _Found) -> tuple[str, ...]:
    return tuple(sorted(set().union(*found.values())))
