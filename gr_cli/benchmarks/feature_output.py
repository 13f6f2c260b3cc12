"""Scaling and principal components of features, fitted on the first task."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gr_cli.errors import ConfigError
from gr_cli.nn.random_streams import seeded
from gr_cli.system.cache import Tensors

_OVERSAMPLING, _POWER_ITERATIONS = 20, 2  # of the randomized decomposition (Halko et al. 2011)


class VectorNormalization(nn.Module):
    """Scales each vector (B, F) to mean 0 and variance 1."""

    def forward(self, vectors: Tensor) -> Tensor:
        return F.layer_norm(vectors, vectors.shape[1:])


class FittedOutput(nn.Module):
    """Standardised features (B, F), or their principal components (B, D), with mean and scale of the first task.

    Args:
        fitted: Tensors of `fit_output`.
    """

    mean: Tensor  # (F,)
    scale: Tensor  # (F,)
    axes: Tensor | None  # (F, D)

    def __init__(self, fitted: Tensors) -> None:
        super().__init__()
        self.register_buffer("mean", fitted["mean"])
        self.register_buffer("scale", fitted["scale"])
        self.register_buffer("axes", fitted.get("axes"))

    def forward(self, features: Tensor) -> Tensor:
        scaled = (features - self.mean) * self.scale
        return scaled if self.axes is None else scaled @ self.axes


def fit_output(features: Tensor, standardise: bool, components: int | None) -> Tensors:
    """Fit the output of a feature extractor.

    Args:
        features: Features of the training samples of the first task, (N, F).
        standardise: Whether each value is scaled to variance 1. A value that is constant in the first task is left out.
        components: Number of principal components, scaled together to a mean variance of 1; None: all features.

    Returns:
        `mean` and `scale` (F,), and `axes` (F, D) of the principal components.

    Raises:
        ConfigError: There are fewer features or samples than components.
    """
    mean = features.mean(0)
    scale = torch.ones_like(mean)
    if standardise:
        deviation = features.std(0, correction=0)
        # Features are sums of many products, so rounding leaves a constant one a small deviation.
        constant = deviation <= 1e-6 * mean.abs()
        scale = torch.where(constant, 0.0, 1 / deviation.masked_fill(constant, 1))
    if components is None:
        return {"mean": mean, "scale": scale}
    if components > min(features.shape):
        raise ConfigError(
            "benchmark.features.components",
            components,
            f"exceeds the {features.shape[1]:,} features or the {features.shape[0]:,} training samples of "
            "the first task",
            f"{min(features.shape):,} at most",
        )
    centred = (features - mean) * scale
    with seeded(0):
        _, values, axes = torch.svd_lowrank(
            centred, q=min(components + _OVERSAMPLING, *centred.shape), niter=_POWER_ITERATIONS
        )
    deviation = values[:components].square().mean().sqrt() / len(centred) ** 0.5
    return {"mean": mean, "scale": scale, "axes": axes[:, :components] / deviation}
