"""Reference classifier for generated samples: a small network trained on all classes of a benchmark at once.

It is trained once per data set, whatever the order of the classes, and cached. No run trains on its output.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from math import ceil, prod
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gr_cli.benchmarks.base import Benchmark, Samples, Task
from gr_cli.evaluation.fidelity import NeighbourhoodManifold
from gr_cli.nn.batch_order import BatchOrder
from gr_cli.nn.convolutions import Convolutions, doubling_channels
from gr_cli.nn.initialization import init_he_, init_xavier_
from gr_cli.nn.random_streams import RandomStreams, StreamNames, seeded
from gr_cli.nn.supervised import train_classifier
from gr_cli.system.cache import Tensors, cached, content_hash
from gr_cli.system.devices import deterministic_kernels, flush_denormals, thread_limit
from gr_cli.system.messages import print_status

_VERSION = 1  # part of the cache key: increase it when the computation changes
_FEATURES = 64
_BATCH, _LR, _EPOCHS, _MAX_ITERATIONS, _MIN_ITERATIONS = (
    64,
    0.003,
    20,
    1000,
    100,
)  # iterations are the epochs' within bounds
_STATISTICS_SAMPLES = 2000  # samples for the scale of inputs and features
_SLOW_TRAINING_VALUES = 500_000  # values per sample times iterations from which training takes several seconds
_MAX_INPUT_GAIN_SIZE = 1024  # input values above which inputs are scaled down
_EVALUATION_BATCH = 256  # samples per forward pass


class ReferenceClassifier(nn.Module):
    """Classifier of samples (B, *shape), with features whose total variance over real samples is 1.

    Images enter by convolutions and by pixels, because the pixels of permuted images have no neighbourhood.
    """

    mean: Tensor
    deviation: Tensor
    feature_scale: Tensor

    def __init__(self, shape: tuple[int, ...], classes: int) -> None:
        super().__init__()
        size = prod(shape)
        self.convolutions: Convolutions | None = None
        if len(shape) == 3:
            self.convolutions = Convolutions(shape[0], [channels // 2 for channels in doubling_channels(*shape[1:])])
            with torch.no_grad():
                size += self.convolutions(torch.zeros(1, *shape)).shape[1]
        self.hidden, self.output = nn.Linear(size, _FEATURES), nn.Linear(_FEATURES, classes)
        init_he_(self.hidden)
        init_xavier_(self.output)
        # Per channel of images, per value of vectors.
        like = torch.zeros(shape[0], 1, 1) if len(shape) == 3 else torch.zeros(shape)
        self.register_buffer("mean", like)
        self.register_buffer("deviation", torch.ones_like(like))
        self.register_buffer("feature_scale", torch.ones(()))

    def features(self, x: Tensor) -> Tensor:
        """Features (B, F) of samples (B, *shape): the activations before the output layer, not yet scaled."""
        x = (x - self.mean) / self.deviation
        # Many inputs are scaled down, so that an update does not change their sum too much.
        flat = x.flatten(1) * min(1.0, _MAX_INPUT_GAIN_SIZE / x[0].numel())
        seen = [flat] if self.convolutions is None else [flat, self.convolutions(x)]
        return F.relu(self.hidden(torch.cat(seen, 1)))

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.output(self.features(x))
        return logits

    def fit_input_scale(self, x: Tensor) -> None:
        """Store mean and standard deviation of the inputs, per channel of images or per entry of vectors."""
        over = (0, *range(2, x.dim())) if x.dim() == 4 else (0,)
        deviation = x.std(over, correction=0)
        self.mean.copy_(x.mean(over).view_as(self.mean))
        self.deviation.copy_(torch.where(deviation > 0, deviation, 1.0).view_as(self.deviation))

    def fit_feature_scale(self, x: Tensor) -> None:
        """Store the square root of the total variance of the features."""
        total = self.features(x).var(0, correction=0).sum()
        self.feature_scale.copy_(torch.where(total > 0, total, 1.0).sqrt())


# --- distinct classes, independent of the scenario


@dataclass(frozen=True)
class DistinctClasses:
    """The classes of a benchmark as the reference classifier counts them.

    A class of one data set under one transform is the same class in all tasks.

    Attributes:
        first_task: First task with each class, (C,).
        units: Output units that stand for each class, bool (C, U).
        of_task: For each task the indices of its classes in the order of its labels, (k,).
    """

    first_task: Tensor
    units: Tensor
    of_task: tuple[Tensor, ...]

    def __len__(self) -> int:
        return len(self.first_task)


def distinct_classes(benchmark: Benchmark, offsets: list[int], units: int) -> DistinctClasses:
    """The distinct classes of a benchmark; their order does not depend on the order of training.

    Args:
        benchmark: Benchmark with output units as labels.
        offsets: First output unit of each task.
        units: Number of output units.
    """
    views = _view_indices(benchmark)
    keys = [[(view, name) for name in task.classes] for view, task in zip(views, benchmark.tasks, strict=True)]
    numbers = {key: i for i, key in enumerate(sorted({key for mine in keys for key in mine}))}
    of = [[numbers[key] for key in mine] for mine in keys]
    first = [next(t for t, mine in enumerate(of) if number in mine) for number in range(len(numbers))]
    table = torch.zeros(len(numbers), units, dtype=torch.bool)
    for offset, mine in zip(offsets, of, strict=True):
        table[mine, range(offset, offset + len(mine))] = True
    device = benchmark.tasks[0].train.y.device
    return DistinctClasses(
        torch.tensor(first).to(device), table.to(device), tuple(torch.tensor(m).to(device) for m in of)
    )


def _view_indices(benchmark: Benchmark) -> list[int]:
    """For each task the index of its combination of store and transform, in order of first occurrence."""
    numbers: dict[tuple[int, int], int] = {}
    found: list[int] = []
    for task in benchmark.tasks:
        if task.repeated_task is not None:
            found.append(found[task.repeated_task])
            continue
        key = (id(task.train.store), id(task.train.transform))
        found.append(numbers.setdefault(key, len(numbers)))
    return found


# --- training data


@dataclass(frozen=True)
class PooledTrainingSet:
    """Training samples of all tasks, grouped by store and transform and labelled by distinct class.

    Attributes:
        sample_sets: One set of samples per combination of store and transform, in order of the store's rows.
    """

    sample_sets: tuple[Samples, ...]

    @classmethod
    def from_benchmark(cls, benchmark: Benchmark, classes: DistinctClasses, offsets: list[int]) -> PooledTrainingSet:
        """The training samples of all tasks of a benchmark."""
        by_view: dict[int, list[tuple[Samples, Tensor]]] = {}
        for view, task in zip(_view_indices(benchmark), benchmark.tasks, strict=True):
            by_view.setdefault(view, []).append((task.train, _class_indices(task, classes, offsets)))
        views = []
        for parts in by_view.values():
            whole = parts[0][0]
            rows = torch.cat([part.store_rows(torch.arange(len(part), device=part.y.device)) for part, _ in parts])
            order = rows.argsort(stable=True)
            y = torch.cat([numbers for _, numbers in parts])
            views.append(Samples(whole.store, y[order], whole.transform, rows[order]))
        return cls(tuple(views))

    def __len__(self) -> int:
        return sum(map(len, self.sample_sets))

    @property
    def iterations(self) -> int:
        """Training iterations: a fixed number of epochs within bounds."""
        return min(_MAX_ITERATIONS, max(_MIN_ITERATIONS, ceil(_EPOCHS * len(self) / _BATCH)))

    def batch(self, index: Tensor) -> tuple[Tensor, Tensor]:
        """The samples at `index`, grouped by sample set: x float32, and y."""
        x, y, first = [], [], 0
        for view in self.sample_sets:
            mine = index[(index >= first) & (index < first + len(view))] - first
            if len(mine):
                part = view.batch(mine.to(view.y.device))
                x.append(part[0].float())
                y.append(part[1])
            first += len(view)
        return torch.cat(x), torch.cat(y)

    def subsample(self, max_samples: int) -> Tensor:
        """At most `max_samples` samples x at equal intervals."""
        number = min(max_samples, len(self))
        return self.batch(torch.arange(number) * len(self) // number)[0]

    def content_hash(self) -> str:
        """Hash of stores, rows, labels, and some transformed samples of each set."""
        stores: dict[int, str] = {}
        parts: list[object] = []
        for view in self.sample_sets:
            if id(view.store) not in stores:
                stores[id(view.store)] = content_hash(view.store)
            parts += [
                stores[id(view.store)],
                view.index,
                view.y,
                view.subsample(_BATCH).batch(torch.arange(min(_BATCH, len(view))))[0],
            ]
        return content_hash(*parts)


def _class_indices(task: Task, classes: DistinctClasses, offsets: list[int]) -> Tensor:
    """The distinct class of each training sample of a task, (N,), including samples exchanged with other tasks."""
    y = task.train.y
    if task.origin_task is None:
        return classes.of_task[task.id][y - offsets[task.id]]
    origin, found = task.origin_task.to(y.device), torch.empty_like(y)
    for owner in origin.unique().tolist():
        mine = origin == owner
        found[mine] = classes.of_task[owner][y[mine] - offsets[owner]]
    return found


def load_reference_classifier(
    benchmark: Benchmark, classes: DistinctClasses, offsets: list[int], cache_root: Path
) -> ReferenceClassifier:
    """The trained reference classifier of a benchmark, from the cache if possible."""
    lessons, device = PooledTrainingSet.from_benchmark(benchmark, classes, offsets), benchmark.tasks[0].train.y.device
    with seeded(0, StreamNames.REFERENCE_CLASSIFIER_INIT):
        network = ReferenceClassifier(benchmark.spec.shape, len(classes))
    name = content_hash(_VERSION, torch.__version__, device.type, network, lessons.content_hash())
    network.to(device)

    def learnt() -> Tensors:
        if network.convolutions is not None and lessons.iterations * benchmark.spec.size >= _SLOW_TRAINING_VALUES:
            print_status(
                f"training the reference classifier for generated samples; it is cached in {cache_root / 'judges'}"
            )
        _train_reference_classifier(network, lessons)
        return dict(network.state_dict())

    network.load_state_dict(cached(cache_root / "reference_classifiers" / f"{name}.pt", learnt))
    return network.eval().requires_grad_(False)


def _train_reference_classifier(network: ReferenceClassifier, lessons: PooledTrainingSet) -> None:
    # One thread and deterministic kernels, so that every process trains the same network.
    with flush_denormals(), thread_limit(1), deterministic_kernels(network.mean.device):
        some = lessons.subsample(_STATISTICS_SAMPLES)
        with torch.no_grad():
            network.fit_input_scale(some)
        order = BatchOrder(len(lessons), _BATCH, RandomStreams(0), 0)
        train_classifier(network, lessons.batch, order, lessons.iterations, _LR, "the reference classifier")
        with torch.no_grad():
            network.fit_feature_scale(some)


# --- evaluation of samples


@dataclass(frozen=True)
class RealSamples:
    """Real samples of a task, as seen by the reference classifier.

    Attributes:
        features: Scaled features (N, F).
        correct: Whether each sample is classified correctly, bool (N,).
    """

    features: Tensor
    correct: Tensor

    @staticmethod
    def pool(parts: list[RealSamples], most: int) -> RealSamples:
        """At most `max_samples` of all samples in `parts`, at equal intervals."""
        features, known = torch.cat([p.features for p in parts]), torch.cat([p.correct for p in parts])
        number = min(most, len(known))
        index = torch.arange(number, device=known.device) * len(known) // max(1, number)
        return RealSamples(features[index], known[index])


class SampleEvaluator:
    """Classifies samples, and holds real test samples of each task for comparison.

    Args:
        benchmark: Benchmark with output units as labels.
        offsets: First output unit of each task.
        num_units: Number of output units.
        samples_per_task: Number of real test samples of each task.
        cache_root: Folder of the cache; classifiers lie in `reference_classifiers/` below it.

    Attributes:
        classes: The distinct classes of the benchmark.
        real: Real samples of a task; computed once.
        manifold: k-nearest-neighbour manifold of a task's real samples; computed once.
    """

    def __init__(
        self, benchmark: Benchmark, offsets: list[int], num_units: int, samples_per_task: int, cache_root: Path
    ) -> None:
        self.classes, self.samples_per_task = distinct_classes(benchmark, offsets, num_units), samples_per_task
        self._network = load_reference_classifier(benchmark, self.classes, offsets, cache_root)
        self._benchmark, self._offsets = benchmark, offsets
        # Computed once per task.
        self.real, self.manifold = (
            cache(self._real_samples),
            cache(lambda task: NeighbourhoodManifold(self.real(task).features)),
        )

    @torch.no_grad()
    def classify(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Scaled features (N, F) and predicted distinct classes (N,) of samples (N, *shape)."""
        features = torch.cat([self._network.features(part.float()) for part in x.split(_EVALUATION_BATCH)])
        return features / self._network.feature_scale, self._network.output(features).argmax(1)

    def _real_samples(self, task: int) -> RealSamples:
        """Real test samples of a task."""
        parts = list(self._benchmark.tasks[task].test.subsample(self.samples_per_task).batches())
        features, predicted = self.classify(torch.cat([x for x, _ in parts]))
        numbers = self.classes.of_task[task][torch.cat([y for _, y in parts]) - self._offsets[task]]
        return RealSamples(features, predicted == numbers)
