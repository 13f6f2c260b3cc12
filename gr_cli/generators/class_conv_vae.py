"""A convolutional VAE per class, for generative classification of images and class-conditional replay."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gr_cli.config.arguments import validate_arguments
from gr_cli.errors import ConfigError
from gr_cli.generators.class_vae import ClassVAE
from gr_cli.generators.conv_vae import ConvVAE
from gr_cli.nn.fused import has_hooks
from gr_cli.nn.layers import train_mode
from gr_cli.nn.sample_spec import SampleSpec
from gr_cli.types import LayerSizes, Positive, PositiveInt


class BatchNormConvVAE(ConvVAE):
    """A convolutional VAE with batch normalization before each ReLU, and none next to the latent variables.

    The layers of van de Ven et al. (2021) for CIFAR-10, but for kernels of 3 instead of 4 in the decoder.

    Args:
        spec: As for `ConvVAE`.
        hidden_dims: As for `ConvVAE`.
        latent_dim: Number of latent variables.
        initialisation: As for `ConvVAE`.
    """

    def __init__(
        self,
        spec: SampleSpec,
        hidden_dims: LayerSizes,
        latent_dim: PositiveInt,
        initialisation: Literal["he", "torch"] = "torch",
    ) -> None:
        super().__init__(spec, hidden_dims, latent_dim, 0.0, initialisation)
        self.encoder_norms = nn.ModuleList(map(nn.BatchNorm2d, hidden_dims[:-1]))
        self.decoder_norms = nn.ModuleList(map(nn.BatchNorm2d, reversed(hidden_dims[:-1])))

    def encode(self, x: Tensor, noise: Mapping[str, Tensor] | None = None) -> tuple[Tensor, Tensor]:
        *inner, last = self.encoder
        for layer, norm in zip(inner, self.encoder_norms, strict=True):
            x = F.relu(norm(layer(x)))
        mean, log_variance = self.posterior(last(x).flatten(1)).chunk(2, dim=-1)
        return mean, log_variance

    def reconstruct(self, z: Tensor) -> Tensor:
        x = self.expand(z).view(*z.shape[:-1], *self._feature_maps[-1])
        *inner, last = self.decoder
        for layer, norm in zip(inner, self.decoder_norms, strict=True):
            x = F.relu(norm(layer(x)))
        out: Tensor = last(x)
        return out


class ClassConvVAE(ClassVAE):
    """One convolutional VAE per class, trained on the images of its class alone (van de Ven et al. 2021).

    As `ClassVAE`, but the likelihood is Gaussian: for natural images, whose values are not those of binary trials.
    Statistics of batch normalization are those of the images of one class.

    Args:
        spec: Shape (C, H, W) and value range of an image, or the shape alone for values in [0, 1].
        num_classes: Number of classes, one VAE each; labels are 0 to `num_classes` - 1.
        hidden_dims: Output channels of each convolution of the encoder of one VAE, first to last; the decoder has them
            in reverse. Each halves height and width, rounded up.
        latent_dim: Number of latent variables of one VAE.
        deviation: Standard deviation of the likelihood p(x | z), of values scaled to [0, 1] if they are bounded. 0.25,
            about that of natural images, corresponds to unit variance of normalised images, as published.
        initialisation: Initial weights: `he` keeps the scale of signals through ReLU layers (He et al. 2015); `torch`
            are the defaults of torch, with which these networks learn in fewer steps.
        norm: Normalization before each ReLU: `batch`, or `none`, with which samples don't depend on others.
    """

    supports_leading_axes = False

    @validate_arguments
    def __init__(
        self,
        spec: SampleSpec | Sequence[PositiveInt] = (3, 32, 32),
        num_classes: PositiveInt = 10,
        hidden_dims: LayerSizes = (15, 30, 60),
        latent_dim: PositiveInt = 100,
        deviation: Positive = 0.25,
        initialisation: Literal["he", "torch"] = "torch",
        norm: Literal["batch", "none"] = "batch",
    ) -> None:
        nn.Module.__init__(self)
        self.spec, self.latent_dim, self.deviation = SampleSpec.coerce(spec), latent_dim, deviation
        if not self.spec.is_image:
            raise ConfigError(
                "generator",
                "class_conv_vae",
                f"needs images (C, H, W), samples have shape {self.spec.shape}",
                "try generator=class_vae",
            )
        standardized = SampleSpec(self.spec.shape, None)  # unbounded values have a Gaussian likelihood
        self._set_members(
            [
                BatchNormConvVAE(standardized, hidden_dims, latent_dim, initialisation)
                if norm == "batch"
                else ConvVAE(standardized, hidden_dims, latent_dim, 0.0, initialisation)
                for _ in range(num_classes)
            ]
        )
        self._mixes_samples = any(isinstance(module, nn.BatchNorm2d) for module in self.modules())

    @property
    def _centre(self) -> float:
        return 0.0 if self.spec.value_range is None else 0.5

    def losses(
        self, objective: str, x: Tensor, noise: Mapping[str, Tensor], labels: Tensor | None = None
    ) -> dict[str, Tensor]:
        # Each VAE gets the samples of its class only. On a GPU, their number would have to be waited for; where calls
        # of layers are recorded, they need all samples in their order.
        records_calls = any(map(has_hooks, self.members[0].modules()))
        gets_all = x.device.type != "cpu" or torch._C._are_functorch_transforms_active() or records_calls
        if labels is None or (gets_all and not self._mixes_samples):
            return super().losses(objective, x, noise, labels)
        x, terms = self.to_members(x), dict[str, Tensor]()
        for label, vae in self._vaes_of(self._trained_classes):
            rows = (labels == label).nonzero().squeeze(1)
            own_noise = {name: value[rows] for name, value in noise.items()}
            with train_mode(vae, vae.training and len(rows) > 1):  # a single image has no batch statistics
                values = vae.losses(objective, x[rows], own_noise)
            for name, value in values.items():
                terms[name] = terms.get(name, value.new_zeros(len(x))).index_add(0, rows, value)
        return terms

    def decode(self, latent: Mapping[str, Tensor], labels: Tensor | None = None) -> Tensor:
        with train_mode(self, False):
            return super().decode(latent, labels)

    def estimate_log_likelihoods(
        self, x: Tensor, stream: torch.Generator, num_draws: int, unit_variance: bool = False
    ) -> Tensor:
        with train_mode(self, False):
            return super().estimate_log_likelihoods(x, stream, num_draws, unit_variance)

    def to_members(self, x: Tensor) -> Tensor:
        return (self.spec.to_unit_range(x) - self._centre) / self.deviation

    def from_members(self, x: Tensor) -> Tensor:
        return self.spec.nearest_valid(self.spec.from_unit_range(self._centre + self.deviation * x))
