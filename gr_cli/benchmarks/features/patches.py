"""Features from patches of the first task's images, without labels and without a pretraining set (Coates & Ng 2011)."""

from __future__ import annotations

from collections.abc import Callable
from math import prod
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gr_cli.benchmarks.base import Samples
from gr_cli.benchmarks.features.base import FeatureExtractor, Shape
from gr_cli.errors import ConfigError
from gr_cli.nn.random_streams import StreamNames, seeded
from gr_cli.system.cache import Tensors, cached, content_hash
from gr_cli.system.mapping import Storage
from gr_cli.system.messages import print_status
from gr_cli.types import NonNegative, NonNegativeInt, Positive, PositiveInt

_VERSION = 1  # part of the cache key: increase it when the computation changes
_PATCHES_PER_FILTER = 100
_MIN_PATCHES = 10  # of a k-means centre, so that none of them is a piece of a training image
_KMEANS_ITERATIONS = 10
_CONTRAST_NOISE = 10 / 255**2  # added to the variance of a patch, as by Coates & Ng for pixels from 0 to 255
_ASSIGNED_AT_ONCE = 1 << 24  # similarities of patches and centres in memory
_RESPONSES_AT_ONCE = 1 << 20  # few enough to stay in cache

Filters = Literal["centres", "noise", "raw"]


class PatchFeatureExtractor(FeatureExtractor):
    """Pooled responses of filters that are fitted on patches of the first task's images (Coates & Ng 2011).

    Each patch of an image is normalised to mean 0 and variance 1 and whitened (ZCA). Its similarity z to a filter gives
    two responses, max(0, z - threshold) and max(0, -z - threshold); each is averaged over the cells of a grid. Each
    feature is scaled by its mean and standard deviation over the training images of the first task. No labels are used.

    Args:
        filters: `centres` of k-means on whitened patches, each the mean of ten patches or more; `noise`: Gaussian noise
            with the covariance of the patches; `raw`: single patches. These are pieces of training images, so the run
            says `stores_raw_samples`.
        num_filters: Number of filters; centres with fewer than ten patches are left out. Each has 2 grid² features.
        patch_size: Height and width of a patch in pixels.
        stride: Distance of neighbouring patches in pixels.
        threshold: Similarity that a patch must exceed.
        grid: Number of cells along each side of the image.
        whitening_noise: Variance that is added to each principal component of the patches before it is scaled to 1.
        mirrored: Average the features of an image and its mirror image.
        filters_seed: Seed of the patches and of the filters, independent of the run's seed.
        cache_root: Folder of the cache; the vectors lie in `features/` below it.
        device: Device on which vectors are computed.
        storage: Whether vectors are read into memory or memory-mapped; `auto`: mapped if they take more than a quarter
            of the available memory.
        components: Number of principal components of the first task's features that represent a sample; null: all
            features.
    """

    def __init__(
        self,
        filters: Filters = "centres",
        num_filters: PositiveInt = 400,
        patch_size: PositiveInt = 6,
        stride: PositiveInt = 1,
        threshold: NonNegative = 0.25,
        grid: PositiveInt = 2,
        whitening_noise: Positive = 0.1,
        mirrored: bool = False,
        filters_seed: NonNegativeInt = 0,
        cache_root: str = "~/.cache/gr_cli",
        device: torch.device = torch.device("cpu"),  # noqa: B008  a value
        storage: Storage = "auto",
        components: PositiveInt | None = None,
    ) -> None:
        super().__init__(False, cache_root, device, storage, components, standardise=True)
        self.filters: Filters = filters
        self.num_filters, self.patch_size, self.stride = num_filters, patch_size, stride
        self.threshold, self.grid, self.mirrored = threshold, grid, mirrored
        self.whitening_noise, self.filters_seed = whitening_noise, filters_seed
        self.stores_raw_samples = filters == "raw"

    def network(self, first_task: Samples, shape: Shape) -> nn.Module:
        self._check_size(shape)
        self._check_number(len(first_task) * prod(side - self.patch_size + 1 for side in shape[1:]))
        settings = (self.filters, self.num_filters, self.patch_size, self.whitening_noise, self.filters_seed)
        name = content_hash("patches", _VERSION, torch.__version__, *settings, first_task.content_hash())

        def compute() -> Tensors:
            print_status(f"fitting filters to patches of the {len(first_task):,} training images of the first task")
            with seeded(self.filters_seed, StreamNames.FEATURES_PATCHES):
                patches = random_patches(first_task, self.patch_size, _PATCHES_PER_FILTER * self.num_filters)
                self._check_number(len(patches))  # fewer than there are where some are drawn twice
                return fit_filters(patches, self.filters, self.num_filters, self.whitening_noise)

        fitted = cached(self.cache_folder / f"{name}.pt", compute)
        layer = PatchResponses(fitted, self.patch_size, self.stride, self.threshold, self.grid)
        return MirrorAverage(layer) if self.mirrored else layer

    def _check_size(self, shape: Shape) -> None:
        """Refuse images that are too small for the patches or for the grid; raises ConfigError."""
        height_width, side = f"images of {shape[1]}x{shape[2]}", min(shape[1:])
        if self.patch_size > side:
            raise ConfigError(
                "benchmark.features.patch_size", self.patch_size, f"exceeds {height_width}", f"{side} at most"
            )
        positions = (side - self.patch_size) // self.stride + 1
        if self.grid > positions:
            raise ConfigError(
                "benchmark.features.grid",
                self.grid,
                f"exceeds the {positions} patches along a side of {height_width}",
                f"{positions} at most",
            )

    def _check_number(self, num_patches: int) -> None:
        """Refuse more filters than the patches of the first task are enough for; raises ConfigError."""
        if num_patches < _MIN_PATCHES * self.num_filters:
            raise ConfigError(
                "benchmark.features.num_filters",
                self.num_filters,
                f"needs {_MIN_PATCHES} patches for each filter, and the first task has {num_patches:,}",
                f"{num_patches // _MIN_PATCHES} at most",
            )


