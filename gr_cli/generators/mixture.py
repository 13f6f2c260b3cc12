"""Gaussian mixtures per class: a generator in closed form."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from gr_cli.errors import DataError
from gr_cli.generators.base import GeneratorWithoutObjectives
from gr_cli.nn.principal_components import MAX_EXACT_SIZE, principal_components
from gr_cli.nn.random_streams import NoiseSpec
from gr_cli.nn.sample_spec import SampleSpec
from gr_cli.types import NonNegative, Positive, PositiveInt

_MIN_SAMPLES = 10  # of a component
_MAX_CLASSES_IN_ONE_BASIS = 32  # of a product with the bases of all classes; of more, each sample gets that of its own
_MAX_CHUNK_VALUES = 1 << 18  # values in memory at a time, for likelihoods: few enough to stay in cache
_TRIANGULAR = ("covariance_factors", "precision_factors")
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
        class_size: Largest number of samples of a class, which limits the components that memory is reserved for; None:
            unknown.
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
        class_size: PositiveInt | None = None,
    ) -> None:
        super().__init__()
        self.spec, self.num_classes, self.num_components = SampleSpec.coerce(spec), num_classes, num_components
        size, slots = self.spec.size, num_components  # K, the components that memory is reserved for
        if class_size is not None:
            slots = max(1, min(slots, class_size // _MIN_SAMPLES))
        self.latent_dim = min(latent_dim, size)
        self.pooled_samples, self.likelihood_noise = pooled_samples, likelihood_noise
        self._num_slots = slots
        self.register_buffer("learned_classes", torch.zeros(num_classes, dtype=torch.bool))
        for name, value in self._initial_values().items():
            self.register_buffer(name, value)

    def _initial_values(self) -> dict[str, Tensor]:
        """Buffers of classes that are not learned: standard normal coordinates around 0."""
        classes, slots, width, size = self.num_classes, self._num_slots, self.latent_dim, self.spec.size
        return {
            "class_means": torch.zeros(classes, size),
            "principal_axes": torch.zeros(classes, width, size),
            "component_weights": torch.full((classes, slots), 1.0 / slots),
            "component_means": torch.zeros(classes, slots, width),
            "covariance_factors": torch.eye(width).repeat(classes, slots, 1, 1),
            "precision_factors": torch.eye(width).repeat(classes, slots, 1, 1),
            "half_log_determinants": torch.zeros(classes, slots),
        }

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
        component = exceeded.sum(-1).clamp(max=self._num_slots - 1)
        z = (self.covariance_factors[labels, component] @ latent["z"].unsqueeze(-1)).squeeze(-1) + self.component_means[
            labels, component
        ]
        if self.num_classes <= _MAX_CLASSES_IN_ONE_BASIS:
            # One matrix product for all classes: a sample's coordinates are 0 in the bases of other classes.
            one_hot = F.one_hot(labels, self.num_classes).to(z.dtype)
            coordinates = (one_hot.unsqueeze(-1) * z.unsqueeze(-2)).flatten(-2)
            x = coordinates @ self.principal_axes.flatten(0, 1) + one_hot @ self.class_means
        else:
            x = (z.unsqueeze(-2) @ self.principal_axes[labels]).squeeze(-2) + self.class_means[labels]
        return self.spec.nearest_valid(x).view(*x.shape[:-1], *self.spec.shape)

    # --- fitting

    @torch.no_grad()
    def fit_class(self, x: Tensor, label: int, stream: torch.Generator) -> None:
        if len(x) < _MIN_SAMPLES:
            raise DataError(
                f"generator=mixture: class {label} has {len(x)} samples, and needs {_MIN_SAMPLES}, because a "
                "mixture of fewer would store the samples themselves; try generator=class_vae"
            )
        flat = x.flatten(1)
        varying = _varying_values(flat, self.latent_dim)
        mean = flat[0].to(torch.float64, copy=True)
        flat = flat.index_select(1, varying).double()  # (N, V)
        mean[varying] = flat.mean(0)
        flat -= mean[varying]
        # The sign of an eigenvector is arbitrary: make its largest entry positive, on every machine.
        directions = principal_components(flat, self.latent_dim, stream)  # (d, V)
        largest = directions.gather(1, directions.abs().argmax(1, keepdim=True))
        directions = directions * largest.sign()
        z = flat @ directions.T
        basis = z.new_zeros(self.latent_dim, len(mean))
        basis[:, varying] = directions
        clusters = min(self._num_slots, len(z) // _MIN_SAMPLES)
        share, centre, root = _component_parameters(
            z, _k_means(z, clusters, stream), self._num_slots, self.pooled_samples
        )
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

    @torch.no_grad()
    def forget_classes(self, classes: Tensor) -> None:
        for name, value in self._initial_values().items():
            buffer = getattr(self, name)
            buffer[classes] = value.to(buffer)[classes.to(value.device)]
        self.learned_classes &= ~classes

    # --- likelihoods

    def log_likelihoods(self, x: Tensor) -> Tensor:
        """log p(x + noise | class) of samples (B, ...): (B, C)."""
        flat, classes = x.flatten(-len(self.spec.shape)), torch.arange(self.num_classes, device=x.device)
        components = torch.arange(self._num_slots, device=x.device).expand(self.num_classes, -1)
        chunks = classes.split(self._classes_per_chunk(len(flat), self._num_slots))
        with torch.autocast(x.device.type, enabled=False):  # differences of large numbers
            values = [self._of_classes(flat, chunk, components[: len(chunk)]) for chunk in chunks]
        return torch.cat(values, -1)

    @torch.no_grad()
    def class_log_likelihoods(self, x: Tensor, classes: Tensor) -> Tensor:
        # Components of weight 0 are left out: k-means dissolved their clusters, or there are too few samples.
        flat, weights = x.flatten(-len(self.spec.shape)), self.component_weights[classes]
        num_used = (weights > 0).sum(1)
        components = (weights == 0).to(torch.uint8).argsort(dim=1, stable=True)  # used ones first
        result = flat.new_empty(len(flat), len(classes))
        with torch.autocast(x.device.type, enabled=False):
            for number in num_used.unique().tolist():
                columns = (num_used == number).nonzero().squeeze(1)
                for chunk in columns.split(self._classes_per_chunk(len(flat), number)):
                    result[:, chunk] = self._of_classes(flat, classes[chunk], components[chunk, :number])
        return result

    def _classes_per_chunk(self, num_samples: int, num_components: int) -> int:
        """Number of classes for which `_of_classes` needs little memory."""
        values = max(num_components * self.latent_dim, self.class_means.shape[-1])
        return max(1, _MAX_CHUNK_VALUES // max(1, num_samples * values))

    def _of_classes(self, flat: Tensor, classes: Tensor, components: Tensor) -> Tensor:
        """The log-likelihoods (B, C) of flat samples (B, D) in `classes` (C,) with `components` (C, k) of each."""
        rows = classes.unsqueeze(1), components
        # Outside the principal components the variance is that of the noise alone.
        outside = flat.shape[-1] - self.latent_dim
        constant = 0.5 * flat.shape[-1] * math.log(2 * math.pi) + outside * math.log(self.likelihood_noise)
        centred = flat - self.class_means[classes].unsqueeze(1)  # (C, B, D)
        z = centred @ self.principal_axes[classes].mT  # (C, B, d)
        residual = (centred.square().sum(-1) - z.square().sum(-1)) / self.likelihood_noise**2  # (C, B)
        precision = self.precision_factors[rows]  # (C, k, d, d)
        white_centre = precision @ self.component_means[rows].unsqueeze(-1)  # (C, k, d, 1)
        white = torch.baddbmm(-white_centre.flatten(1).unsqueeze(1), z, precision.flatten(1, 2).mT)  # (C, B, k d)
        distances = white.unflatten(-1, (components.shape[1], -1)).square().sum(-1)  # (C, B, k)
        log_factors = self.component_weights[rows].log() + self.half_log_determinants[rows]
        log_densities = torch.logsumexp(log_factors.unsqueeze(1) - 0.5 * distances, -1)
        return (log_densities - 0.5 * residual - constant).mT

    # --- for the checkpoint

    def compact_state(self, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
        # Of a thousand classes, those that are not learned would be most of every checkpoint but the last.
        classes = state["learned_classes"].nonzero().squeeze(1)
        rows, columns = torch.tril_indices(self.latent_dim, self.latent_dim)
        compact = {name: value[classes] for name, value in state.items() if name != "learned_classes"}
        compact |= {name: compact[name][..., rows, columns] for name in _TRIANGULAR}
        return compact | {"learned_classes": state["learned_classes"]}

    def expand_state(self, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
        classes = state["learned_classes"].nonzero().squeeze(1)
        rows, columns = torch.tril_indices(self.latent_dim, self.latent_dim)
        expanded = {name: value.to(state[name]) for name, value in self._initial_values().items()}
        for name, value in expanded.items():
            if name in _TRIANGULAR:
                matrices = value.new_zeros(*state[name].shape[:-1], self.latent_dim, self.latent_dim)
                matrices[..., rows, columns] = state[name]
                value[classes] = matrices
            else:
                value[classes] = state[name]
        return expanded | {"learned_classes": state["learned_classes"]}


def _varying_values(flat: Tensor, number: int) -> Tensor:
    """Positions (V,) in samples `flat` (N, D) of the values that the first `number` principal components can depend on.

    Those that differ between samples: an image's border has no covariance. All where components are not computed
    exactly, or where there are fewer.
    """
    size = flat.shape[1]
    positions = (flat != flat[0]).any(0).nonzero().squeeze(1)
    return positions if number <= len(positions) and size <= MAX_EXACT_SIZE else torch.arange(size).to(positions)


def _component_parameters(
    z: Tensor, assignment: Tensor, components: int, pooled: float
) -> tuple[Tensor, Tensor, Tensor]:
    """Weights (K,), means (K, d) and Cholesky factors of covariances (K, d, d) of a mixture.

    Args:
        z: Samples (N, d).
        assignment: Component of each sample, (N,).
        components: Number of components K.
        pooled: Strength of the shrinkage towards the common covariance, in samples.
    """
    counts = assignment.bincount(minlength=components)  # (K,)
    centre, scatter = z.new_zeros(components, z.shape[1]), z.new_zeros(components, z.shape[1], z.shape[1])
    for component, rows in enumerate(assignment.argsort(stable=True).split(counts.tolist())):
        if len(rows):
            members = z[rows]
            centre[component] = members.mean(0)
            members = members - centre[component]
            scatter[component] = members.T @ members
    common_covariance = scatter.sum(0) / len(z)
    total = (counts.to(z) + pooled).clamp(min=1e-9).view(-1, 1, 1)
    covariance = (scatter + pooled * common_covariance) / total + _MIN_DEVIATION**2 * torch.eye(z.shape[1]).to(z)
    return counts.to(z) / len(z), centre, torch.linalg.cholesky(covariance)


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
