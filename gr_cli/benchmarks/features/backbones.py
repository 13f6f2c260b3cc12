"""Frozen networks of torchvision and timm, by name."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from gr_cli.benchmarks.base import Samples
from gr_cli.benchmarks.features.base import FeatureExtractor, Shape
from gr_cli.benchmarks.features.weights import load_weights
from gr_cli.benchmarks.sources.load import error_summary
from gr_cli.errors import ConfigError, DataError, suggestion
from gr_cli.nn.convolutions import match_image_shape
from gr_cli.nn.random_streams import seeded
from gr_cli.system.mapping import Storage
from gr_cli.system.messages import print_status
from gr_cli.types import PositiveInt

# Mean and standard deviation of ImageNet, as torchvision's weights expect.
_IMAGENET_MEAN, _IMAGENET_DEVIATION = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


class BackboneInput(nn.Module):
    """Converts images to RGB, resizes them, and normalizes each channel."""

    mean: Tensor
    deviation: Tensor

    def __init__(self, size: tuple[int, int], mean: Sequence[float], deviation: Sequence[float]) -> None:
        super().__init__()
        self.size = size
        self.register_buffer("mean", torch.tensor(mean).view(3, 1, 1), persistent=False)
        self.register_buffer("deviation", torch.tensor(deviation).view(3, 1, 1), persistent=False)

    def extra_repr(self) -> str:
        return f"{self.size}, {self.mean.flatten().tolist()}, {self.deviation.flatten().tolist()}"

    def forward(self, x: Tensor) -> Tensor:
        return (match_image_shape(x, (3, *self.size)) - self.mean) / self.deviation


class Backbone(nn.Module):
    """A network after its input normalization.

    Raises:
        ConfigError: The network can't take images of this size.
    """

    def __init__(self, normalization: BackboneInput, network: nn.Module, name: str) -> None:
        super().__init__()
        self.normalization, self.network, self.name = normalization, network.eval(), name
        size = normalization.size
        try:
            with torch.no_grad():
                network(torch.zeros(1, 3, *size))
        except Exception as error:  # whatever the layers raise
            raise ConfigError(
                "benchmark.features.image_size",
                size[0],
                f"{name} takes no images of {size[0]}x{size[1]} pixels ({error_summary(error)})",
                "try benchmark.features.image_size=224",
            ) from error

    def extra_repr(self) -> str:
        return self.name

    def forward(self, x: Tensor) -> Tensor:
        features: Tensor = self.network(self.normalization(x))
        return features


class TorchvisionFeatureExtractor(FeatureExtractor):
    """A classifier of torchvision without its last linear layer, with weights from a file.

    Args:
        name: Name in `torchvision.models`, such as `resnet18`.
        weights: File with the state dict, as torchvision publishes it; nothing is downloaded.
        image_size: Height and width in pixels to which images are resized.
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
        name: str,
        weights: str | None = None,
        image_size: PositiveInt = 224,
        normalise: bool = True,
        cache_root: str = "~/.cache/gr_cli",
        device: torch.device = torch.device("cpu"),  # noqa: B008  a value
        storage: Storage = "auto",
        components: PositiveInt | None = None,
    ) -> None:
        super().__init__(normalise, cache_root, device, storage, components)
        from torchvision import models

        _check_name(name, models.list_models(module=models), "torchvision")
        if weights is None:
            raise ConfigError(
                "benchmark.features.weights",
                None,
                f"must be a file with the weights of a {name}",
                "set benchmark.features.weights=<file>",
            )
        self.name, self.weights, self.image_size = name, Path(weights).expanduser(), image_size

    def network(self, first_task: Samples, shape: Shape) -> nn.Module:
        from torchvision import models

        with seeded(0):
            network = models.get_model(self.name, weights=None)
        load_weights(network, self.weights, ignored=(f"{remove_last_linear(network, self.name)}.",))
        size = (self.image_size, self.image_size)
        return Backbone(BackboneInput(size, _IMAGENET_MEAN, _IMAGENET_DEVIATION), network, self.name)


def remove_last_linear(network: nn.Module, name: str) -> str:
    """Replace the last linear layer of a classifier by the identity; returns the name of its module.

    Raises:
        ConfigError: It has none.
    """
    linear_layers = [path for path, module in network.named_modules() if isinstance(module, nn.Linear)]
    if not linear_layers:
        raise ConfigError(
            "benchmark.features.name", name, "has no linear output layer", "try benchmark.features.name=resnet18"
        )
    path = str(linear_layers[-1])
    parent, _, child = path.rpartition(".")
    setattr(network.get_submodule(parent), child, nn.Identity())
    return path


