"""The raw-sample audit: which training samples of its benchmark a run's folder holds, wherever in it they lie.

Nothing here knows where a strategy keeps things. Each tensor in the folder is cut into rows of as many values as a
sample has, and each row is compared with every training sample.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import prod
from numbers import Real
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from gr_cli.assembly import load_benchmark, trained_in
from gr_cli.benchmarks.base import Samples, Task
from gr_cli.build import resolve
from gr_cli.errors import DataError, FolderError
from gr_cli.results.folder import RunFolder
from gr_cli.results.load import settings_of
from gr_cli.settings import Settings

# Rows and samples are compared without their mean, at length 1. A value that was rounded to bfloat16, or to a byte, is
# off by 0.0011 of its size, or of the range of all, in the root mean square; so a copy is at most this far from its
# sample, unless the contrast of the picture is below 1/18 of that. Two samples of MNIST are never nearer than 0.1.
_TOLERANCE = 0.02
# Orthonormal directions: a projection on them shortens every distance, so that what is near stays near and the filter
# misses nothing. Of pairs of 784 values that have nothing to do with each other not one in 10^10 comes so near in it.
_DIRECTIONS = 16
# Rows of fewer values than this resemble samples by chance.
_LEAST_VALUES = 16
# The gradient of a unit that one sample alone moved is that sample times a small number. Optimisers and regularisers
# keep what they make of gradients; a row of theirs that is this much fainter than its sample is a trace. The largest
# that was found in runs of few iterations was 0.004; in those of usual length they are below 0.0001.
_GRADIENTS, _TRACE = re.compile(r"checkpoint(\.\w+)?\.pt: learner\.(optimizers|regularizer)\."), 0.05
# A row that varies by no more than this part of its size is a constant with rounding errors.
_CONSTANT = 1e-6
_PAIRS = 1 << 21  # pairs compared at once: they stay in the cache
_CHUNK = 4096  # rows held in float64, and pairs looked at in full, at once


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
    """What was found in a run's folder: `tasks`, a finding for each; `outlived`, how many different samples are not
    of a task under way, and their `places`; `traces`, how many more left their gradient in the state of an
    optimiser or a regulariser; `claims_to_store`, what status.json says of raw samples."""

    tasks: tuple[TaskFinding, ...]
    outlived: int
    places: tuple[str, ...]
    traces: int
    claims_to_store: bool

    @property
    def violated(self) -> bool:
        """Whether samples were found that should not be there."""
        return self.outlived > 0 and not self.claims_to_store

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
        """A line for each task, one for traces if there are any, and the verdict."""
        traces = f"traces of {self.traces} samples, their gradients, in the state of optimisers and regulariser"
        return "\n".join([*map(str, self.tasks), *([traces] if self.traces else []), self.verdict])


def audit(path: Path, trust: Collection[str] = ()) -> Audit:
    """Look for training samples in all that the run in `path` keeps: its checkpoint, and any .pt, .npz and .npy.

    A row is D values that lie one after the other, D as many as a sample has: each tensor, and the whole storage
    behind a view, which is saved with it, is cut into such rows from its beginning. A row is a sample if it is the
    same up to scale, offset and rounding. Samples are looked for as each task presents them, and, where it transforms
    them, also as the source has them. One that lies in several places counts once. A faint copy in the state of an
    optimiser or a regulariser, where a gradient may be one, is a trace: told, and no violation.

    Not found are samples that were shifted or augmented, those with something between their values, and those that
    are constant, as many rows are which are none.

    Raises:
        FolderError: there is no run, no checkpoint yet, or a file that can't be read.
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
    found = _Notes(_under_way(settings, saved, tasks, path))
    tensors = dict(_with_storages([*_named("checkpoint.pt", saved), *_others(path)]))
    rows: dict[int, _Rows] = {}
    for view in _views(tasks):
        if view.values not in rows:
            rows[view.values] = _Rows.of(tensors, view.values)
        for match in rows[view.values].matches(view.samples):
            found.note(match, view)
    return found.summed_up(tasks, claim)


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

    @property
    def values(self) -> int:
        """How many values a sample has."""
        return prod(self.samples.values(self.samples.y[:1]).shape[1:])


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
        if view.values < _LEAST_VALUES:
            raise DataError(
                f"benchmark: samples of {view.values} values can't be told from chance; "
                f"an audit takes {_LEAST_VALUES} or more"
            )
    return views


