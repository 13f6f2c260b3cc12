"""Losses as pure functions: cross-entropy, distillation, likelihoods, Kullback-Leibler divergence.

Each reduces its last dimensions and returns one number per sample; leading axes (replicas) are kept.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from gr_cli.nn.layers import per_replica

# Logit of inactive units. Finite, because 0 x -inf in a soft target would be NaN.
INACTIVE_LOGIT = -1e9
_FEW_LOGARITHMS = 1 << 13
_LOG_2PI = math.log(2.0 * math.pi)


def masked_log_softmax(logits: Tensor, active_units: Tensor) -> Tensor:
    """Log-probabilities over the active units: logits (..., U) and bool units, broadcast together."""
    return F.log_softmax(logits.masked_fill(~active_units, INACTIVE_LOGIT), dim=-1)


def cross_entropy(logits: Tensor, target: Tensor, active_units: Tensor) -> Tensor:
    """Cross-entropy with hard labels over the active units: (..., U), (...) -> (...)."""
    log_p = masked_log_softmax(logits, active_units)
    return -log_p.gather(-1, target.unsqueeze(-1)).squeeze(-1)


def soft_targets(logits: Tensor, active_units: Tensor, temperature: float | Tensor) -> Tensor:
    """A teacher's probabilities at `temperature` over its known units; 0 for all others."""
    return masked_log_softmax(logits / temperature, active_units).exp() * active_units


def distillation_loss(logits: Tensor, target: Tensor, active_units: Tensor, temperature: float | Tensor) -> Tensor:
    """Distillation loss: cross-entropy with soft targets at a temperature (Hinton et al. 2015), without the factor T^2.

    Args:
        logits: The student's logits (..., U).
        target: The teacher's probabilities (..., U), from `soft_targets`.
        active_units: Units in the student's softmax, bool.
        temperature: T of the student's softmax; a number, or a tensor that broadcasts to `logits`.

    Returns:
        Loss per sample (...).
    """
    log_p = masked_log_softmax(logits / temperature, active_units)
    return -(target * log_p).sum(-1)


def is_one(factor: float | Tensor) -> bool:
    """Whether a factor is the number 1, which changes nothing."""
    return not isinstance(factor, Tensor) and factor == 1.0


@dataclass(frozen=True)
class Targets:
    """What the logits of some samples of a batch are compared with, for each of H heads.

    Attributes:
        target: Hard targets, units (R, N, H); or soft ones, probabilities (R, N, H, U).
        active_units: Units in the softmax, bool; broadcasts to (R, N, H, U).
        start: Position of the first of these N samples in the batch.
        temperature: Temperature of the softmax, one number or (R,).
        scale: Factor of the loss, one number or (R,).
    """

    target: Tensor
    active_units: Tensor
    start: int = 0
    temperature: float | Tensor = 1.0
    scale: float | Tensor = 1.0

    @property
    def samples(self) -> slice:
        """Positions of these samples in the batch."""
        return slice(self.start, self.start + self.target.shape[1])

    @property
    def is_soft(self) -> bool:
        """Whether targets are probabilities."""
        return self.target.is_floating_point()

    def losses(self, logits: Tensor) -> Tensor:
        """Loss of each of these samples, the mean over heads, from the logits of the batch: (R, B, U) -> (R, N)."""
        logits = logits[:, self.samples].unsqueeze(-2)
        if not is_one(self.temperature):
            logits = logits / per_replica(self.temperature, logits)
        if self.is_soft:
            loss = distillation_loss(logits, self.target, self.active_units, 1.0).mean(-1)
        else:
            loss = cross_entropy(logits.expand(*self.target.shape, -1), self.target, self.active_units).mean(-1)
        return loss if is_one(self.scale) else loss * per_replica(self.scale, loss)


def bernoulli_nll(logits: Tensor, x: Tensor) -> Tensor:
    """Binary cross-entropy of values in [0, 1], mean over values: (..., D), (..., D) -> (...)."""
    loss: Tensor = _BernoulliNLL.apply(logits, x)
    return loss


