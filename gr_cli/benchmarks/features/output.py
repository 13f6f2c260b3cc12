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


class FeatureScaling(nn.Module):
    """Scales each feature (B, F) by a mean and a factor.

    Args:
        fitted: Tensors of `fit_scaling`.
    """

    mean: Tensor  # (F,)
    factor: Tensor  # (F,)

    def __init__(self, fitted: Tensors) -> None:
        super().__init__()
        self.register_buffer("mean", fitted["mean"])
        self.register_buffer("factor", fitted["factor"])

    def forward(self, features: Tensor) -> Tensor:
        return (features - self.mean) * self.factor


def fit_scaling(features: Tensor) -> Tensors:
    """`mean` and `factor` (F,) that scale features (N, F) to mean 0 and variance 1; to 0 where they are constant."""
    deviation, mean = torch.std_mean(features, 0, correction=0)
    # Features are sums of many products, so rounding leaves a constant one a small deviation.
    constant = deviation <= 1e-6 * mean.abs()
    return {"mean": mean, "factor": torch.where(constant, 0.0, 1 / deviation.masked_fill(constant, 1))}


class PrincipalComponents:
    """Principal components of vectors, fitted on some of them and scaled together to a mean variance of 1 there.

    Args:
        vectors: Vectors (N, F).
        number: Number of components.

    Raises:
        ConfigError: There are fewer features or vectors than components.
    """

    def __init__(self, vectors: Tensor, number: int) -> None:
        if number > min(vectors.shape):
            raise ConfigError(
                "benchmark.features.components",
                number,
                f"exceeds the {vectors.shape[1]:,} features or the {len(vectors):,} training samples of the first task",
                f"{min(vectors.shape):,} at most",
            )
        self.mean = vectors.mean(0)
        centred = vectors - self.mean
        with seeded(0):
            _, values, axes = torch.svd_lowrank(
                centred, q=min(number + _OVERSAMPLING, *centred.shape), niter=_POWER_ITERATIONS
            )
        deviation = values[:number].square().mean().sqrt() / len(vectors) ** 0.5
        self.axes = axes[:, :number] / deviation  # (F, D)

    def __call__(self, vectors: Tensor) -> Tensor:
        """The components (B, D) of vectors (B, F)."""
        components: Tensor = (vectors - self.mean) @ self.axes
        return components
