"""Convolutions that this program pretrains, that a file holds, or with random weights, and their pretraining."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor, nn

from gr_cli.benchmarks.base import Samples
from gr_cli.benchmarks.features.base import FeatureExtractor, Shape
from gr_cli.benchmarks.features.weights import load_weights
from gr_cli.benchmarks.sources.base import Dataset, Source
from gr_cli.benchmarks.sources.load import load_dataset
from gr_cli.errors import ConfigError
from gr_cli.nn.batch_order import BatchOrder
from gr_cli.nn.convolutions import Convolutions, doubling_channels, match_image_shape
from gr_cli.nn.random_streams import RandomStreams, StreamNames, seeded
from gr_cli.nn.supervised import train_classifier
from gr_cli.system.cache import Tensors, cached, content_hash
from gr_cli.system.mapping import Storage
from gr_cli.system.messages import print_status
from gr_cli.types import LayerSizes, NonNegativeInt, PositiveInt

_VERSION = 1  # part of the cache key: increase it when the computation changes
_PRETRAINING_BATCH, _PRETRAINING_LR = 128, 0.001
_SOLVER_LAYERS = ("hidden.", "output.")  # prefixes of a solver's layers above its convolutions


class ConvFeatureExtractor(FeatureExtractor):
    """Stride-2 convolutions as in brain-inspired replay, optionally pretrained (van de Ven et al. 2020).

    All convolutions are 3x3; the first has stride 1.

    Args:
        channels: Output channels of each convolution; null: 16, 32, ... up to 256, until the maps have 2x2 pixels.
        weights: `pretrained` by this program on `pretrain`; `random`; or a file with the state dict of a `CNN`.
        pretrain: Data set of the pretraining; must differ from that of the benchmark.
        pretrain_iterations: Pretraining iterations, with batches of 128 samples.
        pretrain_seed: Seed of initial weights and pretraining, independent of the run's seed, so that all seeds share
            one network.
        normalise: Scale each vector to mean 0 and variance 1.
        cache_root: Folder of the cache; the vectors lie in `features/` below it.
        device: Device on which vectors are computed.
        storage: Whether vectors are read into memory or memory-mapped; `auto`: mapped if they take more than a quarter
            of the available memory.
        components: Number of principal components of the first task's features that represent a sample; null: all
            features.
    """

    def __init__(
        self,
        channels: LayerSizes | None = None,
        weights: str = "pretrained",
        pretrain: Source | None = None,
        pretrain_iterations: PositiveInt = 1000,
        pretrain_seed: NonNegativeInt = 0,
        normalise: bool = True,
        cache_root: str = "~/.cache/gr_cli",
        device: torch.device = torch.device("cpu"),  # noqa: B008  a value
        storage: Storage = "auto",
        components: PositiveInt | None = None,
    ) -> None:
        super().__init__(normalise, cache_root, device, storage, components)
        if weights == "pretrained" and pretrain is None:
            raise ConfigError(
                "benchmark.features.pretrain",
                None,
                "must be a data set",
                "or set benchmark.features.weights=random, or name a file there",
            )
        if channels is not None and not channels:
            raise ConfigError("benchmark.features.channels", list(channels), "needs at least one convolution")
        self.channels, self.weights, self.pretrain = channels, weights, pretrain
        self.pretrain_iterations, self.pretrain_seed = pretrain_iterations, pretrain_seed

    def check(self, data: Dataset) -> None:
        if self.weights == "pretrained" and self.pretrain is not None:
            check_pretraining_data(self.pretrain, data)

    def network(self, first_task: Samples, shape: Shape) -> nn.Module:
        with seeded(self.pretrain_seed, StreamNames.FEATURES_INIT):
            network = Convolutions(shape[0], self.channels or doubling_channels(*shape[1:]))
        if self.weights == "pretrained":
            network.load_state_dict(self._pretrained_weights(network, shape))
        elif self.weights != "random":
            load_weights(network, Path(self.weights).expanduser(), ignored=_SOLVER_LAYERS)
        return network

    def _pretrained_weights(self, network: Convolutions, shape: Shape) -> Tensors:
        """The weights after pretraining, from the cache if possible; `network` has the initial weights."""
        assert self.pretrain is not None
        dataset = load_dataset(self.pretrain)
        content = dataset.train.content_hash()
        settings = (_VERSION, torch.__version__, self.device.type, self.pretrain_iterations, self.pretrain_seed)
        name = content_hash("pretrained", *settings, network, shape, content, dataset.train.y)

        def compute() -> Tensors:
            print_status(
                f"{len(network.convolutions)} convolutions are pretrained on {source_name(self.pretrain)} "
                f"and cached in {self.cache_folder}"
            )
            return pretrain(
                network, dataset, shape, self.pretrain_iterations, RandomStreams(self.pretrain_seed), self.device
            )

        return cached(self.cache_folder / f"{name}.pt", compute)


def check_pretraining_data(pretrain: Source, data: Dataset) -> None:
    """Refuse a benchmark on whose data a network is pretrained.

    Raises:
        ConfigError: `pretrain` loads the images of `data`.
    """
    if load_dataset(pretrain).train.content_hash() in (data.train.content_hash(), data.test.content_hash()):
        raise ConfigError(
            "benchmark.features.pretrain",
            source_name(pretrain),
            "is the benchmark's own data, which a frozen network must not be trained on",
            "try benchmark/features=conv",
        )


def source_name(source: object) -> str:
    """The name of a data source in messages."""
    return str(getattr(source, "name", type(source).__name__))


def pretrain(
    network: nn.Module,
    dataset: Dataset,
    shape: Shape,
    iterations: int,
    random_streams: RandomStreams,
    device: torch.device,
) -> Tensors:
    """Pretrain `network` as a classifier of `dataset` with a linear output layer.

    Args:
        network: Feature extractor; trained in place.
        dataset: Labelled images, resized to `shape`.
        shape: (C, H, W) that the network expects.
        iterations: Training iterations, with batches of 128 samples.
        random_streams: Random streams of the pretraining.
        device: Device of the training.

    Returns:
        The state dict of `network`.
    """
    network.to(device)
    with torch.no_grad():
        size = network(torch.zeros(1, *shape, device=device)).shape[1]
    with seeded(random_streams.seed, StreamNames.FEATURES_OUTPUT_INIT):
        output = nn.Linear(size, len(dataset.classes)).to(device)

    def batch(index: Tensor) -> tuple[Tensor, Tensor]:
        x, y = dataset.train.batch(index)
        return match_image_shape(x.to(device), shape), y.to(device)

    order = BatchOrder(len(dataset.train), _PRETRAINING_BATCH, random_streams, 0)
    train_classifier(nn.Sequential(network, output), batch, order, iterations, _PRETRAINING_LR, "pretraining")
    return {name: value.clone() for name, value in network.state_dict().items()}
