"""Raw-sample audit: which training samples of its benchmark a run's folder contains.

The audit does not rely on what a strategy reports: every file of the folder is read as numbers and searched.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
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
from gr_cli.results.forgotten import notices
from gr_cli.results.stored_config import stored_settings
from gr_cli.training.experiment import load_benchmark
from gr_cli.training.stages import training_tasks

# Rows of fewer values than this resemble samples by chance.
_MIN_VALUES = 16
# The gradient of a unit that only one sample activates is that sample times a small number. Optimizers and regularizers
# store functions of gradients; a copy in their state below this scale is a trace. The largest trace in runs of few
# iterations was 0.004; in runs of usual length they are below 0.0001.
_GRADIENT_STATE, _TRACE_SCALE = re.compile(r"checkpoint(\.\w+)?\.pt: learner\.(optimizers|regularizer)\."), 0.05
# Share of a sample's contrast (squared deviations from its mean) that must be found.
_MIN_CONTRAST = 0.4


@dataclass(frozen=True)
class TaskFinding:
    """Training samples of one task in a run's folder.

    Attributes:
        task: Index of the task.
        samples: Number of different samples that were found.
        locations: Files, and keys within, that contain them.
        in_progress: Whether the checkpoint was written during the task, when its samples are allowed.
    """

    task: int
    samples: int
    locations: tuple[str, ...]
    in_progress: bool

    def __str__(self) -> str:
        return f"task {self.task}{' (in progress)' if self.in_progress else ''}: {self.samples}"


@dataclass(frozen=True)
class AuditResult:
    """Result of an audit.

    Attributes:
        tasks: Finding for each task.
        num_retained: Number of different samples that outlived their task.
        locations: Files, and keys within, that contain these.
        num_traces: Number of further samples whose gradient is in the state of an optimizer or a regularizer.
        claims_to_store: `stores_raw_samples` in status.json.
        unread: Reason for each location that could not be read.
        forgotten: A line about each class or task that the run has forgotten on request.
    """

    tasks: tuple[TaskFinding, ...]
    num_retained: int
    locations: tuple[str, ...]
    num_traces: int
    claims_to_store: bool
    unread: Mapping[str, str]
    forgotten: tuple[str, ...] = ()

    @property
    def violated(self) -> bool:
        """Whether the folder contains samples although the run claims to store none."""
        return self.num_retained > 0 and not self.claims_to_store

    @property
    def incomplete(self) -> bool:
        """Whether nothing was violated, but some of the folder could not be read."""
        return bool(self.unread) and not self.violated

    @property
    def verdict(self) -> str:
        """One line: whether the findings agree with the run's claim."""
        claim, locations = f"stores_raw_samples: {str(self.claims_to_store).lower()}", ", ".join(self.locations)
        if self.violated:
            return f"{claim}, but {self.num_retained} training samples were found, in {locations}"
        if self.num_retained:
            return f"stores raw samples, as claimed: {self.num_retained} in {locations}"
        return f"{claim}, and none was found" + (
            " of a finished task" if any(task.samples for task in self.tasks) else ""
        )

    def __str__(self) -> str:
        """A line per task, for traces, and per unread location; then the verdict."""
        traces = f"traces of {self.num_traces} samples (gradients) in the state of optimizers and regularizer"
        unread = [f"not read: {location}: {reason}" for location, reason in sorted(self.unread.items())]
        return "\n".join(
            [
                *map(str, self.tasks),
                *([traces] if self.num_traces else []),
                *unread,
                *self.forgotten,
                self.verdict,
            ]
        )


def audit(path: Path, trust: Collection[str] = ()) -> AuditResult:
    """Search for training samples in every file of the run folder `path` and its subfolders.

    A sample is found at any scale, offset and rounding to 8 bits or more, by rows or columns, flipped, inverted,
    padded, enlarged, and in pieces of a quarter or more that hold 2/5 of its contrast together. Samples are searched
    for as each task presents them and, where a transform applies, also as stored. A sample in several locations counts
    once. A faint copy in the state of an optimizer or a regularizer may be a gradient; it is a trace, not a violation.

    Not found are samples that are rotated by other than right angles, reduced in size, converted to grey, distorted,
    encrypted, rounded more coarsely, interleaved with other values, or constant.

    Args:
        path: Folder of a run.
        trust: Dotted names of code, or of packages, that the run's settings may import.

    Raises:
        FolderError: There is no run, or no checkpoint yet.
        ConfigError, DataError: The benchmark can't be loaded, or its samples have too few values.
    """
    folder, settings = RunFolder(path), stored_settings(path, trust)
    status = folder.status() or {}
    claim = status.get("stores_raw_samples")
    if not isinstance(claim, bool):
        raise FolderError(f"{path}: its status.json has no stores_raw_samples; resume the run")
    checkpoint = folder.load_checkpoint()
    if checkpoint is None:
        raise FolderError(f"{path}: holds no checkpoint yet; continue it with resume={path}")
    tasks, reader = load_benchmark(settings).tasks, FolderReader(path)
    in_progress = _tasks_in_progress(settings, checkpoint, tasks, path)
    by_shape: dict[tuple[int, ...], dict[SearchTarget, _Presentation]] = defaultdict(dict)
    for presentation in _presentations(tasks):
        by_shape[presentation.target.shape][presentation.target] = presentation
    found_values: dict[_FoundSample, _FoundValues] = {}
    for shape, presentations in by_shape.items():
        for match in find_samples(list(presentations), number_sequences(reader.arrays(), shape)):
            is_trace = match.scale < _TRACE_SCALE and bool(_GRADIENT_STATE.match(match.location))
            sample = _FoundSample(presentations[match.target], match.label, is_trace, match.values is None)
            sample_values = found_values.setdefault(sample, _FoundValues(np.zeros(prod(shape), np.bool_), set()))
            sample_values.values[... if match.values is None else match.values] = True
            sample_values.locations.add(match.location)
    result = _summarize(found_values, tasks, in_progress, claim, reader.unread)
    return replace(result, forgotten=tuple(notices(status.get("forgotten", []))))


