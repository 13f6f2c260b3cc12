"""Where samples come from. A source answers `load()`; it knows nothing of tasks."""

from __future__ import annotations

import os
from dataclasses import dataclass
from functools import lru_cache
from importlib.resources import files
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np
import torch
from torch import Tensor

from gr_cli.benchmarks.base import Samples
from gr_cli.errors import DataError


@dataclass(frozen=True)
class Data:
    """A data set: its training and test part, labels counting from 0 in the order of `classes`.

    Values lie in `value_range` (None: anywhere); each is the fraction of `trials` binary pixels that are on.
    """

    train: Samples
    test: Samples
    classes: tuple[str, ...]
    value_range: tuple[float, float] | None = (0.0, 1.0)
    trials: int = 1


class Source(Protocol):
    """Anything that can load a data set."""

    def load(self) -> Data:
        """The data set, on the CPU."""
        ...


class Digits:
    """The 1,797 handwritten digits of 8x8 pixels that ship with this package (Alpaydin & Kaynak 1998).

    A value counts the dark pixels in a block of 4x4 of the scanned bitmap, divided by 16.
    Of each class, every fifth image in the order of the file is for testing: 1,440 for training, 357 for testing.
    """

    def load(self) -> Data:
        return self._read()

    @staticmethod
    @lru_cache(maxsize=1)
    def _read() -> Data:
        with files("gr_cli.benchmarks").joinpath("data/digits.npz").open("rb") as file:
            stored = np.load(file)
            x = torch.from_numpy(stored["x"]).unsqueeze(1).float() / 16
            y = torch.from_numpy(stored["y"]).long()
        nth = torch.zeros_like(y)
        for label in range(10):
            nth[y == label] = torch.arange(int((y == label).sum()))
        test = nth % 5 == 4
        return Data(Samples(x[~test], y[~test]), Samples(x[test], y[test]), tuple(map(str, range(10))), trials=16)


class Torchvision:
    """A data set of torchvision, read by torchvision.

    Args:
        name: its class in `torchvision.datasets`.
        data_root: the folder that holds it, in torchvision's layout.
        download: fetch it when it is missing.
    """

    def __init__(self, name: Literal["MNIST", "FashionMNIST"], data_root: str, download: bool = True) -> None:
        self.name, self.root, self.download = name, Path(os.path.expanduser(data_root)), download

    def load(self) -> Data:
        return self._read(self.name, self.root, self.download)

    @classmethod
    @lru_cache(maxsize=2)  # the runs of a sweep share what was read once
    def _read(cls, name: str, root: Path, download: bool) -> Data:
        from torchvision import datasets

        dataset = getattr(datasets, name)
        parts = [cls(name, str(root), download)._part(dataset, train) for train in (True, False)]  # type: ignore[arg-type]
        samples = [Samples(_images(part.data), torch.as_tensor(part.targets).long()) for part in parts]
        names = tuple(str(name).partition(" - ")[0] for name in parts[0].classes)  # "0 - zero" is 0
        return Data(samples[0], samples[1], names)

    def _part(self, dataset: Any, train: bool) -> Any:
        """The training or the test part, fetched if it is missing."""
        try:
            return dataset(self.root, train=train, download=False)
        except (RuntimeError, OSError, ValueError) as error:
            # torchvision says `not found` of a set that isn't there, and other things of one that is broken.
            if "not found" not in str(error):
                what = _line(error)
                raise DataError(
                    f"data_root={self.root}: {self.name} can't be read there ({what}); remove it to fetch it anew"
                ) from error
        if not self.download:
            raise DataError(
                f"data_root={self.root}: {self.name} is not there; set data_root or GR_DATA_ROOT to a folder that "
                "holds it, or download=true"
            )
        try:
            return dataset(self.root, train=train, download=True)
        except Exception as error:
            raise DataError(
                f"data_root={self.root}: {self.name} is not there and could not be downloaded ({_line(error)}); "
                "set data_root or GR_DATA_ROOT to a folder that holds it"
            ) from error


def _images(data: object) -> Tensor:
    """(N, H, W) or (N, H, W, C) bytes to (N, C, H, W)."""
    x = torch.as_tensor(data)
    return x.unsqueeze(1) if x.dim() == 3 else x.permute(0, 3, 1, 2).contiguous()


def _line(error: Exception) -> str:
    return " ".join(str(error).split(":")[0].split())[:120] or type(error).__name__
