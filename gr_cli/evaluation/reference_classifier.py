"""Reference classifier for generated samples: a small network trained on all classes of a benchmark at once.

It is trained once per data set, whatever the order of the classes, and cached. No run trains on its output.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache, cached_property
from math import ceil, prod
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gr_cli.benchmarks.base import Benchmark, Samples, Task
from gr_cli.evaluation.fidelity import NeighbourhoodManifold, NormalFit
from gr_cli.nn.batch_order import BatchOrder
from gr_cli.nn.convolutions import Convolutions, doubling_channels
from gr_cli.nn.initialization import init_he_, init_xavier_
from gr_cli.nn.random_streams import RandomStreams, StreamNames, seeded
from gr_cli.nn.supervised import train_classifier
from gr_cli.system.cache import Tensors, cached, content_hash, tensor_hash
from gr_cli.system.devices import deterministic_kernels, flush_denormals, thread_limit
from gr_cli.system.messages import print_status

_VERSION = 1  # part of the cache key: increase it when the computation changes
_FEATURES = 64
_BATCH, _LR = 64, 0.003
_EPOCHS, _MIN_ITERATIONS, _MAX_ITERATIONS = 20, 100, 1000  # iterations are those of the epochs, within bounds
_STATISTICS_SAMPLES = 2000  # samples for the scale of inputs and features
_SLOW_TRAINING_VALUES = 500_000  # values per sample times iterations from which training takes several seconds
_MAX_INPUT_GAIN_SIZE = 1024  # input values above which inputs are scaled down
_EVALUATION_BATCH = 512  # samples per forward pass


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
        template = torch.zeros(shape[0], 1, 1) if len(shape) == 3 else torch.zeros(shape)
        self.register_buffer("mean", template)
        self.register_buffer("deviation", torch.ones_like(template))
        self.register_buffer("feature_scale", torch.ones(()))

    def features(self, x: Tensor) -> Tensor:
        """Features (B, F) of samples (B, *shape): the activations before the output layer, not yet scaled."""
        x = (x - self.mean) / self.deviation
        # Many inputs are scaled down, so that an update does not change their sum too much.
        flat = x.flatten(1) * min(1.0, _MAX_INPUT_GAIN_SIZE / x[0].numel())
        inputs = [flat] if self.convolutions is None else [flat, self.convolutions(x)]
        return F.relu(self.hidden(torch.cat(inputs, 1)))

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.output(self.features(x))
        return logits

    def fit_input_scale(self, x: Tensor) -> None:
        """Store mean and standard deviation of the inputs, per channel of images or per entry of vectors."""
        axes = (0, *range(2, x.dim())) if x.dim() == 4 else (0,)
        deviation = x.std(axes, correction=0)
        self.mean.copy_(x.mean(axes).view_as(self.mean))
        self.deviation.copy_(torch.where(deviation > 0, deviation, 1.0).view_as(self.deviation))

    def fit_feature_scale(self, x: Tensor) -> None:
        """Store the square root of the total variance of the features."""
        variance = self.features(x).var(0, correction=0).sum()
        self.feature_scale.copy_(torch.where(variance > 0, variance, 1.0).sqrt())


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
    indices = {key: i for i, key in enumerate(sorted({key for task_keys in keys for key in task_keys}))}
    class_indices = [[indices[key] for key in task_keys] for task_keys in keys]
    first_task = [0] * len(indices)
    for task, task_classes in reversed(list(enumerate(class_indices))):
        for index in task_classes:
            first_task[index] = task
    units_of_class = torch.zeros(len(indices), units, dtype=torch.bool)
    for offset, task_keys in zip(offsets, class_indices, strict=True):
        units_of_class[task_keys, range(offset, offset + len(task_keys))] = True
    device = benchmark.tasks[0].train.y.device
    return DistinctClasses(
        torch.tensor(first_task).to(device),
        units_of_class.to(device),
        tuple(torch.tensor(m).to(device) for m in class_indices),
    )


def _view_indices(benchmark: Benchmark) -> list[int]:
    """For each task the index of its combination of store and transform, in order of first occurrence."""
    indices: dict[tuple[int, int], int] = {}
    views: list[int] = []
    for task in benchmark.tasks:
        if task.repeated_task is not None:
            views.append(views[task.repeated_task])
            continue
        key = (id(task.train.store), id(task.train.transform))
        views.append(indices.setdefault(key, len(indices)))
    return views


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
        """The training samples of all tasks of a benchmark, with all labels and none of them wrong."""
        by_view: dict[int, list[tuple[Samples, Tensor]]] = {}
        tasks = [task.complete or task for task in benchmark.tasks]
        for view, task in zip(_view_indices(benchmark), tasks, strict=True):
            by_view.setdefault(view, []).append((task.train, _class_indices(task, classes, offsets)))
        sample_sets = []
        for labelled_samples in by_view.values():
            first_samples = labelled_samples[0][0]
            rows = torch.cat(
                [
                    samples.store_rows(torch.arange(len(samples), device=samples.y.device))
                    for samples, _ in labelled_samples
                ]
            )
            order = rows.argsort(stable=True)
            y = torch.cat([labels for _, labels in labelled_samples])
            sample_sets.append(Samples(first_samples.store, y[order], first_samples.transform, rows[order]))
        return cls(tuple(sample_sets))

    def __len__(self) -> int:
        return sum(map(len, self.sample_sets))

    @property
    def iterations(self) -> int:
        """Training iterations: a fixed number of epochs within bounds."""
        return min(_MAX_ITERATIONS, max(_MIN_ITERATIONS, ceil(_EPOCHS * len(self) / _BATCH)))

    def batch(self, index: Tensor) -> tuple[Tensor, Tensor]:
        """The samples at `index`, grouped by sample set: x float32, and y."""
        x, y, set_of_sample = [], [], torch.searchsorted(self._ends, index.cpu(), right=True)
        for i in set_of_sample.unique().tolist():
            samples = self.sample_sets[i]
            local_index = index[(set_of_sample == i).to(index.device)] - (int(self._ends[i]) - len(samples))
            batch = samples.batch(local_index.to(samples.y.device))
            x.append(batch[0].float())
            y.append(batch[1])
        return torch.cat(x), torch.cat(y)

    @cached_property
    def _ends(self) -> Tensor:
        """Number of samples up to the end of each set, on the CPU."""
        return torch.tensor(list(map(len, self.sample_sets))).cumsum(0)

    def subsample(self, max_samples: int) -> Tensor:
        """At most `max_samples` samples x at equal intervals."""
        num_samples = min(max_samples, len(self))
        return self.batch(torch.arange(num_samples) * len(self) // num_samples)[0]

    def content_hash(self) -> str:
        """Hash of stores, rows, labels, and some transformed samples of each set."""
        contents: list[object] = []
        for samples in self.sample_sets:
            contents += [
                tensor_hash(samples.store),
                samples.index,
                samples.y,
                samples.subsample(_BATCH).batch(torch.arange(min(_BATCH, len(samples))))[0],
            ]
        return content_hash(*contents)


def _class_indices(task: Task, classes: DistinctClasses, offsets: list[int]) -> Tensor:
    """The distinct class of each training sample of a task, (N,), including samples exchanged with other tasks."""
    y = task.train.y
    if task.origin_task is None:
        return classes.of_task[task.id][y - offsets[task.id]]
    origin, indices = task.origin_task.to(y.device), torch.empty_like(y)
    for owner in origin.unique().tolist():
        is_from_owner = origin == owner
        indices[is_from_owner] = classes.of_task[owner][y[is_from_owner] - offsets[owner]]
    return indices


def load_reference_classifier(
    benchmark: Benchmark, classes: DistinctClasses, offsets: list[int], cache_root: Path
) -> ReferenceClassifier:
    """The trained reference classifier of a benchmark, from the cache if possible."""
    training_set = PooledTrainingSet.from_benchmark(benchmark, classes, offsets)
    device = benchmark.tasks[0].train.y.device
    with seeded(0, StreamNames.REFERENCE_CLASSIFIER_INIT):
        network = ReferenceClassifier(benchmark.spec.shape, len(classes))
    file_name = content_hash(_VERSION, torch.__version__, device.type, network, training_set.content_hash())
    network.to(device)

    def compute() -> Tensors:
        if network.convolutions is not None and training_set.iterations * benchmark.spec.size >= _SLOW_TRAINING_VALUES:
            print_status(
                "training the reference classifier for generated samples; it is cached in "
                f"{cache_root / 'reference_classifiers'}"
            )
        _train_reference_classifier(network, training_set)
        return dict(network.state_dict())

    network.load_state_dict(cached(cache_root / "reference_classifiers" / f"{file_name}.pt", compute))
    return network.eval().requires_grad_(False)


def _train_reference_classifier(network: ReferenceClassifier, training_set: PooledTrainingSet) -> None:
    # One thread and deterministic kernels, so that every process trains the same network.
    with flush_denormals(), thread_limit(1), deterministic_kernels(network.mean.device):
        typical = training_set.subsample(_STATISTICS_SAMPLES)
        with torch.no_grad():
            network.fit_input_scale(typical)
        order = BatchOrder(len(training_set), _BATCH, RandomStreams(0), 0)
        train_classifier(network, training_set.batch, order, training_set.iterations, _LR, "the reference classifier")
        with torch.no_grad():
            network.fit_feature_scale(typical)


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
    def pool(real_samples: list[RealSamples], max_samples: int) -> RealSamples:
        """At most `max_samples` of all samples in `real_samples`, at equal intervals."""
        features, correct = torch.cat([p.features for p in real_samples]), torch.cat([p.correct for p in real_samples])
        num_samples = min(max_samples, len(correct))
        index = torch.arange(num_samples, device=correct.device) * len(correct) // max(1, num_samples)
        return RealSamples(features[index], correct[index])


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
        normal_fit: Normal distribution fitted to the features of a task's real samples; computed once.
    """

    def __init__(
        self, benchmark: Benchmark, offsets: list[int], num_units: int, samples_per_task: int, cache_root: Path
    ) -> None:
        self.classes, self.samples_per_task = distinct_classes(benchmark, offsets, num_units), samples_per_task
        self._network = load_reference_classifier(benchmark, self.classes, offsets, cache_root)
        self._benchmark, self._offsets = benchmark, offsets
        # Computed once per task.
        self.real = cache(self._real_samples)
        self.manifold = cache(lambda task: NeighbourhoodManifold(self.real(task).features))
        self.normal_fit = cache(lambda task: NormalFit.of(self.real(task).features))

    @torch.no_grad()
    def classify(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Scaled features (N, F) and predicted distinct classes (N,) of samples (N, *shape)."""
        features = torch.cat([self._network.features(batch.float()) for batch in x.split(_EVALUATION_BATCH)])
        return features / self._network.feature_scale, self._network.output(features).argmax(1)

    def _real_samples(self, task: int) -> RealSamples:
        """Real test samples of a task."""
        batches = list(self._benchmark.tasks[task].test.subsample(self.samples_per_task).batches())
        features, predicted = self.classify(torch.cat([x for x, _ in batches]))
        labels = self.classes.of_task[task][torch.cat([y for _, y in batches]) - self._offsets[task]]
        return RealSamples(features, predicted == labels)
