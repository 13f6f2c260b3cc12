"""Differentially private Gaussians per class: a generator in closed form."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Annotated

import torch
from annotated_types import Gt, Lt
from torch import Tensor

from gr_cli.errors import ConfigError
from gr_cli.generators.base import GeneratorWithoutObjectives
from gr_cli.nn.class_gaussians import log_densities, precision_factor, scaled_noise
from gr_cli.nn.cosine_features import OrientedEnergies, cosine_basis
from gr_cli.nn.random_streams import NoiseSpec
from gr_cli.nn.sample_spec import SampleSpec
from gr_cli.nn.symmetric import pack, packed_size, unpack
from gr_cli.privacy import Access
from gr_cli.privacy.analytic_gaussian import epsilon_of_gaussian, gaussian_noise_multiplier
from gr_cli.privacy.moments import Block, MomentMechanism, without_noise
from gr_cli.privacy.settings import PrivacySettings
from gr_cli.types import Positive, PositiveInt, UnitInterval

Share = Annotated[float, Gt(0), Lt(1)]
_CHUNK = 512  # images whose features are computed at a time
_SMALLEST_VARIANCE = 1e-9
_IMAGE_JITTER = 1e-6  # added to covariances of images, relative to their mean variance
_ROUNDING = 1 + 1e-9  # of noise, so that accesses compose to no more than the budget
_IMAGE_RADIUS = 0.6  # largest root mean square of an image whose values are in [0, 1]
_BLOCKS = ("image", "feature")
_RELEASED = ("counts", *(f"{block}_{name}" for block in _BLOCKS for name in ("centres", "covariances")))
_DERIVED = ("image_means", "image_factors", "feature_means", "precision_factors", "log_determinants")


class PrivateGaussian(GeneratorWithoutObjectives):
    """A Gaussian per class of an image's low frequencies, and one of its features, differentially private.

    Count, mean and covariance of each class are released once, in the task of the class, by two Gaussian mechanisms
    (`gr_cli.privacy.moments`) that spend the budget together; each sample is in one class. Nothing else reads samples:
    low frequencies of the cosine transform are the same for all data, and so are the features, cosine frequencies of
    the moduli of wavelet coefficients (`gr_cli.nn.cosine_features`). Samples are drawn from the Gaussian of the image
    in its low frequencies. Likelihoods are those of the features, which hardly change when strokes move a little.

    What is released is processed without budget: noise is removed from the eigenvalues of covariances (for likelihoods
    the variance that is lost with it is spread over all directions), and those of features are mixed with the
    covariance within all classes so far, C = (1 - s) C_class + s C_pooled + r v I, where v is the mean variance.
    Classes that are forgotten leave the Gaussians of a stream without them.

    Args:
        spec: Specification of images (C, H, W), or their shape for values in [0, 1].
        num_classes: Number of classes; labels are 0 to `num_classes` - 1.
        privacy: Budget; without one there is no such generator.
        frequencies: Cosine frequencies of each map of features: those with a vertical and a horizontal frequency that
            add up to less than this number.
        orientations: Orientations of the wavelets.
        scales: Scales of the wavelets.
        image_frequencies: Cosine frequencies of generated images, counted as `frequencies`.
        image_share: Share of the squared sensitivity for generated images; the rest is for likelihoods.
        mean_share: Share of the privacy loss for counts and means; the rest is for covariances.
        radius: Largest distance of features, whose norm is 1, from the mean of their class; longer differences are
            clipped for covariances. Root mean square distance of an image from its mean, likewise.
        pooled_share: Share s of the covariance within all classes.
        shrinkage: Variance r added in all directions, relative to the mean variance.
    """

    conditional = True
    supports_vmap = False  # samples of a class are drawn together
    class_likelihood = "exact"
    classes_are_independent = False  # the pooled covariance changes with each class
    fits_classes_without_samples = True  # that a class has no sample must not be visible
    image_means: Tensor  # (C, k)
    image_factors: Tensor  # (C, k, k), lower Cholesky factors
    feature_means: Tensor  # (C, d)
    precision_factors: Tensor  # (C, d, d), inverses of the lower Cholesky factors
    log_determinants: Tensor  # (C,), of the covariances of features
    counts: Tensor  # (C,), at least 1 for released classes; as are all that follow in float64
    image_centres: Tensor  # (C, k)
    image_covariances: Tensor  # (C, k (k + 1) / 2), packed, with noise
    feature_centres: Tensor  # (C, d)
    feature_covariances: Tensor  # (C, d (d + 1) / 2), packed, with noise
    image_basis: Tensor  # (k, H * W)

    def __init__(
        self,
        spec: SampleSpec | Sequence[PositiveInt] = (1, 28, 28),
        num_classes: PositiveInt = 10,
        privacy: PrivacySettings | None = None,
        frequencies: PositiveInt = 4,
        orientations: PositiveInt = 6,
        scales: PositiveInt = 2,
        image_frequencies: PositiveInt = 12,
        image_share: Share = 0.2,
        mean_share: Share = 0.2,
        radius: Positive = 0.25,
        pooled_share: UnitInterval = 0.5,
        shrinkage: Positive = 0.1,
    ) -> None:
        super().__init__()
        self.spec, self.num_classes = SampleSpec.coerce(spec), num_classes
        self.privacy = _checked_budget(privacy, self.spec)
        self.pooled_share, self.shrinkage = pooled_share, shrinkage
        self.features = OrientedEnergies(self.spec.shape, frequencies, orientations, scales)
        _, height, width = self.spec.shape
        basis = cosine_basis(height, width, image_frequencies).float()
        self.register_buffer("image_basis", basis, persistent=False)
        # Gaussian mechanisms on the same samples in several tasks compose as one with their summed 1 / m^2.
        tasks = math.sqrt(self.privacy.tasks_per_sample)
        multiplier = gaussian_noise_multiplier(self.privacy.epsilon, self.privacy.delta) * tasks * _ROUNDING
        length = math.sqrt(self.spec.size)
        image = Block(self.spec.shape[0] * len(basis), _IMAGE_RADIUS * length, min(radius, 1.0) * length, image_share)
        feature = Block(self.features.num_features, 1.0, radius, 1 - image_share)
        self.mechanism = MomentMechanism((image, feature), multiplier, mean_share)
        self.register_buffer("learned_classes", torch.zeros(num_classes, dtype=torch.bool))
        initial = self._initial_releases()
        for name, value in (self._derived(initial) | initial).items():
            self.register_buffer(name, value.float() if name in _DERIVED else value)

    def _initial_releases(self) -> dict[str, Tensor]:
        sizes: dict[str, tuple[int, ...]] = {"counts": ()}
        for name, block in zip(_BLOCKS, self.mechanism.blocks, strict=True):
            sizes |= {f"{name}_centres": (block.size,), f"{name}_covariances": (packed_size(block.size),)}
        return {name: torch.zeros(self.num_classes, *size, dtype=torch.float64) for name, size in sizes.items()}

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> PrivateGaussian:
        # What was released keeps its precision, whatever that of the Gaussians is.
        before = {name: self.get_buffer(name) for name in _RELEASED}
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        for name, value in before.items():
            self._buffers[name] = value.to(self.get_buffer(name).device)
        return self

    # --- privacy

    def private_accesses(self, task: int, classes: Sequence[int], part: str) -> list[Access]:
        """The two mechanisms of a task; each sample is read by them once, with those of its class."""
        delta = self.privacy.delta
        return [
            Access(task, part, tuple(classes), "gaussian", multiplier, 1.0, 1.0, 1, epsilon, delta)
            for multiplier in self.mechanism.noise_multipliers
            for epsilon in [epsilon_of_gaussian(delta, multiplier)]
        ]

    # --- fitting

    @torch.no_grad()
    def fit_class(self, x: Tensor, label: int, stream: torch.Generator) -> None:
        values = [torch.cat(parts) for parts in zip(*map(self._coordinates, x.split(_CHUNK)), strict=True)]
        released = self.mechanism.release(values, None if self.privacy.secure else stream)
        self.counts[label] = released.count
        for name, mean, covariance in zip(_BLOCKS, released.means, released.covariances, strict=True):
            getattr(self, f"{name}_centres")[label] = mean
            getattr(self, f"{name}_covariances")[label] = pack(covariance)
        self.learned_classes[label] = True

    def _coordinates(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Low frequencies (B, k) and features (B, d) of images, in float64."""
        unit = self.spec.to_unit_range(x)
        image = (unit.flatten(2).double() @ self.image_basis.double().T).flatten(1)
        return image, self.features(unit).double()

    @torch.no_grad()
    def end_fit(self) -> None:
        for name, value in self._derived({name: self.get_buffer(name) for name in _RELEASED}).items():
            self.get_buffer(name).copy_(value)

    @torch.no_grad()
    def forget_classes(self, classes: Tensor) -> None:
        for name in _RELEASED:
            self.get_buffer(name)[classes] = 0.0
        self.learned_classes &= ~classes
        self.end_fit()

    def _derived(self, releases: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The Gaussians of all classes, in float64; standard normal coordinates for those that were not released."""
        image, feature = self.mechanism.blocks
        classes, like = self.num_classes, releases["counts"]
        image_factors = torch.eye(image.size).to(like).repeat(classes, 1, 1)
        precision_factors, log_determinants = torch.eye(feature.size).to(like).repeat(classes, 1, 1), 0 * like
        released = like.nonzero().squeeze(1).tolist()
        pooled = self._pooled_covariance(releases, released)
        for label in released:
            own = without_noise(*self._noisy_covariance(releases, label, "image", image))
            image_factors[label] = precision_factor(own + _IMAGE_JITTER * _mean_variance(own))[0]
            own = _same_variance(*self._noisy_covariance(releases, label, "feature", feature))
            covariance = (1 - self.pooled_share) * own + self.pooled_share * pooled
            _, *values = precision_factor(covariance + self.shrinkage * _mean_variance(pooled))
            precision_factors[label], log_determinants[label] = values
        centres = releases["image_centres"], releases["feature_centres"]
        return dict(
            zip(
                _DERIVED,
                (centres[0], image_factors, centres[1], precision_factors, log_determinants),
                strict=True,
            )
        )

    def _noisy_covariance(
        self, releases: Mapping[str, Tensor], label: int, name: str, block: Block
    ) -> tuple[Tensor, float]:
        """The released covariance (d, d) of a class, and the deviation of the noise on its diagonal."""
        deviation = self.mechanism.scatter_deviation(block) / float(releases["counts"][label])
        return unpack(releases[f"{name}_covariances"][label], block.size), deviation

    def _pooled_covariance(self, releases: Mapping[str, Tensor], classes: Sequence[int]) -> Tensor:
        """The covariance (d, d) of features within classes."""
        block = self.mechanism.blocks[1]
        total, scatter = 0.0, torch.zeros(packed_size(block.size)).to(releases["counts"])
        for label in classes:
            count = float(releases["counts"][label])
            total, scatter = total + count, scatter + count * releases["feature_covariances"][label]
        deviation = self.mechanism.scatter_deviation(block) * math.sqrt(len(classes))
        return _same_variance(unpack(scatter, block.size) / max(1.0, total), deviation / max(1.0, total))

    # --- samples and likelihoods

    def latent_noise(self, num_samples: int) -> dict[str, NoiseSpec]:
        return {"z": NoiseSpec("normal", (num_samples, self.mechanism.blocks[0].size))}

    def decode(self, latent: Mapping[str, Tensor], labels: Tensor | None = None) -> Tensor:
        if labels is None:
            raise ValueError("there is a Gaussian for each class: labels are needed")
        z = scaled_noise(latent["z"], labels, self.image_factors) + self.image_means[labels]
        channels = z.unflatten(-1, (self.spec.shape[0], -1)) @ self.image_basis.to(z.dtype)
        x = channels.view(*z.shape[:-1], *self.spec.shape)
        return self.spec.nearest_valid(self.spec.from_unit_range(x))

    def log_likelihoods(self, x: Tensor) -> Tensor:
        """log p(features of x | class) of images (B, C, H, W): (B, C)."""
        return self.class_log_likelihoods(x, torch.arange(self.num_classes, device=x.device))

    def class_log_likelihoods(self, x: Tensor, classes: Tensor) -> Tensor:
        with torch.autocast(x.device.type, enabled=False):  # differences of large numbers
            features = self.features(self.spec.to_unit_range(x))
            parameters = (self.feature_means, self.precision_factors, self.log_determinants)
            return log_densities(features, classes, *parameters)

    # --- checkpoints

    def compact_state(self, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """What was released of learned classes, without the Gaussians, which follow from it."""
        released = state["counts"] > 0
        compact = {name: state[name][released] for name in _RELEASED}
        return compact | {"learned_classes": state["learned_classes"], "is_released": released}

    def expand_state(self, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
        releases = {name: value.to(state["counts"].device) for name, value in self._initial_releases().items()}
        for name in _RELEASED:
            releases[name][state["is_released"]] = state[name]
        derived = {name: value.to(self.image_means.dtype) for name, value in self._derived(releases).items()}
        return derived | releases | {"learned_classes": state["learned_classes"]}


def _same_variance(noisy: Tensor, deviation: float) -> Tensor:
    """A covariance (d, d) without noise, with the variance that is lost with the noise spread over all directions."""
    covariance = without_noise(noisy, deviation)
    lost = (noisy.diagonal().mean() - covariance.diagonal().mean()).clamp(min=0)
    return covariance + lost * torch.eye(len(noisy)).to(noisy)


def _mean_variance(covariance: Tensor) -> Tensor:
    """The identity times the mean variance in a covariance (d, d)."""
    variance = covariance.diagonal().mean().clamp(min=_SMALLEST_VARIANCE)
    return variance * torch.eye(len(covariance)).to(covariance)


def _checked_budget(privacy: PrivacySettings | None, spec: SampleSpec) -> PrivacySettings:
    if not spec.is_image or spec.value_range is None:
        not_images = f"needs images with values in a range, and samples have the shape {list(spec.shape)}"
        raise ConfigError("generator", "private_gaussian", not_images, "use a benchmark of images")
    if privacy is None:
        no_budget = "adds the noise that a privacy budget needs, and there is none"
        raise ConfigError("generator", "private_gaussian", no_budget, "set privacy.epsilon, or use generator=gaussian")
    return privacy
