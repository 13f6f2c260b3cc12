"""Summary of a benchmark without training, with warnings about its data: `gr-run inspect=`."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from gr_cli.benchmarks.base import Benchmark, Samples, Task
from gr_cli.benchmarks.labels import describe_labels
from gr_cli.config.settings import Settings, short_hash
from gr_cli.nn.sample_spec import as_floats
from gr_cli.system.files import make_folder
from gr_cli.training.experiment import load_benchmark

_PICTURE_COLUMNS, _MAX_PICTURE_ROWS = 10, 20  # samples per task, and tasks
_MAX_NAMES = 6  # of classes or channels
_IMBALANCE_RATIO = 5  # warn if a class has more than so many times the samples of another


@dataclass(frozen=True)
class TaskSummary:
    """Summary of one task.

    Attributes:
        classes: Names of the classes, shortened.
        train: Number of training samples.
        validation: Number of validation samples.
        test: Number of test samples.
        low: Lowest stored training value, before the task's transform.
        high: Highest stored training value, before the task's transform.
    """

    classes: str
    train: int
    validation: int
    test: int
    low: float
    high: float


@dataclass(frozen=True)
class Inspection:
    """Summary of a benchmark.

    Attributes:
        title: Name of the benchmark, number of tasks and seed.
        properties: Properties of all samples, in words.
        tasks: Summary of each task.
        warnings: Conspicuous properties of the data.
        picture: File with drawn samples; None if samples can't be drawn.
    """

    title: str
    properties: tuple[str, ...]
    tasks: tuple[TaskSummary, ...]
    warnings: tuple[str, ...]
    picture: Path | None


@dataclass(frozen=True)
class _ValueRange:
    """Lowest and highest value of each channel of images, or each entry of vectors, (C,)."""

    low: Tensor
    high: Tensor


def inspect_benchmark(settings: Settings, root: Path) -> Inspection:
    """Summarize the benchmark of `settings`, and draw samples of each task below `root`.

    Raises:
        ConfigError, DataError: The benchmark can't be loaded.
        FolderError, WriteError: The picture can't be written.
    """
    benchmark = load_benchmark(settings)
    name = settings.choices.get("benchmark", "benchmark")
    # Tasks may share samples under different transforms: each set is read once.
    ranges = {
        _sample_set_key(samples): _channel_range(samples)
        for samples in _distinct_sample_sets(task.train for task in benchmark.tasks)
    }
    warnings = [
        *_imbalance_warnings(benchmark.tasks),
        *_duplicate_warnings(benchmark.tasks),
        *_constant_channel_warnings(list(ranges.values())),
    ]
    folder = (
        root / "inspect" / f"{name}-{short_hash([settings.config[key] for key in ('benchmark', 'labels', 'seed')])}"
    )
    picture = _draw_samples(benchmark, name, folder) if benchmark.spec.has_preview else None
    tasks = "1 task" if len(benchmark.tasks) == 1 else f"{len(benchmark.tasks)} tasks"
    title = f"{name} · {tasks} · seed {settings.seed}"
    summaries = tuple(_task_summary(task, ranges[_sample_set_key(task.train)]) for task in benchmark.tasks)
    return Inspection(title, _benchmark_properties(benchmark), summaries, tuple(warnings), picture)


def _benchmark_properties(benchmark: Benchmark) -> tuple[str, ...]:
    spec = benchmark.spec
    dtype = str(benchmark.tasks[0].train.store.dtype).removeprefix("torch.")
    value_range = "unbounded" if spec.value_range is None else f"in [{spec.value_range[0]:g}, {spec.value_range[1]:g}]"
    sizes = ", ".join(map(str, spec.categories))
    categories = (f"{spec.num_numeric} numbers and categories of {sizes} values",) if spec.categories else ()
    labels = describe_labels(benchmark)
    return f"shape {spec.shape}", f"stored as {dtype}", f"values {value_range}", *categories, *labels


def _task_summary(task: Task, value_range: _ValueRange) -> TaskSummary:
    num_validation = 0 if task.validation is None else len(task.validation)
    low, high = float(value_range.low.min()), float(value_range.high.max())
    return TaskSummary(_join_names(task.classes), len(task.train), num_validation, len(task.test), low, high)


def _join_names(names: Sequence[object]) -> str:
    rest = f", ... ({len(names)})" if len(names) > _MAX_NAMES else ""
    return ", ".join(map(str, names[:_MAX_NAMES])) + rest


# --- samples, each set read once


def _sample_set_key(samples: Samples) -> tuple[int, int]:
    return id(samples.store), id(samples.index)


def _distinct_sample_sets(sample_sets: Iterable[Samples]) -> list[Samples]:
    """`sample_sets` without those that have the same samples as an earlier one."""
    return list({_sample_set_key(samples): samples for samples in sample_sets}.values())


def _channel_range(samples: Samples) -> _ValueRange:
    low, high = [], []
    for batch in samples.raw_batches():
        axes = [axis for axis in range(batch.dim()) if axis != 1]
        low.append(batch.amin(axes))
        high.append(batch.amax(axes))
    return _ValueRange(as_floats(torch.stack(low).amin(0)), as_floats(torch.stack(high).amax(0)))


def _sample_hashes(samples: Samples) -> Iterator[bytes]:
    """A hash of each stored sample."""
    for batch in samples.raw_batches():
        for row in batch.contiguous().numpy():
            yield hashlib.blake2b(row.tobytes(), digest_size=16).digest()


# --- warnings


def _imbalance_warnings(tasks: Sequence[Task]) -> Iterator[str]:
    counts: Counter[str] = Counter()
    for task in tasks:
        for name, count in zip(task.classes, torch.bincount(task.train.y, minlength=len(task.classes)), strict=True):
            counts[name] += int(count)
    (most, high), (least, low) = counts.most_common()[0], counts.most_common()[-1]
    if high > _IMBALANCE_RATIO * low:
        yield (
            f"class {most} has {high:,} training samples, and class {least} {low:,}: replay and accuracy "
            "will be dominated by the large classes"
        )


def _duplicate_warnings(tasks: Sequence[Task]) -> Iterator[str]:
    train_sets = [samples for task in tasks for samples in (task.train, task.validation) if samples is not None]
    train_hashes = {
        sample_hash for samples in _distinct_sample_sets(train_sets) for sample_hash in _sample_hashes(samples)
    }
    total, duplicates, first = 0, 0, ""
    names = {_sample_set_key(task.test): task.name for task in reversed(tasks)}
    for samples in _distinct_sample_sets(task.test for task in tasks):
        num_duplicates = sum(sample_hash in train_hashes for sample_hash in _sample_hashes(samples))
        first = first or (names[_sample_set_key(samples)] if num_duplicates else "")
        total, duplicates = total + len(samples), duplicates + num_duplicates
    if duplicates:
        yield f"{duplicates:,} of {total:,} test samples are also training samples, the first in task {first}"


def _constant_channel_warnings(ranges: Sequence[_ValueRange]) -> Iterator[str]:
    low = torch.stack([value_range.low for value_range in ranges]).amin(0)
    high = torch.stack([value_range.high for value_range in ranges]).amax(0)
    constant = (low == high).nonzero().flatten().tolist()
    if constant:
        yield f"{len(constant)} of {len(low)} channels never change: {_join_names(constant)}"


# --- picture


def _draw_samples(benchmark: Benchmark, name: str, folder: Path) -> Path:
    """Draw a row of training samples for each task, as the network receives them."""
    from gr_cli.results import figures

    drawn_tasks = benchmark.tasks[:_MAX_PICTURE_ROWS]
    x = torch.cat([task.train.batch(_picture_indices(task))[0] for task in drawn_tasks])
    all_drawn = len(drawn_tasks) == len(benchmark.tasks)
    scope = "" if all_drawn else f" of the first {len(drawn_tasks)} of {len(benchmark.tasks)}"
    path = folder / "samples.png"
    make_folder(folder)
    spec = benchmark.spec
    rows = "a row for each" if len(spec.shape) > 1 else f"{_PICTURE_COLUMNS} rows for each"
    figures.draw_sample_sheet(
        spec.preview(x),
        f"{name}: training samples, {rows}{scope} task{'s' if scope else ''}",
        path,
        _PICTURE_COLUMNS,
        spec.names,
    )
    return path


def _picture_indices(task: Task) -> Tensor:
    """Indices of the samples of a task that are drawn: classes in turn, samples at equal intervals."""
    members = [(task.train.y == label).nonzero().flatten() for label in range(len(task.classes))]
    members = [indices for indices in members if len(indices)]
    per_class = -(-_PICTURE_COLUMNS // len(members))
    positions = (divmod(i, len(members)) for i in range(_PICTURE_COLUMNS))
    return torch.stack(
        [members[class_index][step * len(members[class_index]) // per_class] for step, class_index in positions]
    )