class _BernoulliNLL(torch.autograd.Function):
    """mean(softplus(l) - x l), with the derivative (sigmoid(l) - x) / D: faster than torch's own."""

    generate_vmap_rule = True

    @staticmethod
    def forward(logits: Tensor, x: Tensor) -> Tensor:
        return (sum_softplus(logits) - (logits * x).sum(-1)) / logits.shape[-1]

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, Tensor], output: Tensor) -> None:
        ctx.save_for_backward(*inputs)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        logits, x = ctx.saved_tensors
        scale = (gradient / logits.shape[-1]).unsqueeze(-1)
        p = logits.sigmoid()
        # A second derivative needs p as it is.
        return ((p - x) * scale if torch.is_grad_enabled() else p.sub_(x).mul_(scale)), None


def sum_softplus(x: Tensor) -> Tensor:
    """sum log(1 + e^x) over the last dimension, as sum max(x, 0) + log prod (1 + e^-|x|).

    A logarithm costs ten times as much as a product. The factors are at most 2, so up to 32 are multiplied first, while
    there are enough of them in a batch (B, D) to pay for the calls.
    """
    factors = x.abs().neg_().exp_().add_(1)
    for _ in range(5):
        half = factors.shape[-1] // 2
        if half == 0 or factors.shape[-2:].numel() <= _FEW_LOGARITHMS:
            break
        pairs = factors[..., :half] * factors[..., half : 2 * half]
        if factors.shape[-1] % 2:
            pairs[..., :1] *= factors[..., -1:]
        factors = pairs
    return factors.log_().sum(-1) + x.clamp(min=0).sum(-1)


def gaussian_nll(mean: Tensor, x: Tensor) -> Tensor:
    """Negative log-density under unit variance without its constant, mean over values: (..., D) -> (...)."""
    return 0.5 * (mean - x).square().mean(-1)


def kl_standard_normal(mean: Tensor, log_variance: Tensor) -> Tensor:
    """KL(N(mean, exp(log_variance)) || N(0, I)), summed over latent dimensions: (..., Z) -> (...)."""
    return 0.5 * (torch.addcmul(log_variance.exp() - log_variance, mean, mean).sum(-1) - mean.shape[-1])


def gaussian_log_density(x: Tensor, mean: Tensor, log_variance: Tensor) -> Tensor:
    """log N(x; mean, exp(log_variance)), summed over the last dimension: (..., Z) -> (...)."""
    squares = (x - mean).square() * (-log_variance).exp()
    return -0.5 * (squares + log_variance + _LOG_2PI).sum(-1)


def gaussian_log_densities(x: Tensor, means: Tensor, log_variances: Tensor) -> Tensor:
    """log N(x_b; mean_c, exp(log_variance_c)) of each sample and Gaussian: (..., B, Z), (..., C, Z) -> (..., B, C).

    The square is expanded, (x - m)^2 / v = x^2 / v - 2 x m / v + m^2 / v, so that sums over Z are matrix products.
    """
    with torch.autocast(x.device.type, enabled=False):
        precisions = (-log_variances).exp()
        scaled_means = means * precisions
        constants = (means * scaled_means + log_variances).sum(-1) + _LOG_2PI * x.shape[-1]  # (..., C)
        squares = x.square() @ precisions.mT - 2.0 * (x @ scaled_means.mT)
        return -0.5 * (squares + constants.unsqueeze(-2))


def weighted_sum(values: Tensor, weights: Tensor | None) -> Tensor:
    """Values per sample (..., B) to (...): their sum under `weights`, or their mean."""
    return values.mean(-1) if weights is None else torch.sum(values * weights, dim=-1)


def sum_tensors(tensors: Sequence[Tensor]) -> Tensor:
    """The sum of a nonempty sequence of tensors of one shape."""
    return sum(tensors[1:], start=tensors[0])