class TimmFeatureExtractor(FeatureExtractor):
    """A network of timm: its pooled features, before the classifier. Needs `pip install 'gr-cli[timm]'`.

    Args:
        name: Name in timm, such as `resnet18` or `vit_small_patch16_224.dino`; after the point stands which weights.
        weights: `pretrained`: those of timm, from its cache, or downloaded if `download` is set; or a file with the
            state dict, `.safetensors` too.
        image_size: Height and width in pixels to which images are resized; null: those of the pretraining.
        normalise: Scale each vector to mean 0 and variance 1.
        download: Download weights that are not in timm's cache.
        cache_root: Folder of the cache; the vectors lie in `features/` below it.
        device: Device on which vectors are computed.
        storage: Whether vectors are read into memory or memory-mapped; `auto`: mapped if they take more than a quarter
            of the available memory.
        components: Number of principal components of the first task's features that represent a sample; null: all
            features.
    """

    def __init__(
        self,
        name: str,
        weights: str = "pretrained",
        image_size: PositiveInt | None = None,
        normalise: bool = True,
        download: bool = True,
        cache_root: str = "~/.cache/gr_cli",
        device: torch.device = torch.device("cpu"),  # noqa: B008  a value
        storage: Storage = "auto",
        components: PositiveInt | None = None,
    ) -> None:
        super().__init__(normalise, cache_root, device, storage, components)
        if find_spec("timm") is None:
            raise ConfigError(
                "benchmark/features", "timm", "timm is not installed", "install it with: pip install 'gr-cli[timm]'"
            )
        import timm

        _check_name(name.partition(".")[0], timm.list_models(), "timm")
        self.name, self.weights, self.image_size, self.download = name, weights, image_size, download

    def network(self, first_task: Samples, shape: Shape) -> nn.Module:
        with seeded(0):
            if self.weights == "pretrained":
                network = self._pretrained_network()
            else:
                network = self._create(pretrained=False)
                classifier = network.pretrained_cfg.get("classifier") or ()
                layers = [classifier] if isinstance(classifier, str) else list(classifier)
                path = Path(self.weights).expanduser()
                load_weights(network, path, ignored=[f"{layer}." for layer in layers])
        settings = network.pretrained_cfg
        size = (self.image_size, self.image_size) if self.image_size else tuple(settings["input_size"][1:])
        return Backbone(BackboneInput(size, settings["mean"], settings["std"]), network, self.name)

    def _create(self, pretrained: bool) -> Any:
        import timm

        arguments: dict[str, Any] = {"pretrained": pretrained, "num_classes": 0}
        settings = timm.models.get_pretrained_cfg(self.name)
        if self.image_size and settings is not None and settings.fixed_input_size:
            arguments["img_size"] = self.image_size  # their position embeddings depend on it
        return timm.create_model(self.name, **arguments)

    def _pretrained_network(self) -> Any:
        """The network with timm's weights, from its cache if they are there.

        Raises:
            DataError: They are not, and can't be downloaded.
        """
        problem = "download=false"
        for offline in (True, False) if self.download else (True,):
            try:
                with _hub(offline):
                    return self._create(pretrained=True)
            except Exception as error:  # of the hub, of the network, or of a name without weights
                problem = error_summary(error) if not offline else problem
            if offline and self.download:
                print_status(f"the weights of {self.name} are not in timm's cache and are downloaded")
        raise DataError(
            f"benchmark.features.name={self.name}: its weights are not in timm's cache and could not be downloaded "
            f"({problem}); set benchmark.features.weights=<file>"
        )


def _check_name(name: str, names: Sequence[str], library: str) -> None:
    if name not in names:
        hint = suggestion(name, names) or "try benchmark.features.name=resnet18"
        raise ConfigError("benchmark.features.name", name, f"is no network of {library}", hint)


@contextmanager
def _hub(offline: bool) -> Iterator[None]:
    """Whether the hub of timm's weights may use the network; its warnings about retries are not shown."""
    from huggingface_hub import constants

    logger, previous = logging.getLogger("huggingface_hub"), constants.HF_HUB_OFFLINE
    level = logger.level
    constants.HF_HUB_OFFLINE = offline or previous
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        constants.HF_HUB_OFFLINE = previous
        logger.setLevel(level)
