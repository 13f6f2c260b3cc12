"""Gaussians of several classes: densities, and noise with their covariances."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from gr_cli.nn.symmetric import cholesky

_MAX_CHUNK_VALUES = 1 << 20  # values in memory at a time


def precision_factor(covariance: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Lower Cholesky factor (d, d) of a covariance, the inverse of the factor, and the logarithm of its determinant."""
    factor = cholesky(covariance)
    inverse = torch.linalg.solve_triangular(factor, torch.eye(len(factor)).to(factor), upper=False)
    return factor, inverse, 2 * factor.diagonal().log().sum()


def scaled_noise(noise: Tensor, labels: Tensor, factors: Tensor) -> Tensor:
    """Standard normal noise (..., B, d) with the covariances of the classes `labels` (..., B); not for `vmap`.

    Args:
        noise: The noise.
        labels: Class of each sample.
        factors: Lower Cholesky factors (C, d, d) of the covariances of all classes.
    """
    scaled = torch.empty_like(noise)
    for label in labels.unique().tolist():
        of_class = labels == label
        scaled[of_class] = (noise[of_class] @ factors[label].T).to(noise.dtype)  # autocast may have lowered it
    return scaled


def log_densities(
    x: Tensor, classes: Tensor, means: Tensor, precision_factors: Tensor, log_determinants: Tensor
) -> Tensor:
    """Logarithms (B, K) of the densities of samples (B, d) under the Gaussians of `classes` (K,).

    Args:
        x: Samples.
        classes: The classes.
        means: Means of all classes (C, d).
        precision_factors: Inverses (C, d, d) of the lower Cholesky factors of their covariances.
        log_determinants: Of their covariances, (C,).
    """
    per_chunk = max(1, _MAX_CHUNK_VALUES // max(1, x.numel()))
    parts = []
    for chunk in classes.split(per_chunk):
        centred = x - means[chunk].unsqueeze(1)  # (K, B, d)
        white = centred @ precision_factors[chunk].mT
        constant = x.shape[-1] * math.log(2 * math.pi) + log_determinants[chunk].unsqueeze(1)
        parts.append(-0.5 * (white.square().sum(-1) + constant).T)
    return torch.cat(parts, -1)
