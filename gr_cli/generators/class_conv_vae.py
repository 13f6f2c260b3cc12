"""A convolutional VAE per class, for generative classification of images and class-conditional replay."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal

import torch
from torch import Tensor, nn

from gr_cli.config.arguments import validate_arguments
from gr_cli.errors import ConfigError
from gr_cli.generators.class_vae import ClassVAE
from gr_cli.generators.conv_vae import ConvVAE
from gr_cli.nn.fused import has_hooks
from gr_cli.nn.sample_spec import SampleSpec
from gr_cli.types import LayerSizes, Positive, PositiveInt


class ClassConvVAE(ClassVAE):
    """One convolutional VAE per class, trained on the images of its class alone (van de Ven et al. 2021).

    As `ClassVAE`, but the likelihood is Gaussian: for natural images, whose values are not those of binary trials.

    Args:
        spec: Shape (C, H, W) and value range of an image, or the shape alone for values in [0, 1].
        num_classes: Number of classes, one VAE each; labels are 0 to `num_classes` - 1.
        hidden_dims: Output channels of each convolution of the encoder of one VAE, first to last; the decoder has them
            in reverse. Each halves height and width, rounded up.
        latent_dim: Number of latent variables of one VAE.
        deviation: Standard deviation of the likelihood p(x | z), of values scaled to [0, 1] if they are bounded. 0.25,
            about that of natural images, corresponds to unit variance of normalised images, as published.
        initialisation: Initial weights. `he` keeps the scale of signals through ReLU layers (He et al. 2015) and learns
            in fewer steps; `torch` are the defaults of torch.
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
        initialisation: Literal["he", "torch"] = "he",
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
            [ConvVAE(standardized, hidden_dims, latent_dim, 0.0, initialisation) for _ in range(num_classes)]
        )

    @property
    def _centre(self) -> float:
        return 0.0 if self.spec.value_range is None else 0.5

    def losses(
        self, objective: str, x: Tensor, noise: Mapping[str, Tensor], labels: Tensor | None = None
    ) -> dict[str, Tensor]:
        records_calls = any(
            map(has_hooks, self.members[0].modules())
        )  # of layers, which then need all samples in their order
        if labels is None or x.device.type != "cpu" or torch._C._are_functorch_transforms_active() or records_calls:
            return super().losses(objective, x, noise, labels)
        # Each VAE gets the samples of its class only. On a GPU, their number would have to be waited for.
        x, terms = self.to_members(x), dict[str, Tensor]()
        for label, vae in self._vaes_of(self._trained_classes):
            rows = (labels == label).nonzero().squeeze(1)
            own_noise = {name: value[rows] for name, value in noise.items()}
            for name, value in vae.losses(objective, x[rows], own_noise).items():
                terms[name] = terms.get(name, value.new_zeros(len(x))).index_add(0, rows, value)
        return terms

    def to_members(self, x: Tensor) -> Tensor:
        return (self.spec.to_unit_range(x) - self._centre) / self.deviation

    def from_members(self, x: Tensor) -> Tensor:
        return self.spec.nearest_valid(self.spec.from_unit_range(self._centre + self.deviation * x))
