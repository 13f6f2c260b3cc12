"""Small data sets that are read into memory and memory-mapped."""

from __future__ import annotations

from typing import Any

import numpy as np

from gr_cli.benchmarks import Arrays
from gr_cli.benchmarks.sources.base import Dataset
from gr_cli.benchmarks.sources.load import load_dataset

CLASSES, PER_CLASS = 4, 30


def write_arrays(dtype: Any = np.uint8, channels_last: bool = False) -> np.ndarray:
    """Images (120, 3, 6, 6) of four classes in `x.npy`, with labels in `y.npy`."""
    rng = np.random.default_rng(0)
    y = np.arange(CLASSES * PER_CLASS) % CLASSES
    x = (rng.integers(0, 100, (len(y), 3, 6, 6)) + 50 * y[:, None, None, None]).astype(np.uint8)
    values = x if dtype == np.uint8 else (x / 255).astype(dtype)
    np.save("x.npy", values.transpose(0, 2, 3, 1) if channels_last else values)
    np.save("y.npy", y)
    return values


def load_arrays(storage: Any, **settings: Any) -> Dataset:
    """The data set of `write_arrays`."""
    return load_dataset(Arrays("x.npy", "y.npy", storage=storage, **settings))
