"""Losses as pure functions: cross-entropy, distillation, likelihoods, Kullback-Leibler divergence.

Each reduces its last dimensions and returns one number per sample; leading axes (replicas) are kept.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

# Logit of inactive units. Finite, because 0 x -inf in a soft target would be NaN.
_INACTIVE_LOGIT = -1e9
_LOG_2PI = math.log(2.0 * math.pi)


def masked_log_softmax(logits: Tensor, active_units: Tensor) -> Tensor:
    """Log-probabilities over the active units: logits (..., U) and bool units, broadcast together."""
    return F.log_softmax(logits.masked_fill(~active_units, _INACTIVE_LOGIT), dim=-1)


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


def bernoulli_nll(logits: Tensor, x: Tensor) -> Tensor:
    """Binary cross-entropy of values in [0, 1], mean over values: (..., D), (..., D) -> (...)."""
    loss: Tensor = _BernoulliNLL.apply(logits, x)
    return loss


class _BernoulliNLL(torch.autograd.Function):
    """mean(softplus(l) - x l), with the derivative (sigmoid(l) - x) / D: faster than torch's own."""

    generate_vmap_rule = True

    @staticmethod
    def forward(logits: Tensor, x: Tensor) -> Tensor:
        return (_sum_softplus(logits) - (logits * x).sum(-1)) / logits.shape[-1]

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, Tensor], output: Tensor) -> None:
        ctx.save_for_backward(*inputs)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        logits, x = ctx.saved_tensors
        scale = (gradient / logits.shape[-1]).unsqueeze(-1)
        return logits.sigmoid().sub_(x).mul_(scale), None


def _sum_softplus(x: Tensor) -> Tensor:
    """sum log(1 + e^x) over the last dimension, as sum max(x, 0) + log prod (1 + e^-|x|).

    A logarithm costs ten times as much as a product. The factors are at most 2, so up to 32 are multiplied first.
    """
    factors = x.abs().neg_().exp_().add_(1)
    for _ in range(5):
        half = factors.shape[-1] // 2
        if half == 0:
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


def weighted_sum(values: Tensor, weights: Tensor | None) -> Tensor:
    """Values per sample (..., B) to (...): their sum under `weights`, or their mean."""
    return values.mean(-1) if weights is None else torch.sum(values * weights, dim=-1)


def sum_tensors(tensors: Sequence[Tensor]) -> Tensor:
    """The sum of a nonempty sequence of tensors of one shape."""
    return sum(tensors[1:], start=tensors[0])
