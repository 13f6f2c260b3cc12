"""The negative ELBO of a fully connected VAE with a hand-derived gradient.

Encoder and decoder are stacks of layers (`fused_mlp`). For a sample x with D values, noise e ~ N(0, I) and Z latent
variables:

    (m, v) = encoder(x)                       mean and log-variance of q(z|x), (B, Z) each
    s      = exp(v / 2)
    z      = m + s * e
    o      = decoder(z)                       (B, D)
    rec    = k / D * sum_d softplus(o_d) - x_d o_d      bounded values, k trials each
             1 / (2 D) * sum_d (o_d - x_d)^2            unbounded values
    kl     = 1 / (2 D) * sum_z (s_z^2 - v_z + m_z^2 - 1)

With the weights w of the samples (their mean: 1 / B), and a = dL / d(sum of w rec), b = dL / d(sum of w kl):

    dL / do = a w k / D * (sigmoid(o) - x)    or   a w / D * (o - x)
    dL / dz   from the decoder
    dL / dm = dL / dz + b w / D * m
    dL / dv = dL / dz * e * s / 2 + b w / (2 D) * (s^2 - 1)

All tensors may have a leading replica axis.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from gr_cli.nn.fused import FusedComputation, Scale
from gr_cli.nn.fused_mlp import ReluStack
from gr_cli.nn.losses import sum_softplus, weighted_sum


class FusedTerms(FusedComputation):
    """Terms of a generator's loss: its outputs are their weighted means over samples, (R,) each.

    Attributes:
        names: Names of the terms.
    """

    names: tuple[str, ...]


class Reconstruction:
    """-log p(x|z) per value up to a constant, from a decoder's output o, as a weighted mean over samples.

    Args:
        target: Samples x (B, D), in the unit range if they are bounded.
        binomial_trials: Trials k of bounded values; None: the values are unbounded.
        weights: Weights (B,) of the samples; None: their mean.
    """

    def __init__(self, target: Tensor, binomial_trials: int | None, weights: Tensor | None) -> None:
        self._target, self._trials, self._weights = target, binomial_trials, weights
        self._out = target

    def forward(self, out: Tensor) -> Tensor:
        """The decoder's output (B, D) to the loss (R,)."""
        self._out = out
        if self._trials is None:
            per_sample = (out - self._target).square_().sum(-1).mul_(0.5 / out.shape[-1])
        else:
            per_sample = sum_softplus(out).sub_((out * self._target).sum(-1)).mul_(self._trials / out.shape[-1])
        return weighted_sum(per_sample, self._weights).view(-1)

    def backward(self, gradient: Scale) -> Tensor:
        """Gradient with respect to the decoder's output, (B, D)."""
        out = self._out.clone() if self._trials is None else self._out.sigmoid()
        scale = sample_scale(gradient, (self._trials or 1) / out.shape[-1], self._weights, out)
        return out.sub_(self._target).mul_(scale)


def sample_scale(gradient: Scale, factor: float, weights: Tensor | None, like: Tensor) -> Scale:
    """gradient * factor * w in a shape that broadcasts to `like` (B, D): (B, 1), or one number if w = 1 / B."""
    if isinstance(gradient, Tensor) and like.dim() == 3:
        gradient = gradient.view(-1, 1, 1)
    if weights is None:
        return gradient * (factor / max(1, like.shape[-2]))
    return weights.unsqueeze(-1) * gradient * factor


class NegativeELBO(FusedTerms):
    """Weighted means over samples of the reconstruction loss and the KL divergence per value.

    Args:
        encoder: Layers from x (and codes) to mean and log-variance.
        decoder: Layers from z (and codes) to the parameters of the likelihood.
        inputs: The encoder's input (B, I).
        target: Samples x (B, D), in the unit range if they are bounded.
        noise: e (B, Z).
        binomial_trials: Trials k of bounded values; None: the values are unbounded.
        weights: Weights (B,) of the samples; None: their mean.
        codes: Constant values (B, C) that the decoder takes after z; None: none.
    """

    names = ("reconstruction", "kl")

    def __init__(
        self,
        encoder: ReluStack,
        decoder: ReluStack,
        inputs: Tensor,
        target: Tensor,
        noise: Tensor,
        binomial_trials: int | None,
        weights: Tensor | None = None,
        codes: Tensor | None = None,
    ) -> None:
        self._encoder, self._decoder = encoder, decoder
        self._encoder_input, self._noise, self._weights, self._codes = inputs, noise, weights, codes
        self._reconstruction = Reconstruction(target, binomial_trials, weights)
        self._size = target.shape[-1]
        self.inputs = (*encoder.parameters, *decoder.parameters)

    def forward(self) -> tuple[Tensor, ...]:
        self._posterior = self._encoder.forward(self._encoder_input)  # (B, 2 Z)
        mean, log_variance = self._posterior.chunk(2, -1)
        self._deviation = log_variance.mul(0.5).exp_()
        z = torch.addcmul(mean, self._deviation, self._noise)
        out = self._decoder.forward(z if self._codes is None else torch.cat([z, self._codes], -1))
        variance_and_mean = torch.addcmul(self._deviation.square() - log_variance, mean, mean)
        kl = variance_and_mean.sum(-1).sub_(mean.shape[-1]).mul_(0.5 / self._size)
        return self._reconstruction.forward(out), weighted_sum(kl, self._weights).view(-1)

    def backward(self, gradients: Sequence[Any], needed: Sequence[bool]) -> list[Tensor | None]:
        of_reconstruction, of_kl = (0.0 if gradient is None else gradient for gradient in gradients)
        split = len(self._encoder.parameters)
        needs_z = any(needed[:split])
        out_gradient = self._reconstruction.backward(of_reconstruction)
        decoder_gradients, z_gradient = self._decoder.backward(out_gradient, needed[split:], needs_z)
        if z_gradient is None:
            return [None] * split + decoder_gradients
        mean, _ = self._posterior.chunk(2, -1)
        z_gradient = z_gradient[..., : mean.shape[-1]]  # without those of the codes
        scale = sample_scale(of_kl, 1.0 / self._size, self._weights, mean)
        posterior_gradient = torch.empty_like(self._posterior)
        mean_gradient, log_variance_gradient = posterior_gradient.chunk(2, -1)
        torch.add(z_gradient, mean * scale, out=mean_gradient)
        half_deviation = self._deviation * 0.5
        torch.mul(z_gradient, self._noise, out=log_variance_gradient).mul_(half_deviation)
        # (s^2 - 1) / 2 = s * s / 2 - 1 / 2
        log_variance_gradient.add_(half_deviation.mul_(self._deviation).sub_(0.5).mul_(scale))
        encoder_gradients, _ = self._encoder.backward(posterior_gradient, needed[:split], needs_x=False)
        return encoder_gradients + decoder_gradients


class SumOfTerms(FusedTerms):
    """The sums of the terms of several computations, name by name.

    Args:
        parts: Computations with the same names.
    """

    def __init__(self, parts: Sequence[FusedTerms]) -> None:
        self._parts, self.names = list(parts), parts[0].names
        self.inputs = tuple(tensor for part in parts for tensor in part.inputs)

    def forward(self) -> tuple[Tensor, ...]:
        values = zip(*(part.forward() for part in self._parts), strict=True)
        return tuple(torch.stack(of_term).sum(0) for of_term in values)

    def backward(self, gradients: Sequence[Any], needed: Sequence[bool]) -> list[Tensor | None]:
        result: list[Tensor | None] = []
        for part in self._parts:
            result += part.backward(gradients, needed[len(result) : len(result) + len(part.inputs)])
        return result
