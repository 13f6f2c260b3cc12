"""Where samples come from. A source answers `load()`; it knows nothing of tasks."""

from __future__ import annotations

import os
import shutil
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from importlib.resources import files
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Literal, Protocol, runtime_checkable

import numpy as np
import torch
from torch import Tensor
from torch.utils.weak import WeakIdKeyDictionary

from gr_cli.benchmarks.base import Samples
from gr_cli.benchmarks.soundness import checked, idx_fault
from gr_cli.errors import DataError

# Seconds that a server may be silent before a download is given up.
_PATIENCE = 10.0


@dataclass(frozen=True)
class Data:
    """A data set: its training and test part, labels counting from 0 in the order of `classes`.

    Values lie in `value_range` (None: anywhere); each is the fraction of `trials` binary pixels that are on. Each class
    has samples in both parts.
    """

    train: Samples
    test: Samples
    classes: tuple[str, ...]
    value_range: tuple[float, float] | None = (0.0, 1.0)
    trials: int = 1


@runtime_checkable
class Source(Protocol):
    """Anything that can load a data set."""

    def load(self) -> Data:
        """The data set, on the CPU."""
        ...


@runtime_checkable
class Placed(Protocol):
    """A source that can say where its data lie, and what to do if they are broken: for errors, which name both."""

    place: str
    remedy: str


# Data sets that were found sound: the runs of a sweep share one, which is looked at once.
_sound: WeakIdKeyDictionary = WeakIdKeyDictionary()


def load(source: Source) -> Data:
    """The data set of `source`, if there is nothing wrong with it; every benchmark gets its data from here.

    Raises:
        DataError: it can't be had, or can't be learnt from.
    """
    what, remedy = f"benchmark.source={type(source).__name__}", "mend its load()"
    if isinstance(source, Placed):
        what, remedy = source.place, source.remedy
    if not callable(getattr(source, "load", None)):
        raise DataError(f"{what}: has no load(), by which a source gives its Data")
    try:
        data = source.load()
    except OSError as error:
        raise DataError(f"{what}: can't be read ({_line(error)}); see to it that the file is there") from error
    if not isinstance(data, Data):
        raise DataError(f"{what}: its load() gave something of type {type(data).__name__}, not Data; {remedy}")
    if data not in _sound:
        _sound[checked(data, what, remedy)] = True
    return data


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
        self.name, self.root, self.download = name, Path(data_root).expanduser().absolute(), download
        self.place = f"data_root={self.root}: {name}"
        self.remedy = f"remove {self.root / name} to fetch it anew, or set data_root to a folder that holds it whole"

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
        except Exception as error:  # of many kinds: its reader trusts the bytes that it finds
            fault, missing = self._looked_at(dataset)
            # torchvision says `not found` of a set that isn't there, and other things of one that is broken.
            if not missing or "not found" not in str(error):
                remedy = "see to its permissions" if isinstance(error, PermissionError) else self.remedy
                raise DataError(f"{self.place} can't be read there ({fault or _line(error)}); {remedy}") from error
        if not self.download:
            raise DataError(
                f"{self.place} {missing}; set data_root or GR_DATA_ROOT to a folder that holds it, or download=true"
            )
        try:
            self._fetch(dataset)
        except Exception as error:
            raise DataError(
                f"{self.place} {missing} and could not be downloaded ({_line(error)}); "
                "set data_root or GR_DATA_ROOT to a folder that holds it"
            ) from error
        return dataset(self.root, train=train, download=False)

    def _looked_at(self, dataset: Any) -> tuple[str, str]:
        """What is wrong with the files that are there, if it can be told; and what is missing, if anything is."""
        paths = [self.root / self.name / "raw" / Path(archive).stem for archive, _ in dataset.resources]
        there = [path for path in paths if os.path.exists(path)]
        faults = ((path.name, idx_fault(path)) for path in there)
        missing = [path.name for path in paths if path not in there]
        lacks = "" if not missing else f"lacks {missing[0]}" if there else "is not there"
        return next((f"{name} {fault}" for name, fault in faults if fault), ""), lacks

    def _fetch(self, dataset: Any) -> None:
        """Download the set beside its place, then move it there: what is broken off leaves nothing that looks whole."""
        self.root.mkdir(parents=True, exist_ok=True)
        with TemporaryDirectory(prefix=f".{self.name}.", dir=self.root) as folder, _patience():
            beside, raw = Path(folder), Path(self.name, "raw")
            (beside / raw).mkdir(parents=True)
            # Archives that were put there need no network: torchvision knows them by their checksums.
            for archive in (self.root / raw).glob("*.gz"):
                shutil.copy(archive, beside / raw)
            dataset(beside, train=True, download=True)
            (self.root / raw).mkdir(parents=True, exist_ok=True)
            for file in (beside / raw).iterdir():
                file.replace(self.root / raw / file.name)


@contextmanager
def _patience() -> Iterator[None]:
    """Connections that are opened meanwhile fail when nothing comes for a while, instead of waiting for minutes."""
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(_PATIENCE)
    try:
        yield
    finally:
        socket.setdefaulttimeout(before)


def _images(data: object) -> Tensor:
    """(N, H, W) or (N, H, W, C) bytes to (N, C, H, W)."""
    x = torch.as_tensor(data)
    return x.unsqueeze(1) if x.dim() == 3 else x.permute(0, 3, 1, 2).contiguous()


def _line(error: Exception) -> str:
    """An error in a few words: its first line that says something, which one that ends in a colon does not."""
    lines = [line for line in str(error).splitlines() if line.strip() and not line.rstrip().endswith(":")]
    return " ".join(lines[0].split())[:120] if lines else type(error).__name__
