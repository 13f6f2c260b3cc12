"""Random numbers of private mechanisms: from a seeded stream, or from the operating system's generator."""

from __future__ import annotations

import os

import numpy as np
import torch
from torch import Tensor

# Normal numbers that are summed to one with the system's generator: 2n for n = 2 (Holohan and Braghin 2021).
_SUMMED_NORMALS = 4
_MANTISSA = 1 << 53


def gaussian_noise(shape: tuple[int, ...], deviation: float, stream: torch.Generator | None) -> Tensor:
    """Gaussian noise of mean 0, in float64: with a stream on its device, else on the CPU.

    Without a stream each number is the scaled sum of four normal numbers of the system's generator. A single normal
    number in floating point can only have some values, and from a released sum of value and noise an attacker can
    exclude data sets (Mironov 2012); of a sum of four there are too many (Holohan and Braghin 2021).

    Args:
        shape: Shape of the result.
        deviation: Standard deviation.
        stream: A seeded random stream, whose numbers can be repeated; None: the operating system's generator.
    """
    if stream is not None:
        return deviation * torch.randn(shape, generator=stream, device=stream.device, dtype=torch.float64)
    normals = _system_normals((_SUMMED_NORMALS, *shape))
    return torch.from_numpy(np.asarray(deviation * normals.sum(0) / np.sqrt(_SUMMED_NORMALS)))


def uniform_numbers(shape: tuple[int, ...], stream: torch.Generator | None) -> Tensor:
    """Uniform numbers in [0, 1), in float64, such as Poisson sampling compares to its rate.

    Args:
        shape: Shape of the result.
        stream: A seeded random stream, whose numbers can be repeated; None: the operating system's generator.
    """
    if stream is not None:
        return torch.rand(shape, generator=stream, device=stream.device, dtype=torch.float64)
    return torch.from_numpy(_system_integers(shape) / _MANTISSA)


def _system_integers(shape: tuple[int, ...]) -> np.ndarray[tuple[int, ...], np.dtype[np.float64]]:
    """Integers in [0, 2**53) from the system's generator."""
    count = int(np.prod(shape, dtype=np.int64))
    values = np.frombuffer(os.urandom(8 * count), dtype=np.uint64) >> np.uint64(11)
    return values.astype(np.float64).reshape(shape)


def _system_normals(shape: tuple[int, ...]) -> np.ndarray[tuple[int, ...], np.dtype[np.float64]]:
    """Standard normal numbers from the system's generator (Box and Muller 1958)."""
    radius = np.sqrt(-2 * np.log((_system_integers(shape) + 1) / _MANTISSA))  # of a number in (0, 1]
    return np.asarray(radius * np.cos(2 * np.pi * _system_integers(shape) / _MANTISSA))
