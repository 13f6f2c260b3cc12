"""Frozen features as preprocessing: images become vectors once, and everything else works on the vectors.

Replay then happens in the space of features: with `strategy=bir` this is the internal replay of brain-inspired replay
(van de Ven et al. 2020), whose convolutions are pretrained and frozen.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gr_cli.benchmarks.base import Samples
from gr_cli.benchmarks.sources.base import Data, Source
from gr_cli.benchmarks.sources.loading import load
from gr_cli.errors import ConfigError, DataError
from gr_cli.nn.batch_order import Order
from gr_cli.nn.convolutions import Convolutions, doubling, fitted
from gr_cli.nn.random_streams import Draws, seeded
from gr_cli.nn.sample_spec import SampleSpec
from gr_cli.nn.supervised import learn_classes
from gr_cli.system.cache import Tensors, digest, kept
from gr_cli.system.devices import repeatable
from gr_cli.system.messages import counted, tell
from gr_cli.types import Count, PositiveInt, Widths

_VERSION = 1  # of what is computed here: another one has nothing to do with what was kept
_BATCH = 100  # images that become features at once
_PRETRAINING_BATCH, _PRETRAINING_LR = 128, 0.001

Shape = tuple[int, int, int]


class Features(ABC):
    """A frozen network that turns images (B, C, H, W) with values in [0, 1] into vectors (B, F) of unbounded values.

    What it makes of a data set is kept below `cache_root`, under a name that tells the network and the data apart from
    all others.
    """

    def __init__(self, normalise: bool, cache_root: str, device: torch.device) -> None:
        self.normalise, self.folder, self.device = normalise, Path(cache_root).expanduser() / "features", device

    @abstractmethod
    def network(self, data: Data, shape: Shape) -> nn.Module:
        """The network, for images of that shape from `data`, of which it must not have learnt anything."""

    def of(self, data: Data, origin: str = "") -> Data:
        """The features of all samples of `data`, float32. Those of what was at its `origin` before are kept no longer;
        it is a name for where data come from that may change.

        Raises:
            ConfigError, DataError: the samples are no images, the weights don't fit.
        """
        shape = data.spec.shape
        if len(shape) != 3:
            raise ConfigError(
                "benchmark.features",
                type(self).__name__,
                f"needs images, samples have shape {shape}",
                "try benchmark/features=none",
            )
        with repeatable(self.device):
            network = self.network(data, shape).to(self.device).eval()
            weights = [part for name, value in network.state_dict().items() for part in (name, value)]
            settings = (_VERSION, torch.__version__, self.device.type, self.normalise, network)
            name = digest(*settings, *weights, origin)
            name += f"{'-' if origin else ''}{digest(data.train.x, data.test.x)}"
            found = kept(self.folder / f"{name}.pt", lambda: self._computed(network, data))
        train, test = Samples(found["train"], data.train.y), Samples(found["test"], data.test.y)
        return Data(train, test, data.classes, SampleSpec(tuple(train.store.shape[1:]), None))

    def _computed(self, network: nn.Module, data: Data) -> Tensors:
        tell(f"features of {len(data.train) + len(data.test):,} images are computed, and kept in {self.folder}")
        return {"train": self._vectors(network, data.train), "test": self._vectors(network, data.test)}

    @torch.no_grad()
    def _vectors(self, network: nn.Module, samples: Samples) -> Tensor:
        batches = counted(samples.batches(_BATCH), -(-len(samples) // _BATCH), f"batches of {_BATCH} images")
        parts = [network(x.to(self.device)).flatten(1).float().cpu() for x, _ in batches]
        found = torch.cat(parts)
        if self.normalise:
            found = F.layer_norm(found, found.shape[1:])
        if not found.isfinite().all():
            raise DataError("benchmark.features: are not finite; the weights of the network hold something else")
        return found


# --- convolutions of our own


class ConvFeatures(Features):
    """Convolutions 3x3, each but the first of stride 2, as of van de Ven et al. (2020), pretrained or not.

    Args:
        channels: of each convolution; default: 16, 32, ... up to 256, until the maps have 2x2 pixels.
        weights: `pretrained` by this program; `random`; or a file with a state dict, whose names are those of a `CNN`.
        pretrain: the data set from which it learns to classify; never the benchmark's own.
        pretrain_iterations: steps of that, of 128 samples.
        pretrain_seed: of initial weights and pretraining, not the run's: so all seeds share one network.
        normalise: bring the values of each vector to mean 0 and variance 1.
        cache_root: folder in which what was computed is kept.
        device: where it is computed.
    """

    def __init__(
        self,
        channels: Widths | None = None,
        weights: str = "pretrained",
        pretrain: Source | None = None,
        pretrain_iterations: PositiveInt = 1000,
        pretrain_seed: Count = 0,
        normalise: bool = True,
        cache_root: str = "~/.cache/gr_cli",
        device: torch.device = torch.device("cpu"),  # noqa: B008  a value
    ) -> None:
        super().__init__(normalise, cache_root, device)
        if weights == "pretrained" and pretrain is None:
            raise ConfigError(
                "benchmark.features.pretrain",
                None,
                "must be a data set",
                "or say benchmark.features.weights=random, or name a file there",
            )
        if channels is not None and not channels:
            raise ConfigError("benchmark.features.channels", list(channels), "needs at least one convolution")
        self.channels, self.weights, self.pretrain = channels, weights, pretrain
        self.pretrain_iterations, self.pretrain_seed = pretrain_iterations, pretrain_seed

    def network(self, data: Data, shape: Shape) -> nn.Module:
        with seeded(self.pretrain_seed, "initialisation.features"):
            network = Convolutions(shape[0], self.channels or doubling(*shape[1:]))
        if self.weights == "pretrained":
            network.load_state_dict(self._pretrained(network, data, shape))
        elif self.weights != "random":
            load_weights(network, Path(self.weights).expanduser())
        return network

    def _pretrained(self, network: Convolutions, data: Data, shape: Shape) -> Tensors:
        """The weights after pretraining; `network` has those before it."""
        assert self.pretrain is not None
        lessons = load(self.pretrain)
        content = digest(lessons.train.x)
        if content in (digest(data.train.x), digest(data.test.x)):
            raise ConfigError(
                "benchmark.features.pretrain",
                _named(self.pretrain),
                "is the benchmark's own data, of which frozen features must have seen nothing",
                "try benchmark/features=conv",
            )
        settings = (_VERSION, torch.__version__, self.device.type, self.pretrain_iterations, self.pretrain_seed)
        name = digest("pretrained", *settings, network, shape, content, lessons.train.y)

        def learnt() -> Tensors:
            tell(
                f"{len(network.convolutions)} convolutions are pretrained on {_named(self.pretrain)}, "
                f"and kept in {self.folder}"
            )
            return pretrained(network, lessons, shape, self.pretrain_iterations, Draws(self.pretrain_seed), self.device)

        return kept(self.folder / f"{name}.pt", learnt)


def _named(source: object) -> str:
    return str(getattr(source, "name", type(source).__name__))


def pretrained(
    network: nn.Module, lessons: Data, shape: Shape, iterations: int, draws: Draws, device: torch.device
) -> Tensors:
    """The weights of `network` once it classifies `lessons`, brought to `shape`, with a linear layer on top."""
    network.to(device)
    with torch.no_grad():
        size = network(torch.zeros(1, *shape, device=device)).shape[1]
    with seeded(draws.seed, "initialisation.features.output"):
        output = nn.Linear(size, len(lessons.classes)).to(device)

    def batch(index: Tensor) -> tuple[Tensor, Tensor]:
        x, y = lessons.train.batch(index)
        return fitted(x.to(device), shape), y.to(device)

    order = Order(len(lessons.train), _PRETRAINING_BATCH, draws, 0)
    learn_classes(nn.Sequential(network, output), batch, order, iterations, _PRETRAINING_LR, "pretraining")
    return {name: value.clone() for name, value in network.state_dict().items()}


# --- networks of torchvision


class _Fit(nn.Module):
    """Images as a network of torchvision wants them: in three colours, of a size, and with the usual scale."""

    mean: Tensor
    deviation: Tensor

    def __init__(self, size: int) -> None:
        super().__init__()
        self.size = size
        # Of ImageNet, as all published weights of torchvision expect.
        self.register_buffer("mean", torch.tensor([0.485, 0.456, 0.406]).view(3, 1, 1), persistent=False)
        self.register_buffer("deviation", torch.tensor([0.229, 0.224, 0.225]).view(3, 1, 1), persistent=False)

    def extra_repr(self) -> str:
        return str(self.size)

    def forward(self, x: Tensor) -> Tensor:
        return (fitted(x, (3, self.size, self.size)) - self.mean) / self.deviation


class TorchvisionFeatures(Features):
    """A ResNet of torchvision (He et al. 2016) without its last layer, its weights from a file of the user's.

    Args:
        name: which one.
        weights: a file with its state dict, as torchvision publishes them; nothing is fetched.
        image_size: to which images are scaled, each way.
        normalise: bring the values of each vector to mean 0 and variance 1.
        cache_root: folder in which what was computed is kept.
        device: where it is computed.
    """

    def __init__(
        self,
        name: Literal["resnet18", "resnet34", "resnet50"],
        weights: str | None = None,
        image_size: PositiveInt = 224,
        normalise: bool = True,
        cache_root: str = "~/.cache/gr_cli",
        device: torch.device = torch.device("cpu"),  # noqa: B008  a value
    ) -> None:
        super().__init__(normalise, cache_root, device)
        if weights is None:
            raise ConfigError(
                "benchmark.features.weights",
                None,
                f"must be a file with the weights of a {name}",
                "say benchmark.features.weights=<file>",
            )
        self.name, self.weights, self.image_size = name, Path(weights).expanduser(), image_size

    def network(self, data: Data, shape: Shape) -> nn.Module:
        from torchvision import models

        with seeded(0):
            network = getattr(models, self.name)()
        network.fc = nn.Identity()
        load_weights(network, self.weights)
        return nn.Sequential(_Fit(self.image_size), network)


# --- weights from a file

# Layers above the features, which a file may hold, too.
_ABOVE = ("fc.", "hidden.", "output.")


def load_weights(network: nn.Module, path: Path) -> None:
    """Give `network` the weights of a state dict in a file; those of layers above it are passed over.

    Raises:
        DataError: there is no such file, or it holds something else.
    """
    field = f"benchmark.features.weights={path}"
    try:
        stored = torch.load(path, map_location="cpu", weights_only=True)
    except OSError as error:
        raise DataError(f"{field}: can't be read ({error.strerror or error}); name a file") from error
    except Exception as error:
        raise DataError(f"{field}: holds no plain tensors ({type(error).__name__}); {_HOW}") from error
    if not isinstance(stored, dict) or not all(isinstance(value, Tensor) for value in stored.values()):
        raise DataError(f"{field}: is no state dict; {_HOW}")
    wanted = network.state_dict()
    given = {str(name): value for name, value in stored.items() if not str(name).startswith(_ABOVE)}
    _refuse(field, "lacks", [name for name in wanted if name not in given])
    _refuse(field, "holds, besides what is needed,", [name for name in given if name not in wanted])
    for name, value in given.items():
        if value.shape != wanted[name].shape:
            raise DataError(
                f"{field}: {name} has shape {tuple(value.shape)}, and {tuple(wanted[name].shape)} is needed; "
                "it must be of a network of the same layers"
            )
    network.load_state_dict(given)


_HOW = "write it with torch.save(network.state_dict(), file)"


def _refuse(field: str, what: str, names: Sequence[str]) -> None:
    if names:
        more = f" and {len(names) - 3} more" if len(names) > 3 else ""
        raise DataError(f"{field}: {what} {', '.join(names[:3])}{more}; it must be of a network of the same layers")
