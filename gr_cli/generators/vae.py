from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Annotated, Literal

import torch.nn.functional as F
from torch import Tensor, nn

from gr_cli.config.arguments import validate_arguments
from gr_cli.generators.base import Generator, Objective
from gr_cli.nn.initialization import init_he_, init_xavier_
from gr_cli.nn.layers import dropout
from gr_cli.nn.linear import Linear
from gr_cli.nn.losses import kl_standard_normal
from gr_cli.nn.random_streams import NoiseSpec
from gr_cli.nn.sample_spec import SampleSpec
from gr_cli.types import FractionBelowOne, LayerSizes, PositiveInt, VariesPerReplica


class GaussianVAE(Generator):
    """What all variational auto-encoders with a Gaussian latent share (Kingma & Welling 2014).

    Minimised per sample: (-ELBO) / D for samples of D values, that is the mean over values of the reconstruction
    loss plus KL(q(z|x) || N(0, I)) / D. The reconstruction loss is -log p(x|z) under the likelihood of the samples'
    specification.

    Dropout belongs to the encoder: a decoder that must do with some of its units missing hedges, and its dreams blur.
    """

    latent_dim: int
    dropout: float

    @abstractmethod
    def encode(self, x: Tensor, noise: Mapping[str, Tensor] | None = None) -> tuple[Tensor, Tensor]:
        """Samples to mean and log-variance of q(z|x), each (B, latent_dim). `x` is scaled, as by `spec.scaled`."""

    @abstractmethod
    def reconstruct(self, z: Tensor) -> Tensor:
        """z (B, latent_dim) to the parameters of the likelihood, as `SampleSpec.mean` takes them: (B, *spec.shape)."""

    def latent_noise(self, num_samples: int) -> dict[str, NoiseSpec]:
        return {"z": NoiseSpec("normal", (num_samples, self.latent_dim))}

    def decode(self, latent: Mapping[str, Tensor], labels: Tensor | None = None) -> Tensor:
        if labels is not None:
            raise ValueError("this VAE is not conditional on classes: labels must be None")
        return self.spec.point_estimate(self.reconstruct(latent["z"]))

    def objectives(self) -> dict[str, Objective]:
        return {"vae": Objective(tuple(self.parameters()))}

    def losses(
        self, objective: str, x: Tensor, noise: Mapping[str, Tensor], labels: Tensor | None = None
    ) -> dict[str, Tensor]:
        x = self.spec.to_unit_range(x)
        # In low precision the products alone shall be coarse, not what is summed up from them.
        mean, log_variance = (objective.to(x.dtype) for objective in self.encode(x, noise))
        z = mean + (0.5 * log_variance).exp() * noise["z"]
        return self.negative_elbo_terms(x, self.reconstruct(z), kl_standard_normal(mean, log_variance))

    def negative_elbo_terms(self, x: Tensor, out: Tensor, kl: Tensor) -> dict[str, Tensor]:
        """The two terms per value, from scaled samples, what `reconstruct` gave, and the divergence (B,) or (R, B)."""
        return {"reconstruction": self.spec.negative_log_likelihood(out, x), "kl": kl / self.spec.size}


class VAE(GaussianVAE):
    """A VAE of fully connected ReLU layers, its decoder the mirror image of its encoder.

    Args:
        spec: what a sample is, or its shape, for values in [0, 1]; flattened inside.
        hidden_dims: widths of the encoder's layers, first to last; the decoder has them reversed.
        latent_dim: number of latent variables.
        dropout: probability that a hidden unit of the encoder is left out while training.
        initialisation: of the weights; `he` keeps the scale of signals through ReLU layers (He et al. 2015), `torch`
            leaves torch's own, with which published results were made. The first learns in fewer steps.
    """

    supports_leading_axes = True

    @validate_arguments
    def __init__(
        self,
        spec: SampleSpec | Sequence[PositiveInt] = (784,),
        hidden_dims: LayerSizes = (256, 128),
        latent_dim: PositiveInt = 32,
        dropout: Annotated[FractionBelowOne, VariesPerReplica] = 0.1,
        initialisation: Literal["he", "torch"] = "he",
    ) -> None:
        super().__init__()
        self.spec, self.latent_dim, self.dropout = SampleSpec.coerce(spec), latent_dim, dropout
        self.build_layers(hidden_dims, initialisation)

    def build_layers(self, hidden_dims: LayerSizes, initialisation: str, extra_inputs: int = 0) -> None:
        """Encoder and decoder, for inputs that hold so many values `beside` the sample and the latent variables."""
        size = self.spec.size
        widths, back = [size + extra_inputs, *hidden_dims], [self.latent_dim + extra_inputs, *reversed(hidden_dims)]
        self.encoder = nn.ModuleList(Linear(a, b) for a, b in pairwise(widths))
        self.posterior = Linear(widths[-1], 2 * self.latent_dim)
        self.decoder = nn.ModuleList(Linear(a, b) for a, b in pairwise(back))
        self.output = Linear(back[-1], size)
        if initialisation == "he":
            init_he_(*self.encoder, *self.decoder)
            init_xavier_(self.posterior, self.output)

    def training_noise(self, batch_size: int) -> dict[str, NoiseSpec]:
        wanted = self.latent_noise(batch_size)
        if self.dropout:
            for i, layer in enumerate(self.encoder):
                assert isinstance(layer, Linear)
                wanted[f"encoder{i}"] = NoiseSpec("uniform", (batch_size, layer.out_features))
        return wanted

    def encode(self, x: Tensor, noise: Mapping[str, Tensor] | None = None) -> tuple[Tensor, Tensor]:
        h = x.flatten(self.output.num_leading_axes)
        for i, layer in enumerate(self.encoder):
            h = dropout(F.relu(layer(h), inplace=True), noise, f"encoder{i}", self.dropout)
        mean, log_variance = self.posterior(h).chunk(2, dim=-1)
        return mean, log_variance

    def reconstruct(self, z: Tensor) -> Tensor:
        h = z
        for layer in self.decoder:
            h = F.relu(layer(h), inplace=True)
        out: Tensor = self.output(h)
        return out.view(*out.shape[:-1], *self.spec.shape)
