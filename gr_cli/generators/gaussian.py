"""A Gaussian per class, from sums over samples: a generator in closed form."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor

from gr_cli.errors import DataError
from gr_cli.generators.base import GeneratorWithoutObjectives
from gr_cli.nn.class_gaussians import log_densities, precision_factor, scaled_noise
from gr_cli.nn.class_sums import class_sums
from gr_cli.nn.principal_components import principal_components
from gr_cli.nn.random_streams import NoiseSpec
from gr_cli.nn.sample_spec import SampleSpec
from gr_cli.nn.shared_fit import SharedFit
from gr_cli.nn.symmetric import packed_size, unpack
from gr_cli.types import NonNegative, PositiveInt, UnitInterval

_SMALLEST_VARIANCE = 1e-12
_STATISTICS = ("counts", "sums", "moments")  # by class
_BASIS = ("centre", "principal_axes")
_DERIVED = ("class_means", "covariance_factors", "precision_factors", "log_determinants")  # from the statistics


class ClassGaussian(GeneratorWithoutObjectives):
    """A Gaussian per class, with a covariance shrunk towards that within all classes; in closed form.

    Class c has the covariance (1 - s) S_c + s S + r v I, where S_c is that of its samples, S that within all classes so
    far and v the mean variance in S. Counts, sums and second moments of each class are kept in float64, and classes
    that are forgotten leave the Gaussians of a stream without them. The Gaussians are those of samples in the first
    principal components of the first task, in which likelihoods are exact; what lies outside is the same for all
    classes, and zero in generated samples.

    Args:
        spec: Shape and value range of a sample, or the shape alone for values in [0, 1]. Samples are flattened inside.
        num_classes: Number of classes; labels are 0 to `num_classes` - 1.
        pooled_share: Share s of the covariance within all classes. 1: linear discriminant analysis.
        latent_dim: Number of principal components of the first task; None, or more than a sample has values: all
            values as they are, and nothing is fitted on the first task.
        shrinkage: Variance r added in all directions, relative to the mean variance.
    """

    conditional = True
    supports_vmap = False  # samples of a class are drawn together
    class_likelihood = "exact"
    classes_are_independent = False  # the pooled covariance changes with each class
    class_means: Tensor  # (C, d)
    covariance_factors: Tensor  # (C, d, d), lower Cholesky factors
    precision_factors: Tensor  # (C, d, d), their inverses
    log_determinants: Tensor  # (C,), of the covariances
    counts: Tensor  # (C,), as are all that follow in float64
    sums: Tensor  # (C, d)
    moments: Tensor  # (C, P), packed
    centre: Tensor  # (D,), mean of the first task; () without principal components
    principal_axes: Tensor  # (d, D), orthonormal rows; () without

    def __init__(
        self,
        spec: SampleSpec | Sequence[PositiveInt] = (784,),
        num_classes: PositiveInt = 10,
        pooled_share: UnitInterval = 0.7,
        latent_dim: PositiveInt | None = 256,
        shrinkage: NonNegative = 0.001,
    ) -> None:
        super().__init__()
        self.spec, self.num_classes = SampleSpec.coerce(spec), num_classes
        size = self.spec.size
        self.has_components = latent_dim is not None and latent_dim < size
        self.latent_dim = latent_dim if latent_dim is not None and latent_dim < size else size
        self.pooled_share, self.shrinkage = pooled_share, shrinkage
        self.register_buffer("learned_classes", torch.zeros(num_classes, dtype=torch.bool))
        initial = self._initial_statistics()
        for name, value in (self._derived(initial) | initial | self._initial_basis()).items():
            self.register_buffer(name, value.float() if name in _DERIVED else value)

    def _initial_statistics(self) -> dict[str, Tensor]:
        shapes = {"counts": (), "sums": (self.latent_dim,), "moments": (packed_size(self.latent_dim),)}
        return {name: torch.zeros(self.num_classes, *shape, dtype=torch.float64) for name, shape in shapes.items()}

    def _initial_basis(self) -> dict[str, Tensor]:
        size = self.spec.size if self.has_components else 0
        return {
            "centre": torch.zeros(size, dtype=torch.float64),
            "principal_axes": torch.eye(self.latent_dim if size else 0, size, dtype=torch.float64),
        }

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> ClassGaussian:
        # Sums keep their precision, whatever that of the Gaussians is.
        before = {name: self._buffers[name] for name in (*_STATISTICS, *_BASIS)}
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        for name, value in before.items():
            assert value is not None
            moved = self._buffers[name]
            self._buffers[name] = value if moved is None else value.to(moved.device)
        return self

    # --- fitting

    @torch.no_grad()
    def begin_fit(self, x: Tensor, stream: torch.Generator) -> None:
        if not self.has_components or self.counts.any():
            return
        flat = x.flatten(1).double()
        mean = flat.mean(0)
        axes = principal_components(flat - mean, self.latent_dim, stream)
        # The sign of an eigenvector is arbitrary: make its largest entry positive, on every machine.
        largest = axes.gather(1, axes.abs().argmax(1, keepdim=True))
        self.principal_axes.copy_(axes * largest.sign())
        self.centre.copy_(mean)

    @torch.no_grad()
    def fit_class(self, x: Tensor, label: int, stream: torch.Generator) -> None:
        if len(x) < 2:
            raise DataError(
                f"generator=gaussian: class {label} has a single sample, which its mean would store; "
                "give it more samples, or try generator=class_vae"
            )
        rows = torch.arange(len(x), device=x.device)
        class_sum, moment = class_sums(x, rows, self._coordinates, with_moment=True)
        assert moment is not None
        self.counts[label], self.sums[label], self.moments[label] = len(x), class_sum, moment
        self.learned_classes[label] = True

    @torch.no_grad()
    def end_fit(self) -> None:
        statistics = {name: getattr(self, name) for name in _STATISTICS}
        for name, value in self._derived(statistics).items():
            getattr(self, name).copy_(value)

    def _coordinates(self, flat: Tensor) -> Tensor:
        """Coordinates (..., d) of flat samples (..., D), in their precision."""
        if not self.has_components:
            return flat
        return (flat - self.centre.to(flat.dtype)) @ self.principal_axes.to(flat.dtype).T

    def _derived(self, statistics: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The Gaussians of all classes, in float64; standard normal coordinates for those without samples."""
        counts, sums = statistics["counts"], statistics["sums"]
        width, num_classes = self.latent_dim, len(counts)
        identity = torch.eye(width).to(sums)
        means, factors = torch.zeros_like(sums), identity.repeat(num_classes, 1, 1)
        precisions, log_determinants = factors.clone(), torch.zeros_like(counts)
        learned = counts.nonzero().squeeze(1).tolist()
        pooled = torch.zeros_like(identity)
        for label in learned:
            means[label] = sums[label] / counts[label]
            pooled += self._scatter(statistics, label)
        if learned:
            pooled /= counts[learned].sum()
        variance = pooled.diagonal().mean().clamp(min=_SMALLEST_VARIANCE)
        common = self.pooled_share * pooled + self.shrinkage * variance * identity
        for label in learned:
            own = self._scatter(statistics, label) / counts[label]
            parameters = precision_factor(common + (1 - self.pooled_share) * own)
            factors[label], precisions[label], log_determinants[label] = parameters
        derived = (means, factors, precisions, log_determinants)
        return dict(zip(_DERIVED, derived, strict=True))

    def _scatter(self, statistics: Mapping[str, Tensor], label: int) -> Tensor:
        """Sum of the outer products of a class's differences from its mean: (d, d)."""
        total = statistics["sums"][label]
        second_moment = unpack(statistics["moments"][label], self.latent_dim)
        return second_moment - torch.outer(total, total) / statistics["counts"][label]

    # --- forgetting

    @property
    def shared_fits(self) -> tuple[SharedFit, ...]:
        if not self.has_components:
            return ()
        reason = "principal components are fitted on the first task"
        return (SharedFit(reason, "generator.latent_dim=null has none", scope="first_task"),)

    @torch.no_grad()
    def forget_classes(self, classes: Tensor) -> None:
        for name in _STATISTICS:
            getattr(self, name)[classes] = 0.0
        self.learned_classes &= ~classes
        self.end_fit()

    # --- samples and likelihoods

    def latent_noise(self, num_samples: int) -> dict[str, NoiseSpec]:
        return {"z": NoiseSpec("normal", (num_samples, self.latent_dim))}

    def decode(self, latent: Mapping[str, Tensor], labels: Tensor | None = None) -> Tensor:
        if labels is None:
            raise ValueError("there is a Gaussian for each class: labels are needed")
        z = scaled_noise(latent["z"], labels, self.covariance_factors) + self.class_means[labels]
        if self.has_components:
            z = z @ self.principal_axes.to(z.dtype) + self.centre.to(z.dtype)
        return self.spec.nearest_valid(z).view(*z.shape[:-1], *self.spec.shape)

    def log_likelihoods(self, x: Tensor) -> Tensor:
        """log p(x | class) of samples (B, ...) in their principal components: (B, C)."""
        return self.class_log_likelihoods(x, torch.arange(self.num_classes, device=x.device))

    def class_log_likelihoods(self, x: Tensor, classes: Tensor) -> Tensor:
        with torch.autocast(x.device.type, enabled=False):  # differences of large numbers
            coordinates = self._coordinates(x.flatten(-len(self.spec.shape)))  # (B, d)
            parameters = (self.class_means, self.precision_factors, self.log_determinants)
            return log_densities(coordinates, classes, *parameters)

    # --- checkpoints

    def compact_state(self, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The state with the sums of learned classes, without the Gaussians, which follow from them."""
        learned = state["counts"] > 0
        compact = {name: state[name][learned] for name in _STATISTICS}
        return compact | {name: state[name] for name in ("learned_classes", *_BASIS)} | {"has_samples": learned}

    def expand_state(self, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
        statistics = {name: value.to(state["sums"].device) for name, value in self._initial_statistics().items()}
        for name in _STATISTICS:
            statistics[name][state["has_samples"]] = state[name]
        derived = {name: value.to(self.class_means.dtype) for name, value in self._derived(statistics).items()}
        return derived | statistics | {name: state[name] for name in ("learned_classes", *_BASIS)}
