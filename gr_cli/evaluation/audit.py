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
from gr_cli.config.instantiate import import_target
from gr_cli.config.settings import Settings
from gr_cli.errors import DataError, FolderError
from gr_cli.evaluation.audit_files import FolderReader
from gr_cli.evaluation.audit_layouts import SearchTarget
from gr_cli.evaluation.audit_search import find_samples, number_sequences
from gr_cli.results.folder import RunFolder
from gr_cli.results.stored_config import stored_settings
from gr_cli.training.experiment import load_benchmark
from gr_cli.training.stages import training_tasks

# Rows of fewer values than this resemble samples by chance.
_MIN_VALUES = 16
# The gradient of a unit that one sample alone moved is that sample times a small number. Optimisers and regularisers
# keep what they make of gradients; a row of theirs that is this much fainter than its sample is a trace. The largest
# that was found in runs of few iterations was 0.004; in those of usual length they are below 0.0001.
_GRADIENT_STATE, _TRACE_SCALE = re.compile(r"checkpoint(\.\w+)?\.pt: learner\.(optimizers|regularizer)\."), 0.05
# A sample is found where parts with so much of its contrast (squared deviations from its mean) are.
_MIN_CONTRAST = 0.4


@dataclass(frozen=True)
class TaskFinding:
    """How many different training samples of a task were found, and in which places; `under_way`: whether the
    checkpoint was written in the middle of the task, while its samples may lie there."""

    task: int
    samples: int
    locations: tuple[str, ...]
    in_progress: bool

    def __str__(self) -> str:
        return f"task {self.task}{' (under way)' if self.in_progress else ''}: {self.samples}"


@dataclass(frozen=True)
class AuditResult:
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
    num_retained: int
    locations: tuple[str, ...]
    num_traces: int
    claims_to_store: bool
    unread: Mapping[str, str]

    @property
    def violated(self) -> bool:
        """Whether samples were found that should not be there."""
        return self.num_retained > 0 and not self.claims_to_store

    @property
    def incomplete(self) -> bool:
        """Whether nothing speaks against the run, but not all of its folder could be read."""
        return bool(self.unread) and not self.violated

    @property
    def verdict(self) -> str:
        """One line: whether what was found agrees with what the run says of itself."""
        said, where = f"stores_raw_samples: {str(self.claims_to_store).lower()}", ", ".join(self.locations)
        if self.violated:
            return f"{said}, but {self.num_retained} training samples were found, in {where}"
        if self.num_retained:
            return f"stores raw samples, as it says: {self.num_retained} in {where}"
        return f"{said}, and none was found" + (
            " of a task that is over" if any(task.samples for task in self.tasks) else ""
        )

    def __str__(self) -> str:
        """A line for each task, one for traces if there are any, one for each thing not read, and the verdict."""
        traces = f"traces of {self.num_traces} samples, their gradients, in the state of optimisers and regulariser"
        unread = [f"not read: {place}: {reason}" for place, reason in sorted(self.unread.items())]
        return "\n".join([*map(str, self.tasks), *([traces] if self.num_traces else []), *unread, self.verdict])


def audit(path: Path, trust: Collection[str] = ()) -> AuditResult:
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
    folder, settings = RunFolder(path), stored_settings(path, trust)
    claim = (folder.status() or {}).get("stores_raw_samples")
    if not isinstance(claim, bool):
        raise FolderError(f"{path}: its status.json does not say whether raw samples are stored; go on with the run")
    saved = folder.load_checkpoint()
    if saved is None:
        raise FolderError(f"{path}: holds no checkpoint yet; go on with resume={path}")
    tasks, reader = load_benchmark(settings).tasks, FolderReader(path)
    under_way = _tasks_in_progress(settings, saved, tasks, path)
    by_shape: dict[tuple[int, ...], dict[SearchTarget, _Presentation]] = defaultdict(dict)
    for view in _presentations(tasks):
        by_shape[view.target.shape][view.target] = view
    pieces: dict[_FoundSample, _FoundValues] = {}
    for shape, views in by_shape.items():
        for match in find_samples(list(views), number_sequences(reader.arrays(), shape)):
            faint = match.scale < _TRACE_SCALE and bool(_GRADIENT_STATE.match(match.location))
            sample = _FoundSample(views[match.target], match.label, faint, match.values is None)
            piece = pieces.setdefault(sample, _FoundValues(np.zeros(prod(shape), np.bool_), set()))
            piece.values[... if match.values is None else match.values] = True
            piece.locations.add(match.location)
    return _summarize(pieces, tasks, under_way, claim, reader.unread)