# --- the network


class PatchResponses(nn.Module):
    """Responses to whitened patches, of both signs, averaged over a grid: (B, C, H, W) -> (B, grid² 2 K).

    Args:
        fitted: Tensors of `fit_filters`.
        patch_size: Height and width of a patch.
        stride: Distance of neighbouring patches.
        threshold: Similarity that a patch must exceed.
        grid: Number of cells along each side.
    """

    filters: Tensor  # (P, K)
    offset: Tensor  # (K,)

    def __init__(self, fitted: Tensors, patch_size: int, stride: int, threshold: float, grid: int) -> None:
        super().__init__()
        self.register_buffer("filters", fitted["filters"])
        self.register_buffer("offset", fitted["offset"])
        self.patch_size, self.stride, self.threshold, self.grid = patch_size, stride, threshold, grid

    def extra_repr(self) -> str:
        return f"{self.patch_size}, {self.stride}, {self.threshold}, {self.grid}"

    def forward(self, x: Tensor) -> Tensor:
        pooling = self._pooling(x)  # (G, L)
        at_once = max(1, _RESPONSES_AT_ONCE // (pooling.shape[1] * self.filters.shape[1]))
        return torch.cat([self._pooled(part, pooling) for part in x.split(at_once)])

    def _pooled(self, x: Tensor, pooling: Tensor) -> Tensor:
        patches = F.unfold(x, self.patch_size, stride=self.stride).transpose(1, 2)  # (B, L, P)
        normalized = normalize_contrast(patches)
        similarity = torch.addmm(self.offset, normalized.flatten(0, 1), self.filters).view(len(x), -1, len(self.offset))
        # The mean of max(0, z - t) is that of max(t, z), less t.
        positive = pooling @ similarity.clamp_min(self.threshold) - self.threshold
        negative = -(pooling @ similarity.clamp_max_(-self.threshold)) - self.threshold
        return torch.cat([positive, negative], 2).flatten(1)

    def _pooling(self, x: Tensor) -> Tensor:
        """Weights that average over the patches in each cell of the grid, (G, L)."""
        rows, columns = ((side - self.patch_size) // self.stride + 1 for side in x.shape[2:])
        positions = torch.eye(rows * columns, dtype=x.dtype, device=x.device).view(-1, 1, rows, columns)
        return F.adaptive_avg_pool2d(positions, self.grid).flatten(1).T.contiguous()


class MirrorAverage(nn.Module):
    """The mean of a network's output for an image and for its mirror image."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, x: Tensor) -> Tensor:
        mean: Tensor = (self.network(x) + self.network(x.flip(-1))) / 2
        return mean


def normalize_contrast(patches: Tensor) -> Tensor:
    """Patches (..., P) with mean 0 and, but for a small constant, variance 1."""
    variance, mean = torch.var_mean(patches, -1, keepdim=True)
    return (patches - mean) * (variance + _CONTRAST_NOISE).rsqrt()


# --- filters


def random_patches(samples: Samples, size: int, num_patches: int) -> Tensor:
    """Different patches at random positions of random images, flattened: (N, P), at most `num_patches`.

    They are drawn from torch's global random generator.
    """
    height, width = samples.store.shape[2:]
    rows, columns = height - size + 1, width - size + 1
    positions = torch.randint(len(samples) * rows * columns, (num_patches,)).unique()
    images = positions // (rows * columns)
    row, column = positions // columns % rows, positions % columns
    parts: list[Tensor] = []
    for index, at in zip(images.split(10_000), torch.stack([row, column], 1).split(10_000), strict=True):
        x = samples.batch(index.to(samples.y.device))[0].cpu()
        parts += [
            image[:, top : top + size, left : left + size] for image, (top, left) in zip(x, at.tolist(), strict=True)
        ]
    return torch.stack(parts).flatten(1)


def fit_filters(patches: Tensor, filters: Filters, num_filters: int, whitening_noise: float) -> Tensors:
    """Filters for patches (N, P), from torch's global random generator.

    Returns:
        `filters` (P, K) and `offset` (K,): the similarity of a patch p with normalised contrast to filter k is
        p · filters[:, k] + offset[k], which is the product of the whitened patch with a direction of length 1.
    """
    normalized = normalize_contrast(patches)
    mean = normalized.mean(0)
    centred = normalized - mean
    variances, axes = torch.linalg.eigh((centred.T @ centred).double() / len(centred))
    whitening = (axes * (variances + whitening_noise).rsqrt() @ axes.T).float()
    if filters == "noise":
        colour = (axes * variances.clamp_min(0).sqrt() @ axes.T).float()
        directions = torch.randn(num_filters, len(mean)) @ colour @ whitening
    else:
        directions = _DIRECTIONS[filters](centred @ whitening, num_filters)
    weights = whitening @ F.normalize(directions, dim=1).T
    return {"filters": weights, "offset": -(mean @ weights)}


def _raw_patches(patches: Tensor, num_filters: int) -> Tensor:
    return patches[torch.randperm(len(patches))[:num_filters]]


def kmeans_centres(patches: Tensor, num_centres: int) -> Tensor:
    """Centres of k-means on patches (N, P), (K, P): each the mean of ten patches or more, the others are left out.

    The initial centres are patches, from torch's global random generator. A centre of fewer than ten patches is
    restarted at another patch, except in the last iteration.
    """
    centres = _raw_patches(patches, num_centres)
    for iteration in range(_KMEANS_ITERATIONS):
        half_norm, parts = centres.square().sum(1) / 2, patches.split(max(1, _ASSIGNED_AT_ONCE // len(centres)))
        assigned = torch.cat([(part @ centres.T - half_norm).argmax(1) for part in parts])
        counts = torch.bincount(assigned, minlength=len(centres))
        sums = torch.zeros_like(centres).index_add_(0, assigned, patches)
        centres = sums / counts.clamp_min(1).unsqueeze(1)
        small = (counts < _MIN_PATCHES).nonzero().squeeze(1)
        if iteration < _KMEANS_ITERATIONS - 1:
            centres[small] = patches[torch.randint(len(patches), (len(small),))]
    return centres[counts >= _MIN_PATCHES]


_DIRECTIONS: dict[str, Callable[[Tensor, int], Tensor]] = {"centres": kmeans_centres, "raw": _raw_patches}
