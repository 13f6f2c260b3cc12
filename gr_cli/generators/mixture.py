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

_MIN_SAMPLES = 10  # samples of a component
_MAX_EXACT_PCA_SIZE = 1024  # values of a sample, beyond which principal components are not all computed
_OVERSAMPLING, _POWER_ITERATIONS = 10, 5
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
    mean: Tensor
    basis: Tensor
    share: Tensor
    centre: Tensor
    root: Tensor
    white: Tensor
    log_size: Tensor

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
        self.latent_dim, self.pooled_samples, self.likelihood_noise = (
            min(latent_dim, size),
            pooled_samples,
            likelihood_noise,
        )
        width = self.latent_dim
        self.register_buffer("learned_classes", torch.zeros(num_classes, dtype=torch.bool))
        self.register_buffer("mean", torch.zeros(num_classes, size))
        self.register_buffer("basis", torch.zeros(num_classes, width, size))  # orthonormal rows
        self.register_buffer("share", torch.full((num_classes, num_components), 1.0 / num_components))
        self.register_buffer("centre", torch.zeros(num_classes, num_components, width))
        self.register_buffer("root", torch.eye(width).repeat(num_classes, num_components, 1, 1))  # lower triangular
        # The inverse root of each covariance with the noise added, and the logarithm of what that integrates to.
        self.register_buffer("white", torch.eye(width).repeat(num_classes, num_components, 1, 1))
        self.register_buffer("log_size", torch.zeros(num_classes, num_components))

    @property
    def num_stored_values(self) -> int:
        """Number of values that describe the mixtures of all classes."""
        width, size = self.latent_dim, self.mean.shape[1]
        component = 1 + width + width * (width + 1) // 2
        return self.num_classes * (size * (1 + width) + self.num_components * component)

    def latent_noise(self, num_samples: int) -> dict[str, NoiseSpec]:
        return {
            "component": NoiseSpec("uniform", (num_samples,)),
            "z": NoiseSpec("normal", (num_samples, self.latent_dim)),
        }

    def decode(self, latent: Mapping[str, Tensor], labels: Tensor | None = None) -> Tensor:
        if labels is None:
            raise ValueError("these mixtures are of one class each: labels are needed")
        passed = latent["component"].unsqueeze(-1) >= self.share.cumsum(-1)[labels]
        which = passed.sum(-1).clamp(max=self.num_components - 1)
        z = (self.root[labels, which] @ latent["z"].unsqueeze(-1)).squeeze(-1) + self.centre[labels, which]
        # One product for all classes: each sample has coordinates in the basis of its own class only.
        asked = F.one_hot(labels, self.num_classes).to(z.dtype)
        x = (asked.unsqueeze(-1) * z.unsqueeze(-2)).flatten(-2) @ self.basis.flatten(0, 1) + asked @ self.mean
        return self.spec.nearest_valid(x).view(*x.shape[:-1], *self.spec.shape)

    # --- fitting

    @torch.no_grad()
    def fit_class(self, x: Tensor, label: int, stream: torch.Generator) -> None:
        if len(x) < _MIN_SAMPLES:
            raise DataError(
                f"generator=mixture: class {label} has {len(x)} samples, and takes {_MIN_SAMPLES}: "
                "one of fewer would be "
                "the samples themselves; try generator=class_vae"
            )
        flat = x.flatten(1).double()
        mean = flat.mean(0)
        flat = flat - mean
        # The sign of an eigenvector is arbitrary; its largest entry shall be positive, on every machine.
        basis = _principal_components(flat, self.latent_dim, stream)  # (d, D)
        largest = basis.gather(1, basis.abs().argmax(1, keepdim=True))
        basis = basis * largest.sign()
        z = flat @ basis.T
        clusters = min(self.num_components, len(z) // _MIN_SAMPLES)
        member = F.one_hot(_k_means(z, clusters, stream), self.num_components).to(z.dtype)  # (N, K)
        share, centre, root = _component_parameters(z, member, self.pooled_samples)
        one = torch.eye(self.latent_dim).to(z)
        noisy = torch.linalg.cholesky(root @ root.mT + self.likelihood_noise**2 * one)
        white = torch.linalg.solve_triangular(noisy, one.expand_as(noisy), upper=False)
        log_size = -noisy.diagonal(dim1=-2, dim2=-1).log().sum(-1)
        found = {
            "mean": mean,
            "basis": basis,
            "share": share,
            "centre": centre,
            "root": root,
            "white": white,
            "log_size": log_size,
        }
        for name, value in found.items():
            getattr(self, name)[label].copy_(value)
        self.learned_classes[label] = True

    def log_likelihoods(self, x: Tensor) -> Tensor:
        """log p(x + noise | class) of samples (B, ...): (B, C)."""
        with torch.autocast(x.device.type, enabled=False):  # differences of large numbers
            return self._log_likelihoods(x.flatten(-len(self.spec.shape)))

    def _log_likelihoods(self, flat: Tensor) -> Tensor:
        # Beyond the principal components there is nothing but the noise.
        outside = flat.shape[-1] - self.latent_dim
        constant = 0.5 * flat.shape[-1] * math.log(2 * math.pi) + outside * math.log(self.likelihood_noise)
        found = []
        for label in range(self.num_classes):
            away = flat - self.mean[label]
            z = away @ self.basis[label].T
            rest = (away.square().sum(-1) - z.square().sum(-1)) / self.likelihood_noise**2
            shifted = (self.white[label] @ self.centre[label].unsqueeze(-1)).flatten()
            white = (z @ self.white[label].flatten(0, 1).T - shifted).unflatten(-1, (self.num_components, -1))
            inside = self.share[label].log() + self.log_size[label] - 0.5 * white.square().sum(-1)
            found.append(torch.logsumexp(inside, -1) - 0.5 * rest - constant)
        return torch.stack(found, -1)


def _principal_components(flat: Tensor, number: int, stream: torch.Generator) -> Tensor:
    """The first `number` principal components of centred samples `flat` (N, D), as orthonormal rows (number, D)."""
    size = flat.shape[1]
    if size <= _MAX_EXACT_PCA_SIZE:
        every: Tensor = torch.linalg.eigh(flat.T @ flat / len(flat))[1]
        return every.flip(1)[:, :number].T
    # All of them would take minutes and gigabytes. A few more than needed are enough to find the first ones by turns of
    # multiplication (Halko et al. 2011, algorithm 4.4).
    start = torch.randn(
        size, min(size, number + _OVERSAMPLING), generator=stream, device=stream.device, dtype=torch.float32
    )
    found = torch.linalg.qr(start.to(flat))[0]
    for _ in range(_POWER_ITERATIONS):
        found = torch.linalg.qr(flat.T @ (flat @ found))[0]
    inside = flat @ found
    turn: Tensor = torch.linalg.eigh(inside.T @ inside / len(flat))[1]
    basis: Tensor = found @ turn.flip(1)[:, :number]
    return basis.T


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
        [(weight.unsqueeze(1) * (z - m)).T @ (z - m) for weight, m in zip(member.T, centre, strict=True)]
    )
    common = scatter.sum(0) / len(z)
    total = (count + pooled).clamp(min=1e-9).view(-1, 1, 1)
    covariance = (scatter + pooled * common) / total + _MIN_DEVIATION**2 * torch.eye(z.shape[1]).to(z)
    return count / len(z), centre, torch.linalg.cholesky(covariance)