def _tasks_in_progress(settings: Settings, checkpoint: Any, tasks: Sequence[Task], path: Path) -> set[int]:
    """The tasks whose training the checkpoint interrupted."""
    if not isinstance(checkpoint, Mapping) or not {"stage", "iteration"} <= checkpoint.keys():
        raise FolderError(f"{path}: its checkpoint is not that of a run of gr-run; name the folder of one")
    if checkpoint["iteration"] == 0:
        return set()
    training_data = getattr(
        import_target(settings.config["strategy"]["_target_"], "strategy"), "training_data", "current"
    )
    return {task.id for task in training_tasks(tasks, training_data, checkpoint["stage"])}


# --- search targets


@dataclass(frozen=True, eq=False)
class _Presentation:
    """Training samples under one transform, labelled by their rows in the store.

    Attributes:
        target: The samples as a search target.
        store: Identity of the store.
        members: For each task a mask (M,) of its rows.
    """

    target: SearchTarget
    store: int
    members: Mapping[int, Tensor]


def _presentations(tasks: Sequence[Task]) -> Iterator[_Presentation]:
    """The samples of each store, raw and under each transform; samples that tasks share occur once."""
    shared: dict[tuple[int, int], list[Task]] = defaultdict(list)
    transforms = {id(transform): transform for task in tasks for transform in (None, task.train.transform)}
    for task in tasks:
        for transform_id in dict.fromkeys((id(None), id(task.train.transform))):
            shared[id(task.train.store), transform_id].append(task)
    for (store_id, transform_id), owners in shared.items():
        store, members = owners[0].train.store, {}
        for task in owners:
            members[task.id] = torch.zeros(len(store), dtype=torch.bool)
            members[task.id][task.train.store_rows(torch.arange(len(task.train)))] = True
        rows = torch.stack(list(members.values())).any(0).nonzero().squeeze(1)
        yield _Presentation(_search_target(Samples(store, rows, transforms[transform_id], rows)), store_id, members)


def _search_target(samples: Samples) -> SearchTarget:
    """The search target of some samples.

    Raises:
        DataError: The samples have too few values.
    """

    def values(labels: NDArray[np.int64]) -> NDArray[np.float32]:
        rows: NDArray[np.float32] = samples.values_at_rows(torch.from_numpy(labels.astype(np.int64))).numpy()
        return rows

    shape = tuple(samples.values_at_rows(samples.y[:1]).shape[1:])
    if prod(shape) < _MIN_VALUES:
        raise DataError(
            f"benchmark: samples of {prod(shape)} values resemble other numbers by chance; "
            f"an audit needs {_MIN_VALUES} or more"
        )
    return SearchTarget(samples.y.numpy(), shape, values, is_untransformed=samples.transform is None)


# --- findings


class _FoundValues(NamedTuple):
    """Values of a sample that were found.

    Attributes:
        values: Mask (D,) of the sample's values.
        locations: Where they were found.
    """

    values: NDArray[np.bool_]
    locations: set[str]


class _FoundSample(NamedTuple):
    """A sample of which values were found.

    Attributes:
        presentation: Presentation in which it was found.
        label: Row of the store.
        is_trace: Whether it is faint enough to be a gradient.
        is_complete: Whether all values lie together.
    """

    presentation: _Presentation
    label: int
    is_trace: bool
    is_complete: bool


# Locations by sample (store and row), in whichever presentation it was found.
_LocationsBySample = dict[tuple[int, int], set[str]]


def _summarize(
    found_values: Mapping[_FoundSample, _FoundValues],
    tasks: Sequence[Task],
    in_progress: set[int],
    claims_to_store: bool,
    unread: Mapping[str, str],
) -> AuditResult:
    """The audit's result: samples of which enough contrast was found."""
    by_task: dict[int, _LocationsBySample] = defaultdict(dict)
    retained, traces = _LocationsBySample(), _LocationsBySample()
    for (presentation, label, is_trace, _), (values, locations) in found_values.items():
        x = presentation.target.flat(np.array([label]))[0].astype(np.float64)
        contrast = np.square(x - x.mean())
        if contrast[values].sum() < _MIN_CONTRAST * contrast.sum():
            continue
        owners = {task for task, member in presentation.members.items() if member[label]}
        # Samples of a task in progress are allowed, even if other tasks have them too.
        current = owners & in_progress
        targets = [] if current else [traces if is_trace else retained]
        if not is_trace:
            targets += [by_task[task] for task in current or owners]
        for locations_by_sample in targets:
            locations_by_sample.setdefault((presentation.store, label), set()).update(locations)
    return AuditResult(
        tuple(TaskFinding(t.id, len(by_task[t.id]), _all_locations(by_task[t.id]), t.id in in_progress) for t in tasks),
        len(retained),
        _all_locations(retained),
        len(traces.keys() - retained.keys()),
        claims_to_store,
        dict(unread),
    )


def _all_locations(locations_by_sample: _LocationsBySample) -> tuple[str, ...]:
    return tuple(sorted(set().union(*locations_by_sample.values())))
