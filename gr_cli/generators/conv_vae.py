"""Convolutional VAE for images."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Annotated, Literal

import torch.nn.functional as F
from torch import Tensor, nn

from gr_cli.config.arguments import validate_arguments
from gr_cli.errors import ConfigError
from gr_cli.generators.vae import GaussianVAE
from gr_cli.nn.initialization import init_he_, init_xavier_
from gr_cli.nn.layers import dropout
from gr_cli.nn.random_streams import NoiseSpec
from gr_cli.nn.sample_spec import SampleSpec
from gr_cli.types import FractionBelowOne, LayerSizes, PositiveInt, VariesPerReplica


class ConvVAE(GaussianVAE):
    """Convolutional variational autoencoder for images of any size and number of channels.

    The encoder has 3x3 convolutions of stride 2 with ReLU, the decoder their transposes. The loss is that of `VAE`.

    Args:
        spec: Shape (C, H, W), value range and likelihood of an image, or the shape alone for values in [0, 1].
        hidden_dims: Output channels of each convolution of the encoder, first to last; the decoder has them in reverse.
            Each halves height and width, rounded up.
        latent_dim: Number of latent variables.
        dropout: Probability that a value of the encoder's feature maps is zeroed during training.
        initialisation: Initial weights. `he` keeps the scale of signals through ReLU layers (He et al. 2015) and learns
            in fewer steps; `torch` are the defaults of torch, used by most published results.
    """

    @validate_arguments
    def __init__(
        self,
        spec: SampleSpec | Sequence[PositiveInt] = (1, 28, 28),
        hidden_dims: LayerSizes = (32, 64, 128),
        latent_dim: PositiveInt = 32,
        dropout: Annotated[FractionBelowOne, VariesPerReplica] = 0.1,
        initialisation: Literal["he", "torch"] = "he",
    ) -> None:
        super().__init__()
        self.spec, self.latent_dim, self.dropout = SampleSpec.coerce(spec), latent_dim, dropout
        if not self.spec.is_image:
            raise ConfigError(
                "generator",
                "conv_vae",
                f"needs images (C, H, W), samples have shape {self.spec.shape}",
                "try generator=vae",
            )
        if not hidden_dims:
            raise ConfigError("generator.hidden_dims", list(hidden_dims), "needs at least one convolution")
        depth, height, width = self.spec.shape
        channels, sizes = [depth, *hidden_dims], [(height, width)]
        for _ in hidden_dims:
            sizes.append(((sizes[-1][0] + 1) // 2, (sizes[-1][1] + 1) // 2))
        # Shape of each feature map of the encoder.
        self._feature_maps = [(depth, *size) for depth, size in zip(hidden_dims, sizes[1:], strict=True)]
        flat = channels[-1] * sizes[-1][0] * sizes[-1][1]
        self.encoder = nn.ModuleList(nn.Conv2d(a, b, 3, stride=2, padding=1) for a, b in pairwise(channels))
        self.posterior = nn.Linear(flat, 2 * latent_dim)
        self.expand = nn.Linear(latent_dim, flat)
        # A convolution maps size n to ceil(n / 2); `output_padding` selects 2m or 2m - 1 in its transpose.
        self.decoder = nn.ModuleList(
            nn.ConvTranspose2d(b, a, 3, stride=2, padding=1, output_padding=(1 - size[0] % 2, 1 - size[1] % 2))
            for (a, b), size in reversed(list(zip(pairwise(channels), sizes, strict=False)))
        )
        if initialisation == "he":
            *inner, last = self.decoder
            init_he_(*self.encoder, self.expand, *inner)
            init_xavier_(self.posterior, last)

    def training_noise(self, batch_size: int) -> dict[str, NoiseSpec]:
        specs = self.latent_noise(batch_size)
        if self.dropout:
            for i, shape in enumerate(self._feature_maps):
                specs[f"encoder{i}"] = NoiseSpec("uniform", (batch_size, *shape))
        return specs

    def encode(self, x: Tensor, noise: Mapping[str, Tensor] | None = None) -> tuple[Tensor, Tensor]:
        for i, layer in enumerate(self.encoder):
            x = dropout(F.relu(layer(x)), noise, f"encoder{i}", self.dropout)
        mean, log_variance = self.posterior(x.flatten(1)).chunk(2, dim=-1)
        return mean, log_variance

    def reconstruct(self, z: Tensor) -> Tensor:
        x: Tensor = self.expand(z)
        x = x.view(*x.shape[:-1], *self._feature_maps[-1])
        for layer in self.decoder:
            x = layer(F.relu(x))
        return x