def _k_means(z: Tensor, clusters: int, stream: torch.Generator, iterations: int = 15) -> Tensor:
    """The cluster (N,) of each of z (N, d) by k-means; clusters below the smallest allowed size are dissolved."""
    chosen = torch.randperm(len(z), generator=stream, device=stream.device)[:clusters].to(z.device)
    centre = z[chosen]
    for _ in range(iterations):
        nearest = _nearest(z, centre)
        count = torch.bincount(nearest, minlength=clusters)
        sums = torch.zeros_like(centre).index_add_(0, nearest, z)
        # A cluster that lost all its samples stays where it is.
        centre = torch.where(count.unsqueeze(1) > 0, sums / count.clamp(min=1).unsqueeze(1), centre)
    small = torch.bincount(_nearest(z, centre), minlength=clusters) < _MIN_SAMPLES
    # Those of a small cluster go to the nearest large one; there is one, for on average they are large enough.
    return _distances(z, centre).masked_fill(small, torch.inf).argmin(1)


def _nearest(z: Tensor, centre: Tensor) -> Tensor:
    return _distances(z, centre).argmin(1)


def _distances(z: Tensor, centre: Tensor) -> Tensor:
    """Squared distances (N, K) of z (N, d) to centres (K, d), less the term |z|^2 common to all centres."""
    return centre.square().sum(1) - 2 * z @ centre.T