# A sample, by its store and its row in it, whatever presentation it was found in; and the places that it lies in.
_Found = dict[tuple[int, int], set[str]]


class _Notes:
    """Takes down what is found."""

    def __init__(self, under_way: set[int]) -> None:
        self._under_way = under_way
        self._by_task: dict[int, _Found] = defaultdict(dict)
        self._outlived: _Found = {}
        self._traces: _Found = {}

    def note(self, match: _Match, view: _View) -> None:
        """A row of the view's store was found."""
        owners = {task for task, member in view.members.items() if member[match.label]}
        # What the task under way has may lie there, whichever other task has it too.
        current = owners & self._under_way
        faint = match.scale < _TRACE and _GRADIENTS.match(match.place) is not None
        lists = [] if current else [self._traces if faint else self._outlived]
        if not faint:
            lists += [self._by_task[task] for task in current or owners]
        for found in lists:
            found.setdefault((id(view.samples.store), match.label), set()).add(match.place)

    def summed_up(self, tasks: Sequence[Task], claims_to_store: bool) -> Audit:
        """All that was noted."""
        by_task = [(task.id, self._by_task[task.id]) for task in tasks]
        return Audit(
            tuple(TaskFinding(i, len(found), _places(found), i in self._under_way) for i, found in by_task),
            len(self._outlived),
            _places(self._outlived),
            len(self._traces.keys() - self._outlived.keys()),
            claims_to_store,
        )


def _places(found: _Found) -> tuple[str, ...]:
    return tuple(sorted(set().union(*found.values())))


# --- where it is looked for


def _others(path: Path) -> Iterator[tuple[str, Tensor]]:
    """The tensors in the folder's files beside the checkpoint, by place."""
    for file in sorted(path.rglob("*")):
        if file.match(".*.pt.*.tmp"):
            raise FolderError(f"{file}: is half-written; wait for the process that writes it, or remove what it left")
        if file == path / "checkpoint.pt" or file.suffix not in (".pt", ".npz", ".npy"):
            continue
        try:
            if file.suffix == ".pt":
                content = torch.load(file, map_location="cpu", weights_only=True)
            else:
                content = np.load(file, allow_pickle=False)
                content = content if isinstance(content, np.ndarray) else dict(content)
        except Exception as error:
            raise FolderError(
                f"{file}: can't be read ({type(error).__name__}), and may hold anything; remove it from the folder"
            ) from error
        yield from _named(str(file.relative_to(path)), content)


def _named(file: str, content: Any) -> Iterator[tuple[str, Tensor]]:
    """What a file holds, by its name and the dotted place in it."""
    for keys, value in _tensors(content, ()):
        yield f"{file}: {'.'.join(keys)}" if keys else file, value


def _tensors(tree: Any, keys: tuple[str, ...]) -> Iterator[tuple[tuple[str, ...], Tensor]]:
    """All numbers in nested containers, as dense tensors: those of tensors, arrays and lists of numbers."""
    if isinstance(tree, Tensor):
        dense = tree if tree.layout == torch.strided else tree.to_dense()
        yield keys, dense.dequantize() if dense.is_quantized else dense
    elif isinstance(tree, np.ndarray):
        if tree.dtype.kind in "biuf":
            yield keys, torch.from_numpy(np.ascontiguousarray(tree, dtype=np.float64))
    elif isinstance(tree, Mapping):
        for name, value in tree.items():
            yield from _tensors(value, (*keys, str(name)))
    elif isinstance(tree, (list, tuple)):
        if tree and all(isinstance(value, Real) for value in tree):
            yield keys, torch.tensor(tree, dtype=torch.float64)
        else:
            for i, value in enumerate(tree):
                yield from _tensors(value, (*keys, str(i)))


