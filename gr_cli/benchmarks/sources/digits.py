"""The handwritten digits that ship with this package."""

from __future__ import annotations

from functools import lru_cache
from importlib.resources import files

import numpy as np
import torch

from gr_cli.benchmarks.base import Samples
from gr_cli.benchmarks.sources.base import Dataset
from gr_cli.nn.sample_spec import SampleSpec


class Digits:
    """Handwritten digits: 1,797 images of 8x8 pixels, shipped with this package (Alpaydin & Kaynak 1998).

    A value is the fraction of dark pixels in a 4x4 block of the scanned bitmap. Every fifth image of each class, in
    file order, is a test sample: 1,442 for training, 355 for testing.
    """

    def load(self) -> Dataset:
        return self._read()

    @staticmethod
    @lru_cache(maxsize=1)
    def _read() -> Dataset:
        with files("gr_cli.benchmarks").joinpath("data/digits.npz").open("rb") as file:
            stored = np.load(file)
            x = torch.from_numpy(stored["x"]).unsqueeze(1).float() / 16
            y = torch.from_numpy(stored["y"]).long()
        nth = torch.zeros_like(y)
        for label in range(10):
            nth[y == label] = torch.arange(int((y == label).sum()))
        test = nth % 5 == 4
        train, test_part = Samples(x[~test], y[~test]), Samples(x[test], y[test])
        return Dataset(train, test_part, tuple(map(str, range(10))), SampleSpec((1, 8, 8), binomial_trials=16))