def _tasks_in_progress(settings: Settings, saved: Any, tasks: Sequence[Task], path: Path) -> set[int]:
    """The tasks in the middle of which a checkpoint was written."""
    if not isinstance(saved, Mapping) or not {"stage", "iteration"} <= saved.keys():
        raise FolderError(f"{path}: its checkpoint is not that of a run of gr-run; name the folder of one")
    if saved["iteration"] == 0:
        return set()
    training_data = getattr(
        import_target(settings.config["strategy"]["_target_"], "strategy"), "training_data", "current"
    )
    return {task.id for task in training_tasks(tasks, training_data, saved["stage"])}


# --- what is looked for


@dataclass(frozen=True, eq=False)
class _Presentation:
    """Training samples in one presentation, labelled by their rows in the store; `members`: which of its rows, bool
    (M,), each task has."""

    target: SearchTarget
    store: int
    members: Mapping[int, Tensor]


def _presentations(tasks: Sequence[Task]) -> Iterator[_Presentation]:
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
            members[task.id][task.train.store_rows(torch.arange(len(task.train)))] = True
        rows = torch.stack(list(members.values())).any(0).nonzero().squeeze(1)
        yield _Presentation(_search_target(Samples(store, rows, transforms[way], rows)), number, members)


def _search_target(samples: Samples) -> SearchTarget:
    """What is searched for.

    Raises:
        DataError: samples have too few values.
    """

    def values(labels: NDArray[np.int64]) -> NDArray[np.float32]:
        rows: NDArray[np.float32] = samples.values_at_rows(torch.from_numpy(labels.astype(np.int64))).numpy()
        return rows

    shape = tuple(samples.values_at_rows(samples.y[:1]).shape[1:])
    if prod(shape) < _MIN_VALUES:
        raise DataError(
            f"benchmark: samples of {prod(shape)} values can't be told from chance; "
            f"an audit takes {_MIN_VALUES} or more"
        )
    return SearchTarget(samples.y.numpy(), shape, values, is_untransformed=samples.transform is None)


# --- what is found


class _FoundValues(NamedTuple):
    """Pieces of a sample: which of its values (D,) were found, and in which places."""

    values: NDArray[np.bool_]
    locations: set[str]


class _FoundSample(NamedTuple):
    """A sample of which something was found: its row in the store, whether it is a mere trace, and whether whole."""

    presentation: _Presentation
    label: int
    is_trace: bool
    is_complete: bool


# Places by sample: its store, and its row in that, whatever presentation it was found in.
_LocationsBySample = dict[tuple[int, int], set[str]]


def _summarize(
    pieces: Mapping[_FoundSample, _FoundValues],
    tasks: Sequence[Task],
    under_way: set[int],
    claims_to_store: bool,
    unread: Mapping[str, str],
) -> AuditResult:
    """The samples of which enough was found."""
    by_task: dict[int, _LocationsBySample] = defaultdict(dict)
    outlived, traces = _LocationsBySample(), _LocationsBySample()
    for (view, label, faint, _), (values, places) in pieces.items():
        x = view.target.flat(np.array([label]))[0].astype(np.float64)
        contrast = np.square(x - x.mean())
        if contrast[values].sum() < _MIN_CONTRAST * contrast.sum():
            continue
        owners = {task for task, member in view.members.items() if member[label]}
        # What the task under way has may lie there, whichever other task has it too.
        current = owners & under_way
        lists = [] if current else [traces if faint else outlived]
        if not faint:
            lists += [by_task[task] for task in current or owners]
        for found in lists:
            found.setdefault((view.store, label), set()).update(places)
    return AuditResult(
        tuple(TaskFinding(t.id, len(by_task[t.id]), _all_locations(by_task[t.id]), t.id in under_way) for t in tasks),
        len(outlived),
        _all_locations(outlived),
        len(traces.keys() - outlived.keys()),
        claims_to_store,
        dict(unread),
    )


def _all_locations(found: _LocationsBySample) -> tuple[str, ...]:
    return tuple(sorted(set().union(*found.values())))
