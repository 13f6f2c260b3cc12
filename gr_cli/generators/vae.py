"""Variational autoencoders: what they share, and the fully connected one."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Annotated, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gr_cli.config.arguments import validate_arguments
from gr_cli.generators.base import Generator, Objective
from gr_cli.nn.fused import can_fuse, defines, linear_parameters
from gr_cli.nn.fused_elbo import FusedTerms, NegativeELBO
from gr_cli.nn.fused_mlp import ReluStack
from gr_cli.nn.initialization import init_he_, init_xavier_
from gr_cli.nn.layers import dropout, dropout_mask
from gr_cli.nn.linear import Linear
from gr_cli.nn.losses import kl_standard_normal
from gr_cli.nn.random_streams import NoiseSpec
from gr_cli.nn.sample_spec import SampleSpec
from gr_cli.types import FractionBelowOne, LayerSizes, PositiveInt, VariesPerReplica

# Methods, besides `losses`, that the fused loss of a VAE stands for.
FUSED_METHODS = ("encode", "reconstruct", "negative_elbo_terms")


class GaussianVAE(Generator):
    """Base class of variational autoencoders with Gaussian latent variables (Kingma & Welling 2014).

    The loss of a sample with D values is -ELBO / D: the mean reconstruction loss per value, plus KL(q(z|x) || N(0, I))
    / D. The reconstruction loss is -log p(x|z) under the likelihood of `spec`. A subclass defines `encode`,
    `reconstruct` and `training_noise`. Dropout is for encoders only: in a decoder it blurs generated samples.

    >>> class LinearVAE(GaussianVAE):
    ...     def __init__(self, spec=(6,), latent_dim=2):
    ...         super().__init__()
    ...         self.spec, self.latent_dim, self.dropout = SampleSpec.coerce(spec), latent_dim, 0.0
    ...         self.encoder = Linear(self.spec.size, 2 * latent_dim)
    ...         self.decoder = Linear(latent_dim, self.spec.size)
    ...     def encode(self, x, noise=None):
    ...         return self.encoder(x).chunk(2, dim=-1)
    ...     def reconstruct(self, z):
    ...         return self.decoder(z)
    ...     def training_noise(self, batch_size):
    ...         return self.latent_noise(batch_size)
    >>> LinearVAE().generate(3).shape
    torch.Size([3, 6])

    Attributes:
        latent_dim: Number of latent variables.
        dropout: Probability that a hidden value of the encoder is zeroed during training.
    """

    density_objective = "vae"
    latent_dim: int
    dropout: float

    @abstractmethod
    def encode(self, x: Tensor, noise: Mapping[str, Tensor] | None = None) -> tuple[Tensor, Tensor]:
        """Samples (B, ...) in the unit range to mean and log-variance of q(z|x), (B, latent_dim) each."""

    @abstractmethod
    def reconstruct(self, z: Tensor) -> Tensor:
        """z (B, latent_dim) to the parameters of the likelihood, (B, *spec.shape)."""

    def negative_log_likelihoods(self, z: Tensor, x: Tensor, unit_variance: bool) -> Tensor:
        """-log p(x|z) of samples for several draws of their latent variables, up to a constant: (N, B).

        Args:
            z: Latent variables (N, B, latent_dim).
            x: Samples (B, *shape) in the unit range.
            unit_variance: Use a Gaussian likelihood of unit variance for bounded values too.
        """
        out = self.reconstruct(z.flatten(0, 1)).to(x.dtype)
        repeated = x.repeat(len(z), *[1] * len(self.spec.shape))
        return self.spec.size * self.spec.negative_log_likelihood(out, repeated, unit_variance).view(len(z), -1)

    def latent_noise(self, num_samples: int) -> dict[str, NoiseSpec]:
        return {"z": NoiseSpec("normal", (num_samples, self.latent_dim))}

    def decode(self, latent: Mapping[str, Tensor], labels: Tensor | None = None) -> Tensor:
        if labels is not None:
            raise ValueError("this VAE is not conditional on classes: labels must be None")
        return self.spec.point_estimate(self.reconstruct(latent["z"]))

    def scoring_noise(self, batch_size: int) -> dict[str, NoiseSpec]:
        return {"z": NoiseSpec("normal", (batch_size, self.latent_dim))}

    def objectives(self) -> dict[str, Objective]:
        return {"vae": Objective(tuple(self.parameters()))}

    def losses(
        self, objective: str, x: Tensor, noise: Mapping[str, Tensor], labels: Tensor | None = None
    ) -> dict[str, Tensor]:
        x = self.spec.to_unit_range(x)
        # Under autocast only matrix products have low precision; sums have the precision of the samples.
        mean, log_variance = (value.to(x.dtype) for value in self.encode(x, noise))
        z = mean + (0.5 * log_variance).exp() * noise["z"]
        return self.negative_elbo_terms(x, self.reconstruct(z), kl_standard_normal(mean, log_variance))

    def negative_elbo_terms(self, x: Tensor, out: Tensor, kl: Tensor) -> dict[str, Tensor]:
        """Reconstruction loss and KL divergence per value, (B,) or (R, B) each.

        Args:
            x: Samples in the unit range.
            out: What `reconstruct` returned for them.
            kl: KL divergence of each sample.
        """
        return {"reconstruction": self.spec.negative_log_likelihood(out, x), "kl": kl / self.spec.size}


class VAE(GaussianVAE):
    """Fully connected variational autoencoder (Kingma & Welling 2014).

    The encoder has ReLU layers, the decoder mirrors them. The loss is the negative ELBO divided by the number of values
    D of a sample: mean reconstruction loss per value, plus KL(q(z|x) || N(0, I)) / D.

    Args:
        spec: Shape, value range and likelihood of a sample, or the shape alone for values in [0, 1]. Samples are
            flattened inside.
        hidden_dims: Width of each encoder layer, first to last; the decoder has them in reverse. `null`: those of the
            solver.
        latent_dim: Number of latent variables.
        dropout: Probability that a hidden unit of the encoder is zeroed during training.
        initialisation: Initial weights. `he` keeps the scale of signals through ReLU layers (He et al. 2015) and learns
            in fewer steps; `torch` are the defaults of torch, used by most published results.
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
        """Build encoder and decoder; both get `extra_inputs` values next to the sample and the latent variables."""
        size = self.spec.size
        encoder_sizes = [size + extra_inputs, *hidden_dims]
        decoder_sizes = [self.latent_dim + extra_inputs, *reversed(hidden_dims)]
        self.encoder = nn.ModuleList(Linear(a, b) for a, b in pairwise(encoder_sizes))
        self.posterior = Linear(encoder_sizes[-1], 2 * self.latent_dim)
        self.decoder = nn.ModuleList(Linear(a, b) for a, b in pairwise(decoder_sizes))
        self.output = Linear(decoder_sizes[-1], size)
        if initialisation == "he":
            init_he_(*self.encoder, *self.decoder)
            init_xavier_(self.posterior, self.output)

    def training_noise(self, batch_size: int) -> dict[str, NoiseSpec]:
        specs = self.latent_noise(batch_size)
        if self.dropout:
            for i, layer in enumerate(self.encoder):
                assert isinstance(layer, Linear)
                specs[f"encoder{i}"] = NoiseSpec("uniform", (batch_size, layer.out_features))
        return specs

    def encode(self, x: Tensor, noise: Mapping[str, Tensor] | None = None) -> tuple[Tensor, Tensor]:
        h = x.flatten(self.output.num_leading_axes)
        for i, layer in enumerate(self.encoder):
            h = dropout(F.relu(layer(h), inplace=True), noise, f"encoder{i}", self.dropout)
        mean, log_variance = self.posterior(h).chunk(2, dim=-1)
        return mean, log_variance

    def reconstruct(self, z: Tensor) -> Tensor:
        out: Tensor = self.output(self._decoder_features(z))
        return out.view(*out.shape[:-1], *self.spec.shape)

    def _decoder_features(self, z: Tensor) -> Tensor:
        """Latent variables to the inputs of the output layer."""
        h = z
        for layer in self.decoder:
            h = F.relu(layer(h), inplace=True)
        return h

    def negative_log_likelihoods(self, z: Tensor, x: Tensor, unit_variance: bool) -> Tensor:
        if self.spec.value_range is not None or self.spec.categories or not defines(self, VAE, "reconstruct"):
            return super().negative_log_likelihoods(z, x, unit_variance)
        # |r - W h|^2 = |r|^2 - 2 r'W h + h'W'W h, without a reconstruction for each draw
        h, weight = self._decoder_features(z.flatten(0, 1)).to(x.dtype), self.output.weight
        with torch.autocast(x.device.type, enabled=False):  # the terms cancel
            residual = x.flatten(1) - self.output.bias
            quadratic = (h @ (weight.mT @ weight) * h).sum(-1).view(len(z), -1)
            cross = (h.view(*z.shape[:2], -1) * (residual @ weight)).sum(-1)
            return 0.5 * (residual.square().sum(-1) - 2 * cross + quadratic)

    def fused_losses(
        self,
        objective: str,
        x: Tensor,
        noise: Mapping[str, Tensor],
        labels: Tensor | None = None,
        weights: Tensor | None = None,
    ) -> FusedTerms | None:
        if labels is not None or not defines(self, VAE, "losses", *FUSED_METHODS):
            return None
        target = self.spec.to_unit_range(x).flatten(self.output.num_leading_axes)
        return self._negative_elbo(target, target, noise, weights)

    def _negative_elbo(
        self,
        inputs: Tensor,
        target: Tensor,
        noise: Mapping[str, Tensor],
        weights: Tensor | None,
        codes: Tensor | None = None,
    ) -> NegativeELBO | None:
        """The terms of `losses` as one computation; None where it can't be fused.

        Args:
            inputs: The encoder's input (B, I).
            target: Samples (B, D) in the unit range.
            noise: As for `losses`.
            weights: Weights (B,) of the samples.
            codes: Values (B, C) that the decoder takes after the latent variables.
        """
        encoder = linear_parameters((*self.encoder, self.posterior))
        decoder = linear_parameters((*self.decoder, self.output))
        if encoder is None or decoder is None or not can_fuse(inputs) or self.spec.categories or inputs.requires_grad:
            return None
        if inputs.dim() != encoder[0].dim():
            return None
        masks = [dropout_mask(noise, f"encoder{i}", self.dropout) for i in range(len(self.encoder))]
        trials = None if self.spec.value_range is None else self.spec.binomial_trials
        return NegativeELBO(
            ReluStack(encoder, masks),
            ReluStack(decoder, [None] * len(self.decoder)),
            inputs,
            target,
            noise["z"],
            trials,
            weights,
            codes,
        )
