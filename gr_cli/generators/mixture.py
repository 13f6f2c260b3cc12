"""Gaussian mixtures per class: a generator in closed form."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from gr_cli.errors import DataError
from gr_cli.generators.base import GeneratorWithoutObjectives
from gr_cli.nn.random_streams import NoiseSpec
from gr_cli.nn.sample_spec import SampleSpec
from gr_cli.types import NonNegative, Positive, PositiveInt

_MIN_SAMPLES = 10  # of a component
_MAX_EXACT_PCA_SIZE = 1024  # values of a sample; above, only the first principal components are computed
_OVERSAMPLING, _POWER_ITERATIONS = 10, 5  # of randomized subspace iteration
_MIN_DEVIATION = 1e-4  # smallest standard deviation, in units of the data


class GaussianMixture(GeneratorWithoutObjectives):
    """One Gaussian mixture per class, in the principal components of the class; fitted in closed form.

    All samples of a class are projected to their principal components and clustered by k-means. Each cluster is one
    Gaussian with a full covariance, shrunk towards the covariance within all clusters. A learned class never changes,
    so nothing is forgotten and nothing is trained by gradient steps. A component has at least ten samples, so that none
    of them stores a single training sample.

    Likelihoods are those of samples with Gaussian noise added, which makes them comparable between classes: a class
    with little variance in some direction would otherwise decide by differences in that direction alone.

    Args:
        spec: Shape and value range of a sample, or the shape alone for values in [0, 1]. Samples are flattened inside.
        num_classes: Number of classes; labels are 0 to `num_classes` - 1.
        num_components: Gaussians per class; fewer if a class has less than ten samples for each.
        latent_dim: Number of principal components; at most the number of values of a sample.
        pooled_samples: Strength of the shrinkage: the covariance within all clusters counts like this number of samples
            more in each.
        likelihood_noise: Standard deviation of the noise added for likelihoods, in units of the data.
    """

    conditional = True
    class_likelihood = "exact"
    class_means: Tensor  # (C, D)
    principal_axes: Tensor  # (C, d, D), orthonormal rows
    component_weights: Tensor  # (C, K)
    component_means: Tensor  # (C, K, d)
    covariance_factors: Tensor  # (C, K, d, d), lower Cholesky factors
    precision_factors: Tensor  # (C, K, d, d), inverse Cholesky factors of the covariances with noise added
    half_log_determinants: Tensor  # (C, K), of these precisions

    def __init__(
        self,
        spec: SampleSpec | Sequence[PositiveInt] = (784,),
        num_classes: PositiveInt = 10,
        num_components: PositiveInt = 40,
        latent_dim: PositiveInt = 60,
        pooled_samples: NonNegative = 1.0,
        likelihood_noise: Positive = 0.3,
    ) -> None:
        super().__init__()
        self.spec, self.num_classes, self.num_components = SampleSpec.coerce(spec), num_classes, num_components
        size = self.spec.size
        self.latent_dim = width = min(latent_dim, size)
        self.pooled_samples, self.likelihood_noise = pooled_samples, likelihood_noise
        self.register_buffer("learned_classes", torch.zeros(num_classes, dtype=torch.bool))
        self.register_buffer("class_means", torch.zeros(num_classes, size))
        self.register_buffer("principal_axes", torch.zeros(num_classes, width, size))
        self.register_buffer("component_weights", torch.full((num_classes, num_components), 1.0 / num_components))
        self.register_buffer("component_means", torch.zeros(num_classes, num_components, width))
        self.register_buffer("covariance_factors", torch.eye(width).repeat(num_classes, num_components, 1, 1))
        self.register_buffer("precision_factors", torch.eye(width).repeat(num_classes, num_components, 1, 1))
        self.register_buffer("half_log_determinants", torch.zeros(num_classes, num_components))

    @property
    def num_stored_values(self) -> int:
        """Number of values that describe the mixtures of all classes."""
        width, size = self.latent_dim, self.class_means.shape[1]
        component = 1 + width + width * (width + 1) // 2
        return self.num_classes * (size * (1 + width) + self.num_components * component)

    def latent_noise(self, num_samples: int) -> dict[str, NoiseSpec]:
        return {
            "component": NoiseSpec("uniform", (num_samples,)),
            "z": NoiseSpec("normal", (num_samples, self.latent_dim)),
        }

    def decode(self, latent: Mapping[str, Tensor], labels: Tensor | None = None) -> Tensor:
        if labels is None:
            raise ValueError("there is a mixture for each class: labels are needed")
        exceeded = latent["component"].unsqueeze(-1) >= self.component_weights.cumsum(-1)[labels]
        component = exceeded.sum(-1).clamp(max=self.num_components - 1)
        z = (self.covariance_factors[labels, component] @ latent["z"].unsqueeze(-1)).squeeze(-1) + self.component_means[
            labels, component
        ]
        # One matrix product for all classes: a sample's coordinates are 0 in the bases of other classes.
        one_hot = F.one_hot(labels, self.num_classes).to(z.dtype)
        x = (one_hot.unsqueeze(-1) * z.unsqueeze(-2)).flatten(-2) @ self.principal_axes.flatten(
            0, 1
        ) + one_hot @ self.class_means
        return self.spec.nearest_valid(x).view(*x.shape[:-1], *self.spec.shape)

    # --- fitting

    @torch.no_grad()
    def fit_class(self, x: Tensor, label: int, stream: torch.Generator) -> None:
        if len(x) < _MIN_SAMPLES:
            raise DataError(
                f"generator=mixture: class {label} has {len(x)} samples, and needs {_MIN_SAMPLES}, because a "
                "mixture of fewer would store the samples themselves; try generator=class_vae"
            )
        flat = x.flatten(1).double()
        mean = flat.mean(0)
        flat = flat - mean
        # The sign of an eigenvector is arbitrary: make its largest entry positive, on every machine.
        basis = _principal_components(flat, self.latent_dim, stream)  # (d, D)
        largest = basis.gather(1, basis.abs().argmax(1, keepdim=True))
        basis = basis * largest.sign()
        z = flat @ basis.T
        clusters = min(self.num_components, len(z) // _MIN_SAMPLES)
        member = F.one_hot(_k_means(z, clusters, stream), self.num_components).to(z.dtype)  # (N, K)
        share, centre, root = _component_parameters(z, member, self.pooled_samples)
        identity = torch.eye(self.latent_dim).to(z)
        noisy = torch.linalg.cholesky(root @ root.mT + self.likelihood_noise**2 * identity)
        white = torch.linalg.solve_triangular(noisy, identity.expand_as(noisy), upper=False)
        log_size = -noisy.diagonal(dim1=-2, dim2=-1).log().sum(-1)
        buffers = {
            "class_means": mean,
            "principal_axes": basis,
            "component_weights": share,
            "component_means": centre,
            "covariance_factors": root,
            "precision_factors": white,
            "half_log_determinants": log_size,
        }
        for name, value in buffers.items():
            getattr(self, name)[label].copy_(value)
        self.learned_classes[label] = True

    def log_likelihoods(self, x: Tensor) -> Tensor:
        """log p(x + noise | class) of samples (B, ...): (B, C)."""
        with torch.autocast(x.device.type, enabled=False):  # differences of large numbers
            return self._log_likelihoods(x.flatten(-len(self.spec.shape)))

    def _log_likelihoods(self, flat: Tensor) -> Tensor:
        # Outside the principal components the variance is that of the noise alone.
        outside = flat.shape[-1] - self.latent_dim
        constant = 0.5 * flat.shape[-1] * math.log(2 * math.pi) + outside * math.log(self.likelihood_noise)
        log_likelihoods = []
        for label in range(self.num_classes):
            centred = flat - self.class_means[label]
            z = centred @ self.principal_axes[label].T
            residual = (centred.square().sum(-1) - z.square().sum(-1)) / self.likelihood_noise**2
            white_centre = (self.precision_factors[label] @ self.component_means[label].unsqueeze(-1)).flatten()
            white = (z @ self.precision_factors[label].flatten(0, 1).T - white_centre).unflatten(
                -1, (self.num_components, -1)
            )
            of_components = (
                self.component_weights[label].log() + self.half_log_determinants[label] - 0.5 * white.square().sum(-1)
            )
            log_likelihoods.append(torch.logsumexp(of_components, -1) - 0.5 * residual - constant)
        return torch.stack(log_likelihoods, -1)


def _principal_components(flat: Tensor, number: int, stream: torch.Generator) -> Tensor:
    """The first `number` principal components of centred samples `flat` (N, D), as orthonormal rows (number, D)."""
    size = flat.shape[1]
    if size <= _MAX_EXACT_PCA_SIZE:
        eigenvectors: Tensor = torch.linalg.eigh(flat.T @ flat / len(flat))[1]
        return eigenvectors.flip(1)[:, :number].T
    # Randomized subspace iteration (Halko et al. 2011, algorithm 4.4): all components would take minutes and gigabytes.
    start = torch.randn(
        size, min(size, number + _OVERSAMPLING), generator=stream, device=stream.device, dtype=torch.float32
    )
    subspace = torch.linalg.qr(start.to(flat))[0]
    for _ in range(_POWER_ITERATIONS):
        subspace = torch.linalg.qr(flat.T @ (flat @ subspace))[0]
    projected = flat @ subspace
    rotation: Tensor = torch.linalg.eigh(projected.T @ projected / len(flat))[1]
    principal_axes: Tensor = subspace @ rotation.flip(1)[:, :number]
    return principal_axes.T


def _component_parameters(z: Tensor, member: Tensor, pooled: float) -> tuple[Tensor, Tensor, Tensor]:
    """Weights (K,), means (K, d) and Cholesky factors of covariances (K, d, d) of a mixture.

    Args:
        z: Samples (N, d).
        member: One-hot assignment (N, K) of samples to components.
        pooled: Strength of the shrinkage towards the common covariance, in samples.
    """
    count = member.sum(0)  # (K,)
    centre = (member.T @ z) / count.clamp(min=1e-9).unsqueeze(1)
    scatter = torch.stack(
        [(weight.unsqueeze(1) * (z - mean)).T @ (z - mean) for weight, mean in zip(member.T, centre, strict=True)]
    )
    common_covariance = scatter.sum(0) / len(z)
    total = (count + pooled).clamp(min=1e-9).view(-1, 1, 1)
    covariance = (scatter + pooled * common_covariance) / total + _MIN_DEVIATION**2 * torch.eye(z.shape[1]).to(z)
    return count / len(z), centre, torch.linalg.cholesky(covariance)


def _k_means(z: Tensor, clusters: int, stream: torch.Generator, iterations: int = 15) -> Tensor:
    """The cluster (N,) of each of z (N, d) by k-means; clusters below the smallest allowed size are dissolved."""
    initial = torch.randperm(len(z), generator=stream, device=stream.device)[:clusters].to(z.device)
    centre = z[initial]
    for _ in range(iterations):
        nearest = _nearest(z, centre)
        count = torch.bincount(nearest, minlength=clusters)
        sums = torch.zeros_like(centre).index_add_(0, nearest, z)
        # The centre of an empty cluster does not move.
        centre = torch.where(count.unsqueeze(1) > 0, sums / count.clamp(min=1).unsqueeze(1), centre)
    small = torch.bincount(_nearest(z, centre), minlength=clusters) < _MIN_SAMPLES
    # Samples of a small cluster go to the nearest large one. There is one: the mean size is large enough.
    return _distances(z, centre).masked_fill(small, torch.inf).argmin(1)


def _nearest(z: Tensor, centre: Tensor) -> Tensor:
    return _distances(z, centre).argmin(1)


def _distances(z: Tensor, centre: Tensor) -> Tensor:
    """Squared distances (N, K) of z (N, d) to centres (K, d), less the term |z|^2 common to all centres."""
    return centre.square().sum(1) - 2 * z @ centre.T
