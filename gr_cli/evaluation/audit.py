"""The raw-sample audit: which training samples of its benchmark a run's folder holds, wherever in it they lie.

Nothing here knows where a strategy keeps things: every file of the folder is read as numbers, and samples are searched
for in all of them.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any, NamedTuple

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
from gr_cli.evaluation.audit_search import search, streams
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
    padded, enlarged, and in pieces of a quarter or more, once so many of these are there that they hold 2/5 of its
    contrast. Samples are looked for as each task presents them, and, where it
    transforms them, also as the source has them. One that lies in several places counts once. A faint copy in the
    state of an optimiser or a regulariser, where a gradient may be one, is a trace, and no violation.

    Not found are samples that were rotated by other than right angles, made smaller or grey, distorted, encrypted, or
    rounded more coarsely, those with something between all their values, and those that are constant.

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
    tasks, reader = load_benchmark(settings).tasks, FolderReader(path)
    under_way = _under_way(settings, saved, tasks, path)
    by_shape: dict[tuple[int, ...], dict[Target, _View]] = defaultdict(dict)
    for view in _views(tasks):
        by_shape[view.target.shape][view.target] = view
    pieces: dict[_Sample, _Pieces] = {}
    for shape, views in by_shape.items():
        for match in search(list(views), streams(reader.arrays(), shape)):
            faint = match.scale < _TRACE and bool(_GRADIENTS.match(match.place))
            sample = _Sample(views[match.target], match.label, faint, match.values is None)
            piece = pieces.setdefault(sample, _Pieces(np.zeros(prod(shape), np.bool_), set()))
            piece.values[... if match.values is None else match.values] = True
            piece.places.add(match.place)
    return _summed_up(pieces, tasks, under_way, claim, reader.unread)


def _under_way(settings: Settings, saved: Any, tasks: Sequence[Task], path: Path) -> set[int]:
    """The tasks in the middle of which a checkpoint was written."""
    if not isinstance(saved, Mapping) or not {"stage", "iteration"} <= saved.keys():
        raise FolderError(f"{path}: its checkpoint is not that of a run of gr-run; name the folder of one")
    if saved["iteration"] == 0:
        return set()
    sees = getattr(resolve(settings.config["strategy"]["_target_"], "strategy"), "sees", "task")
    return {task.id for task in trained_in(tasks, sees, saved["stage"])}


# --- what is looked for


@dataclass(frozen=True, eq=False)
class _View:
    """Training samples in one presentation, labelled by their rows in the store; `members`: which of its rows, bool
    (M,), each task has."""

    target: Target
    store: int
    members: Mapping[int, Tensor]


def _views(tasks: Sequence[Task]) -> Iterator[_View]:
    """The samples of each store as they are, and in each presentation of it: what tasks share is looked for once."""
    shared: dict[tuple[int, int], list[Task]] = defaultdict(list)
    transforms = {id(transform): transform for task in tasks for transform in (None, task.train.transform)}
    for task in tasks:
        for way in dict.fromkeys((id(None), id(task.train.transform))):
            shared[id(task.train.store), way].append(task)
    for (number, way), owners in shared.items():
        store, members = owners[0].train.store, {}
        for task in owners:
            members[task.id] = torch.zeros(len(store), dtype=torch.bool)
            members[task.id][task.train.rows(torch.arange(len(task.train)))] = True
        rows = torch.stack(list(members.values())).any(0).nonzero().squeeze(1)
        yield _View(_target(Samples(store, rows, transforms[way], rows)), number, members)


def _target(samples: Samples) -> Target:
    """What is searched for.

    Raises:
        DataError: samples have too few values.
    """

    def values(labels: NDArray[np.int64]) -> NDArray[np.float32]:
        rows: NDArray[np.float32] = samples.values(torch.from_numpy(labels.astype(np.int64))).numpy()
        return rows

    shape = tuple(samples.values(samples.y[:1]).shape[1:])
    if prod(shape) < _LEAST_VALUES:
        raise DataError(
            f"benchmark: samples of {prod(shape)} values can't be told from chance; "
            f"an audit takes {_LEAST_VALUES} or more"
        )
    return Target(samples.y.numpy(), shape, values, plain=samples.transform is None)


# --- what is found


class _Pieces(NamedTuple):
    """Pieces of a sample: which of its values (D,) were found, and in which places."""

    values: NDArray[np.bool_]
    places: set[str]


class _Sample(NamedTuple):
    """A sample of which something was found: its row in the store, whether it is a mere trace, and whether whole."""

    view: _View
    label: int
    faint: bool
    whole: bool


# Places by sample: its store, and its row in that, whatever presentation it was found in.
_Found = dict[tuple[int, int], set[str]]


def _summed_up(
    pieces: Mapping[_Sample, _Pieces],
    tasks: Sequence[Task],
    under_way: set[int],
    claims_to_store: bool,
    unread: Mapping[str, str],
) -> Audit:
    """The samples of which enough was found."""
    by_task: dict[int, _Found] = defaultdict(dict)
    outlived, traces = _Found(), _Found()
    for (view, label, faint, _), (values, places) in pieces.items():
        x = view.target.flat(np.array([label]))[0].astype(np.float64)
        contrast = np.square(x - x.mean())
        if contrast[values].sum() < _LEAST_CONTRAST * contrast.sum():
            continue
        owners = {task for task, member in view.members.items() if member[label]}
        # What the task under way has may lie there, whichever other task has it too.
        current = owners & under_way
        lists = [] if current else [traces if faint else outlived]
        if not faint:
            lists += [by_task[task] for task in current or owners]
        for found in lists:
            found.setdefault((view.store, label), set()).update(places)
    return Audit(
        tuple(TaskFinding(t.id, len(by_task[t.id]), _places(by_task[t.id]), t.id in under_way) for t in tasks),
        len(outlived),
        _places(outlived),
        len(traces.keys() - outlived.keys()),
        claims_to_store,
        dict(unread),
    )


def _places(found: _Found) -> tuple[str, ...]:
    return tuple(sorted(set().union(*found.values())))
