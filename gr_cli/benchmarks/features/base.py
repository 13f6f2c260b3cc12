"""Frozen feature extractors: images become vectors once, before training.

Whatever is fitted on data of the stream itself is fitted on the training samples of its first task.

Replay then happens in feature space: with `strategy=bir` this is the internal replay of brain-inspired replay
(van de Ven et al. 2020), whose convolutions are pretrained and frozen.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import replace
from functools import lru_cache, partial
from math import ceil
from pathlib import Path

import torch
from torch import Tensor, nn

from gr_cli.benchmarks.base import EVALUATION_BATCH, ExtractionCosts, Samples
from gr_cli.benchmarks.features.output import FeatureScaling, PrincipalComponents, VectorNormalization, fit_scaling
from gr_cli.benchmarks.features.vectors import cached_vectors
from gr_cli.benchmarks.sources.base import Dataset
from gr_cli.errors import ConfigError, DataError
from gr_cli.nn.operation_count import OperationCount
from gr_cli.nn.sample_spec import SampleSpec
from gr_cli.nn.shared_fit import SharedFit
from gr_cli.system.cache import Tensors, cached, content_hash
from gr_cli.system.devices import deterministic_kernels
from gr_cli.system.mapping import Storage
from gr_cli.system.messages import print_status, with_progress

_VERSION = 1  # part of the cache key: increase it when the computation changes

Shape = tuple[int, int, int]


class FeatureExtractor(ABC):
    """A frozen network that maps images (B, C, H, W) in [0, 1] to unbounded vectors (B, F).

    The vectors of a data set are cached below `cache_root`, in a file named after the network's weights and the data.
    A subclass supplies the network:

        >>> import tempfile
        >>> from gr_cli.benchmarks import Digits
        >>> class AveragePooling(FeatureExtractor):
        ...     def network(self, first_task, shape):
        ...         return nn.AvgPool2d(4)
        >>> with tempfile.TemporaryDirectory() as cache_root:
        ...     extractor = AveragePooling(normalise=False, cache_root=cache_root, device=torch.device("cpu"))
        ...     digits = Digits().load()
        ...     extractor.extract(digits, first_task=digits.train).train.x.shape
        torch.Size([1442, 4])

    Args:
        normalise: Scale each vector to mean 0 and variance 1.
        cache_root: Folder of the cache; the vectors lie in `features/` below it.
        device: Device on which vectors are computed.
        storage: Whether vectors are read into memory or memory-mapped; `auto`: mapped if they take more than a quarter
            of the available memory.
        components: Number of principal components of the first task's features that represent a sample; null: all
            features.
        standardise: Scale each feature by its mean and standard deviation in the first task.

    Attributes:
        stores_raw_samples: Whether the network contains training samples of the stream.
    """

    stores_raw_samples = False

    def __init__(
        self,
        normalise: bool,
        cache_root: str,
        device: torch.device,
        storage: Storage = "auto",
        components: int | None = None,
        standardise: bool = False,
    ) -> None:
        self.storage: Storage = storage
        self.normalise, self.cache_folder, self.device = normalise, Path(cache_root).expanduser() / "features", device
        self.components, self.standardise = components, standardise

    @property
    def shared_fits(self) -> tuple[SharedFit, ...]:
        """What is fitted on the benchmark's own samples: nothing, unless features are scaled or reduced."""
        if not self.standardise and self.components is None:
            return ()
        return (SharedFit("the features are fitted on the images of the first task", scope="first_task"),)

    @abstractmethod
    def network(self, first_task: Samples, shape: Shape) -> nn.Module:
        """The network for images of `shape` (C, H, W).

        Args:
            first_task: Training samples of the first task, the only data of the stream that it may be fitted on.
            shape: Shape of an image.
        """

    def check(self, data: Dataset) -> None:  # noqa: B027  most extractors accept any images
        """Refuse a benchmark on whose `data` the network was pretrained; raises ConfigError."""

    def extract(self, data: Dataset, first_task: Samples, cache_name: str = "") -> Dataset:
        """The data set with the vectors of all samples as float32 samples.

        Args:
            data: Data set of images.
            first_task: Training samples of the first task of the stream.
            cache_name: Name of a source whose content may change; cached vectors of earlier content are removed.

        Raises:
            ConfigError: The samples are not images, or the network was pretrained on `data`.
            DataError: The weights don't fit the network, or the vectors are not finite.
        """
        shape = data.spec.shape
        if len(shape) != 3:
            raise ConfigError(
                "benchmark.features",
                type(self).__name__,
                f"needs images, samples have shape {shape}",
                "try benchmark/features=none",
            )
        self.check(data)
        with deterministic_kernels(self.device):
            network = self._complete_network(first_task, shape)
            key = content_hash(*self._cache_key(network), cache_name)
            content = content_hash(data.train.content_hash(), data.test.content_hash())
            path = self._path(key, content, cache_name)
            train, test = cached_vectors(partial(self._vectors, network), data, path, self.storage)
            costs = self._costs(network, shape)
        spec, fits = SampleSpec(tuple(train.store.shape[1:]), None), (*data.shared_fits, *self.shared_fits)
        vectors = replace(data, train=train, test=test, spec=spec, shared_fits=fits, extraction=costs)
        if self.components is None:
            return vectors
        positions = _positions(first_task, data.train)  # in the key: streams with other first tasks are not out of date
        path = self._path(content_hash("components", self.components, key, positions), content, cache_name)
        return self._principal_components(vectors, train.select(positions), path)

    def _path(self, key: str, content: str, cache_name: str) -> Path:
        """File of the cache; the dash says that files of the same key and other content are out of date."""
        return self.cache_folder / f"{key}{'-' if cache_name else ''}{content}.pt"

    def _principal_components(self, vectors: Dataset, first_task: Samples, path: Path) -> Dataset:
        """The data set with principal components of the first task's vectors, cached in `path`."""
        number, (size,) = self.components or 0, vectors.spec.shape
        fitted = lru_cache(lambda: PrincipalComponents(first_task.x, number))
        train, test = cached_vectors(lambda x: fitted()(x), vectors, path, self.storage)
        costs = vectors.extraction or ExtractionCosts(0, 0)
        costs = ExtractionCosts(costs.num_bytes + 4 * size * (number + 1), costs.operations + 2 * size * number)
        return replace(vectors, train=train, test=test, spec=SampleSpec((number,), None), extraction=costs)

    def _complete_network(self, first_task: Samples, shape: Shape) -> nn.Module:
        """The network with what follows it: normalisation, and scaling by the first task."""
        layers = [self.network(first_task, shape), nn.Flatten(), *([VectorNormalization()] if self.normalise else [])]
        network = nn.Sequential(*layers).to(self.device).eval()
        if not self.standardise:
            return network
        name = content_hash("scaling", *self._cache_key(network), first_task.content_hash())

        def compute() -> Tensors:
            print_status(f"scaling features by the {len(first_task):,} training images of the first task")
            batches = with_progress(first_task.batches(), ceil(len(first_task) / EVALUATION_BATCH), "batches of images")
            return fit_scaling(torch.cat([self._vectors(network, x) for x, _ in batches]))

        scaling = FeatureScaling(cached(self.cache_folder / f"{name}.pt", compute))
        return nn.Sequential(network, scaling.to(self.device)).eval()

    def _costs(self, network: nn.Module, shape: Shape) -> ExtractionCosts:
        count = OperationCount()
        with torch.no_grad(), count.once("features"):
            network(torch.zeros(1, *shape, device=self.device))
        num_bytes = sum(value.numel() * value.element_size() for value in network.state_dict().values())
        return ExtractionCosts(num_bytes, count.by_phase()["features"])

    def _cache_key(self, network: nn.Module) -> tuple[object, ...]:
        """What the vectors of an image depend on."""
        weights = [part for name, value in network.state_dict().items() for part in (name, value)]
        return (_VERSION, torch.__version__, self.device.type, network, *weights)

    @torch.no_grad()
    def _vectors(self, network: nn.Module, x: Tensor) -> Tensor:
        """The vectors of images (B, C, H, W), on the CPU."""
        vectors: Tensor = network(x.to(self.device)).flatten(1).float().cpu()
        if not vectors.isfinite().all():
            raise DataError("benchmark.features: vectors are not finite; check the weights of the network")
        return vectors


def _positions(samples: Samples, among: Samples) -> Tensor:
    """Position of each of `samples` among those of a set with the same store."""
    position = torch.empty(len(among.store), dtype=torch.int64)
    position[among.store_rows(torch.arange(len(among)))] = torch.arange(len(among))
    return position[samples.store_rows(torch.arange(len(samples)))]
