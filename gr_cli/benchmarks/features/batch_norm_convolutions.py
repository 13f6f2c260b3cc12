"""The frozen convolutions of van de Ven et al. (2020, 2021) for Split CIFAR-100, with batch normalization."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Annotated

import torch
from annotated_types import Len
from torch import Tensor, nn

from gr_cli.benchmarks.base import Samples
from gr_cli.benchmarks.features.base import FeatureExtractor, Shape
from gr_cli.benchmarks.features.convolutions import check_pretraining_data, source_name
from gr_cli.benchmarks.features.pretraining import PRETRAINING, pretrain_in_epochs
from gr_cli.benchmarks.features.weights import load_weights
from gr_cli.benchmarks.sources.base import Dataset, Source
from gr_cli.benchmarks.sources.load import load_dataset
from gr_cli.errors import ConfigError
from gr_cli.nn.convolutions import match_image_shape
from gr_cli.nn.random_streams import StreamNames, seeded
from gr_cli.system.cache import Tensors, cached, content_hash
from gr_cli.system.mapping import Storage
from gr_cli.system.messages import print_status
from gr_cli.types import LayerSizes, NonNegativeInt, Positive, PositiveInt

_VERSION = 1  # part of the cache key: increase it when the computation changes
_PUBLISHED_CHANNELS = (16, 32, 64, 128, 256)
_CIFAR10_MEAN, _CIFAR10_DEVIATION = (0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)

Channels = Annotated[Sequence[float], Len(3, 3)]
Deviations = Annotated[Sequence[Positive], Len(3, 3)]


class BatchNormConvolutions(nn.Module):
    """3x3 convolutions, all but the first with stride 2: (B, 3, H, W) -> (B, F).

    Batch normalization and ReLU follow each convolution but the last. The entries of the state dict have the names of
    the published file: `convLayer1.conv.weight`, `convLayer1.bn.running_mean` and so on.
    """

    def __init__(self, channels: LayerSizes = _PUBLISHED_CHANNELS) -> None:
        super().__init__()
        for i, (before, after) in enumerate(pairwise((3, *channels)), start=1):
            convolution = nn.Conv2d(before, after, 3, stride=1 if i == 1 else 2, padding=1)
            layers: dict[str, nn.Module] = {"conv": convolution}
            if i < len(channels):
                layers |= {"bn": nn.BatchNorm2d(after), "nl": nn.ReLU()}
            self.add_module(f"convLayer{i}", nn.Sequential(OrderedDict(layers)))

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.children():
            x = layer(x)
        return x.flatten(1)


class ChannelNormalization(nn.Module):
    """Converts images to three channels, subtracts a mean from each and divides it by a deviation."""

    mean: Tensor
    deviation: Tensor

    def __init__(self, mean: Sequence[float], deviation: Sequence[float]) -> None:
        super().__init__()
        self.register_buffer("mean", torch.tensor(mean).view(3, 1, 1))
        self.register_buffer("deviation", torch.tensor(deviation).view(3, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        return (match_image_shape(x, (3, *x.shape[2:])) - self.mean) / self.deviation


class BatchNormConvFeatureExtractor(FeatureExtractor):
    """The convolutions of van de Ven et al. (2020, 2021) for Split CIFAR-100: 1,024 values of an image of 32x32.

    Five 3x3 convolutions, all but the first with stride 2; batch normalization, with the statistics of the pretraining,
    and ReLU follow all but the last. Each channel of an image is normalized by a mean and a standard deviation.

    Args:
        channels: Output channels of each convolution.
        channel_mean: Mean of each channel; by default over CIFAR-10.
        channel_deviation: Standard deviation of each channel.
        weights: `pretrained` by this program on `pretrain`, by the published protocol; or a file with the state dict,
            under the names of the published one.
        pretrain: Data set of the pretraining; must differ from that of the benchmark.
        pretrain_epochs: Epochs of the pretraining, with batches of 256 samples, random crops and flips, and Adam with
            a learning rate of 0.0001. An interrupted pretraining is continued.
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
        channels: LayerSizes = _PUBLISHED_CHANNELS,
        channel_mean: Channels = _CIFAR10_MEAN,
        channel_deviation: Deviations = _CIFAR10_DEVIATION,
        weights: str = "pretrained",
        pretrain: Source | None = None,
        pretrain_epochs: PositiveInt = 100,
        pretrain_seed: NonNegativeInt = 0,
        normalise: bool = False,
        cache_root: str = "~/.cache/gr_cli",
        device: torch.device = torch.device("cpu"),  # noqa: B008  a value
        storage: Storage = "auto",
        components: PositiveInt | None = None,
    ) -> None:
        super().__init__(normalise, cache_root, device, storage, components)
        if not channels:
            raise ConfigError("benchmark.features.channels", list(channels), "needs at least one convolution")
        if weights == "pretrained" and pretrain is None:
            raise ConfigError(
                "benchmark.features.pretrain", None, "must be a data set", "or set benchmark.features.weights=<file>"
            )
        self.channels, self.weights, self.pretrain = tuple(channels), weights, pretrain
        self.normalization = ChannelNormalization(channel_mean, channel_deviation)
        self.pretrain_epochs, self.pretrain_seed = pretrain_epochs, pretrain_seed

    def check(self, data: Dataset) -> None:
        if self.weights == "pretrained" and self.pretrain is not None:
            check_pretraining_data(self.pretrain, data)

    def network(self, first_task: Samples, shape: Shape) -> nn.Module:
        with seeded(self.pretrain_seed, StreamNames.FEATURES_INIT):
            network = BatchNormConvolutions(self.channels)
        if self.weights == "pretrained":
            network.load_state_dict(self._pretrained_weights(network))
        else:
            load_weights(network, Path(self.weights).expanduser())
        return nn.Sequential(self.normalization, network)

    def _pretrained_weights(self, network: BatchNormConvolutions) -> Tensors:
        """The weights after pretraining, from the cache if possible; `network` has the initial weights."""
        assert self.pretrain is not None
        dataset = load_dataset(self.pretrain)
        content = dataset.train.content_hash()
        settings = (_VERSION, torch.__version__, self.device.type, PRETRAINING, self.pretrain_epochs)
        name = content_hash(
            "pretrained",
            *settings,
            self.pretrain_seed,
            network,
            *self.normalization.buffers(),
            content,
            dataset.train.y,
        )
        path = self.cache_folder / f"{name}.pt"

        def compute() -> Tensors:
            print_status(
                f"{len(self.channels)} convolutions are pretrained on {source_name(self.pretrain)} "
                f"for {self.pretrain_epochs} epochs and cached in {self.cache_folder}"
            )
            progress = path.with_name(f".{path.name}.progress")
            epochs, seed = self.pretrain_epochs, self.pretrain_seed
            return pretrain_in_epochs(network, self.normalization, dataset, epochs, seed, self.device, progress)

        return cached(path, compute)