def _with_storages(tensors: Iterable[tuple[str, Tensor]]) -> Iterator[tuple[str, Tensor]]:
    """`tensors`, and the storages behind them that hold more: a view is saved with all that it is a view of."""
    storages: dict[int, tuple[str, Tensor]] = {}
    for place, value in tensors:
        yield place, value
        whole = value.new_empty(0).set_(value.untyped_storage())
        if whole.numel() > value.numel():
            storages[whole.data_ptr()] = f"{place} (its storage)", whole
    yield from storages.values()


# --- the search


class _Match(NamedTuple):
    """A row that is a sample: where it lies, the label of the sample, and how large it is beside the sample."""

    place: str
    label: int
    scale: float


class _Units(NamedTuple):
    """Rows (N, D) without their mean, at length 1, in float32, and the lengths (N,) that they had."""

    x: Tensor
    length: Tensor


@dataclass(frozen=True)
class _Rows:
    """The rows that may be samples, (C, D), and which of the `places` each is from, (C,)."""

    places: tuple[str, ...]
    units: _Units
    place: Tensor

    @classmethod
    def of(cls, tensors: Mapping[str, Tensor], size: int) -> _Rows:
        """All rows of `size` values in these tensors."""
        units, places = [_Units(torch.zeros(0, size), torch.zeros(0, dtype=torch.double))], [torch.zeros(0).long()]
        for number, value in enumerate(tensors.values()):
            flat = value.detach().reshape(-1)
            for part in flat[: len(flat) // size * size].view(-1, size).split(_CHUNK):
                units.append(_units(part.double())[0])
                places.append(torch.full((len(units[-1].x),), number))
        x, length = zip(*units, strict=True)
        return cls(tuple(tensors), _Units(torch.cat(x), torch.cat(length)), torch.cat(places))

    def matches(self, samples: Samples) -> Iterator[_Match]:
        """Each row that is a sample; the nearest one, if several are near."""
        stream, (rows, lengths) = torch.Generator().manual_seed(0), self.units
        directions = torch.linalg.qr(torch.randn(rows.shape[1], _DIRECTIONS, generator=stream)).Q
        projected = rows @ directions  # (C, d)
        nearest: dict[int, tuple[float, int, float]] = {}
        for x, labels in samples.batches():
            units, varied = _units(x.flatten(1))
            labels = labels[varied]
            for i, c in _close(units.x @ directions, projected):
                # A negative is its picture: the scale may have either sign.
                difference = torch.minimum(*((units.x[i] + sign * rows[c]).norm(dim=1) for sign in (1, -1)))
                pairs = (c, difference, labels[i], lengths[c] / units.length[i])
                for row, *found in zip(*(values.tolist() for values in pairs), strict=True):
                    if found[0] < nearest.get(row, (_TOLERANCE,))[0]:
                        nearest[row] = tuple(found)
        for row, (_, label, scale) in nearest.items():
            yield _Match(self.places[self.place[row]], label, scale)


def _units(rows: Tensor) -> tuple[_Units, Tensor]:
    """Those of the rows (N, D) that vary, and bool (N,) which these are."""
    centred = rows - rows.mean(1, keepdim=True)
    length = centred.norm(dim=1)
    # Neither do rows count that hold something infinite or no number: they compare as false.
    varied = length > _CONSTANT * rows.norm(dim=1)
    length = length[varied]
    return _Units((centred[varied] / length.unsqueeze(1)).float(), length), varied


def _close(left: Tensor, right: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
    """The pairs of rows of `left` (N, d) and `right` (C, d), or its negative, that lie within the tolerance."""
    # |a - b|^2 <= t^2 says that a b >= (|a|^2 + |b|^2 - t^2) / 2.
    least = (right.square().sum(1) - _TOLERANCE**2) / 2
    size = max(1, _PAIRS // max(1, len(right)))
    for start, part in zip(range(0, len(left), size), left.split(size), strict=True):
        excess = (part @ right.T).abs_().sub_(least)
        i, c = (excess >= part.square().sum(1, keepdim=True) / 2).nonzero().T
        yield from zip((i + start).split(_CHUNK), c.split(_CHUNK), strict=True)
