"""Features that no sample decides: low frequencies of images and of their oriented energies."""

from __future__ import annotations

import torch
from torch import nn

from gr_cli.benchmarks.base import Samples
from gr_cli.benchmarks.features.base import FeatureExtractor, Shape
from gr_cli.nn.cosine_features import OrientedEnergies
from gr_cli.system.mapping import Storage
from gr_cli.types import PositiveInt


class EnergyFeatureExtractor(FeatureExtractor):
    """Low frequencies of an image, and of the moduli of its wavelet coefficients (Bruna & Mallat 2013).

    The wavelets are given, so there is nothing to fit and nothing to pretrain: a private run may use them, because no
    sample decides them. Each modulus is that of Morlet wavelets in one orientation at one scale, as in the first order
    of a scattering transform.

    Args:
        frequencies: Cosine frequencies of each map: those with a vertical and a horizontal frequency that add up to
            less than this number.
        orientations: Orientations of the wavelets.
        scales: Scales of the wavelets, each twice as coarse as the one before; fewer for small images.
        normalise: Scale each vector to mean 0 and variance 1.
        cache_root: Folder of the cache; the vectors lie in `features/` below it.
        device: Device on which vectors are computed.
        storage: Whether vectors are read into memory or memory-mapped; `auto`: mapped if they take more than a quarter
            of the available memory.
        components: Number of principal components of the first task's features that represent a sample; null: all
            features.
    """

    def __init__(
        self,
        frequencies: PositiveInt = 4,
        orientations: PositiveInt = 6,
        scales: PositiveInt = 2,
        normalise: bool = True,
        cache_root: str = "~/.cache/gr_cli",
        device: torch.device = torch.device("cpu"),  # noqa: B008  a value
        storage: Storage = "auto",
        components: PositiveInt | None = None,
    ) -> None:
        super().__init__(normalise, cache_root, device, storage, components)
        self.frequencies, self.orientations, self.scales = frequencies, orientations, scales

    def network(self, first_task: Samples, shape: Shape) -> nn.Module:
        return OrientedEnergies(shape, self.frequencies, self.orientations, self.scales)
