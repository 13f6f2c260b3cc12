"""Features of images that no sample decides: low frequencies of the cosine transform, and of oriented edge energies."""

from __future__ import annotations

import math
from itertools import product

import torch
import torch.nn.functional as F
from torch import Tensor, nn

_TINY = 1e-6  # keeps the norm of an empty image from being divided by
_MIN_MAP = 4  # smallest height and width of a map of energies
_SLANT = 0.5  # width of a Morlet wavelet along its wave, relative to that across


def cosine_basis(height: int, width: int, frequencies: int) -> Tensor:
    """Low frequencies (K, height * width) of the two-dimensional cosine transform, orthonormal rows, in float64.

    Those whose vertical and horizontal frequencies add up to less than `frequencies`.
    """
    rows, columns = _cosines(height), _cosines(width)
    pairs = [(i, j) for i, j in product(range(height), range(width)) if i + j < frequencies]
    return torch.stack([torch.outer(rows[i], columns[j]).flatten() for i, j in pairs])


def _cosines(size: int) -> Tensor:
    """The orthonormal cosine transform (size, size) of a signal."""
    frequency, position = torch.arange(size, dtype=torch.float64).unsqueeze(1), torch.arange(size) + 0.5
    transform = torch.cos(math.pi * frequency * position / size) * math.sqrt(2 / size)
    transform[0] /= math.sqrt(2)
    return transform


class OrientedEnergies(nn.Module):
    """Low frequencies of an image and of the moduli of its wavelet coefficients, scaled to norm 1.

    The moduli are those of Morlet wavelets in several orientations at several scales; their low frequencies hardly
    change when strokes move a little, as in the first order of a scattering transform (Bruna and Mallat 2013). The
    coefficients of the image, and of each scale, have the same norm. There is nothing to fit.

    Args:
        shape: Shape (C, H, W) of an image; channels are transformed one by one.
        frequencies: Cosine frequencies of each map: those whose sum is below this number.
        orientations: Number of orientations.
        scales: Number of scales, each twice as coarse as the one before; fewer for small images.
    """

    def __init__(self, shape: tuple[int, ...], frequencies: int, orientations: int, scales: int) -> None:
        super().__init__()
        channels, *size = shape
        self.shape = shape
        self.frequencies, self.orientations = frequencies, orientations
        self.scales = [s for s in range(scales) if s == 0 or min(size) >> s >= _MIN_MAP]
        self.register_buffer("image_basis", cosine_basis(size[0], size[1], frequencies), persistent=False)
        num_features = self._buffer("image_basis").shape[0]
        for scale in self.scales:
            height, width = (-(-n // 2**scale) for n in size)
            self.register_buffer(f"wavelets_{scale}", _morlet_wavelets(scale, orientations), persistent=False)
            self.register_buffer(f"basis_{scale}", cosine_basis(height, width, frequencies), persistent=False)
            num_features += orientations * self._buffer(f"basis_{scale}").shape[0]
        self.num_features = channels * num_features

    def extra_repr(self) -> str:
        return f"{self.shape}, frequencies={self.frequencies}, orientations={self.orientations}, scales={self.scales}"

    def _buffer(self, name: str) -> Tensor:
        value: Tensor = self.get_buffer(name)
        return value

    def forward(self, x: Tensor) -> Tensor:
        """Features (B, F) of images (B, C, H, W)."""
        maps = x.reshape(-1, 1, *self.shape[1:])
        groups = [maps.flatten(1) @ self._buffer("image_basis").to(x.dtype).T]
        for scale in self.scales:
            wavelets = self._buffer(f"wavelets_{scale}").to(x.dtype)
            padding = wavelets.shape[-1] // 2
            coefficients = F.conv2d(maps, wavelets, stride=2**scale, padding=padding)
            real, imaginary = coefficients.chunk(2, 1)
            energies = (real.square() + imaginary.square()).sqrt()
            groups.append((energies.flatten(2) @ self._buffer(f"basis_{scale}").to(x.dtype).T).flatten(1))
        channels = self.shape[0]
        normalized = [_normalized(group.reshape(len(x), channels * group.shape[1])) for group in groups]
        return torch.cat(normalized, 1) / math.sqrt(len(groups))


def _normalized(x: Tensor) -> Tensor:
    normalized: Tensor = x / (x.norm(dim=1, keepdim=True) + _TINY)
    return normalized


def _morlet_wavelets(scale: int, orientations: int) -> Tensor:
    """Real parts, then imaginary parts (2 * orientations, 1, S, S) of Morlet wavelets of mean 0."""
    deviation, frequency = 0.8 * 2**scale, 0.75 * math.pi / 2**scale
    radius = math.ceil(3 * deviation)
    positions = torch.arange(-radius, radius + 1, dtype=torch.float64)
    y, x = torch.meshgrid(positions, positions, indexing="ij")
    wavelets = []
    for index in range(orientations):
        angle = math.pi * index / orientations
        along = x * math.cos(angle) + y * math.sin(angle)
        across = y * math.cos(angle) - x * math.sin(angle)
        window = torch.exp(-(along**2 + (_SLANT * across) ** 2) / (2 * deviation**2))
        wave = torch.polar(window, frequency * along)
        wavelets.append((wave - window * wave.sum() / window.sum()) / window.sum())
    stacked = torch.stack(wavelets).unsqueeze(1)
    return torch.cat([stacked.real, stacked.imag]).contiguous()
