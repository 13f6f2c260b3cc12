from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from itertools import pairwise
from math import prod
from typing import Annotated, Literal

import torch.nn.functional as F
from torch import Tensor, nn

from gr_cli.config.arguments import checked
from gr_cli.generators.base import Generator, Part
from gr_cli.nn.initialization import start_linear, start_relu
from gr_cli.nn.layers import drop
from gr_cli.nn.linear import Linear
from gr_cli.nn.losses import bernoulli_nll, gaussian_nll, kl_standard_normal
from gr_cli.nn.random_streams import Noise
from gr_cli.types import PerReplica, PositiveInt, Share, Widths


class GaussianVAE(Generator):
    """What all variational auto-encoders with a Gaussian latent share (Kingma & Welling 2014).

    Minimised per sample: (-ELBO) / D for samples of D values, that is the mean over values of the reconstruction
    loss plus KL(q(z|x) || N(0, I)) / D. Bounded values are scaled to [0, 1] and modelled as the fraction of `trials`
    binary pixels that are on: Bernoulli for one trial, else Binomial, whose loss is `trials` times as large, up to a
    constant. Unbounded values are modelled as Gaussian of unit variance.

    Dropout belongs to the encoder: a decoder that must do with some of its units missing hedges, and its dreams blur.
    """

    latent_dim: int
    dropout: float
    trials: int

    @abstractmethod
    def encode(self, x: Tensor, noise: Mapping[str, Tensor] | None = None) -> tuple[Tensor, Tensor]:
        """Samples to mean and log-variance of q(z|x), each (B, latent_dim). Bounded `x` is scaled to [0, 1]."""

    @abstractmethod
    def reconstruct(self, z: Tensor) -> Tensor:
        """z (B, latent_dim) to pixel logits, or to means where values are unbounded: (B, *sample_shape)."""

    def latent(self, num_samples: int) -> dict[str, Noise]:
        return {"z": Noise("normal", (num_samples, self.latent_dim))}

    def decode(self, latent: Mapping[str, Tensor], labels: Tensor | None = None) -> Tensor:
        if labels is not None:
            raise ValueError("this VAE is not conditional on classes: labels must be None")
        return self.bounded(self.reconstruct(latent["z"]))

    def bounded(self, out: Tensor) -> Tensor:
        """What `reconstruct` gave as samples."""
        if self.value_range is None:
            return out
        low, high = self.value_range
        return out.sigmoid() if (low, high) == (0.0, 1.0) else low + (high - low) * out.sigmoid()

    def parts(self) -> dict[str, Part]:
        return {"vae": Part(tuple(self.parameters()))}

    def losses(
        self, part: str, x: Tensor, noise: Mapping[str, Tensor], labels: Tensor | None = None
    ) -> dict[str, Tensor]:
        x = self.scaled(x)
        # In low precision the products alone shall be coarse, not what is summed up from them.
        mean, log_variance = (part.to(x.dtype) for part in self.encode(x, noise))
        z = mean + (0.5 * log_variance).exp() * noise["z"]
        return self.elbo(x, self.reconstruct(z), kl_standard_normal(mean, log_variance))

    def scaled(self, x: Tensor) -> Tensor:
        """Bounded samples scaled to [0, 1], others as they are."""
        if self.value_range in (None, (0.0, 1.0)):
            return x
        low, high = self.value_range
        return (x - low) / (high - low)

    def elbo(self, x: Tensor, out: Tensor, kl: Tensor) -> dict[str, Tensor]:
        """The two terms per value, from scaled samples, what `reconstruct` gave, and the divergence (B,) or (R, B)."""
        return {"reconstruction": self.reconstruction_loss(x, out), "kl": kl / prod(self.sample_shape)}

    def reconstruction_loss(self, x: Tensor, out: Tensor, unit_variance: bool = False) -> Tensor:
        """-log p(x|z) per value up to a constant, (..., *sample_shape) -> (...), from scaled samples and what
        `reconstruct` gave. `unit_variance`: of Gaussians of unit variance, for bounded values too."""
        axes = len(self.sample_shape)
        out, target = out.to(x.dtype).flatten(-axes), x.flatten(-axes)
        if self.value_range is None:
            return gaussian_nll(out, target)
        if unit_variance:
            return gaussian_nll(out.sigmoid(), target)
        return self.trials * bernoulli_nll(out, target)


class VAE(GaussianVAE):
    """A VAE of fully connected ReLU layers, its decoder the mirror image of its encoder.

    Args:
        sample_shape: shape of one sample; flattened inside.
        hidden_dims: widths of the encoder's layers, first to last; the decoder has them reversed.
        latent_dim: number of latent variables.
        dropout: probability that a hidden unit of the encoder is left out while training.
        initialisation: of the weights; `he` keeps the scale of signals through ReLU layers (He et al. 2015), `torch`
            leaves torch's own, with which published results were made. The first learns in fewer steps.
        value_range: (low, high) of the data, or None if unbounded.
        trials: a bounded value is the fraction of so many binary pixels that are on.
    """

    takes_leading_axes = True

    @checked
    def __init__(
        self,
        sample_shape: Sequence[PositiveInt] = (784,),
        hidden_dims: Widths = (256, 128),
        latent_dim: PositiveInt = 32,
        dropout: Annotated[Share, PerReplica] = 0.1,
        initialisation: Literal["he", "torch"] = "he",
        value_range: tuple[float, float] | None = (0.0, 1.0),
        trials: PositiveInt = 1,
    ) -> None:
        super().__init__()
        self.sample_shape = tuple(sample_shape)
        self.latent_dim, self.dropout = latent_dim, dropout
        self.value_range, self.trials = value_range, trials
        self.make_layers(hidden_dims, initialisation)

    def make_layers(self, hidden_dims: Widths, initialisation: str, beside: int = 0) -> None:
        """Encoder and decoder, for inputs that hold so many values `beside` the sample and the latent variables."""
        size = prod(self.sample_shape)
        widths, back = [size + beside, *hidden_dims], [self.latent_dim + beside, *reversed(hidden_dims)]
        self.encoder = nn.ModuleList(Linear(a, b) for a, b in pairwise(widths))
        self.posterior = Linear(widths[-1], 2 * self.latent_dim)
        self.decoder = nn.ModuleList(Linear(a, b) for a, b in pairwise(back))
        self.pixels = Linear(back[-1], size)
        if initialisation == "he":
            start_relu(*self.encoder, *self.decoder)
            start_linear(self.posterior, self.pixels)

    def noise(self, batch_size: int) -> dict[str, Noise]:
        wanted = self.latent(batch_size)
        if self.dropout:
            for i, layer in enumerate(self.encoder):
                assert isinstance(layer, Linear)
                wanted[f"encoder{i}"] = Noise("uniform", (batch_size, layer.out_features))
        return wanted

    def encode(self, x: Tensor, noise: Mapping[str, Tensor] | None = None) -> tuple[Tensor, Tensor]:
        h = x.flatten(self.pixels.leading)
        for i, layer in enumerate(self.encoder):
            h = drop(F.relu(layer(h), inplace=True), noise, f"encoder{i}", self.dropout)
        mean, log_variance = self.posterior(h).chunk(2, dim=-1)
        return mean, log_variance

    def reconstruct(self, z: Tensor) -> Tensor:
        h = z
        for layer in self.decoder:
            h = F.relu(layer(h), inplace=True)
        out: Tensor = self.pixels(h)
        return out.view(*out.shape[:-1], *self.sample_shape)
