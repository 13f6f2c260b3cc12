"""The data sets of torchvision, read by torchvision from the files that it knows."""

from __future__ import annotations

import os
import shutil
import socket
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Literal

import torch
from torch import Tensor

from gr_cli.benchmarks.base import Samples
from gr_cli.benchmarks.sources.base import Dataset
from gr_cli.benchmarks.sources.idx import idx_problem
from gr_cli.benchmarks.sources.load import error_summary
from gr_cli.errors import ConfigError, DataError
from gr_cli.nn.sample_spec import SampleSpec
from gr_cli.system.file_stamps import file_stamp, wait_for_next_tick

# Seconds that a server may be silent before a download is given up.
_TIMEOUT_SECONDS = 10.0

Name = Literal["MNIST", "FashionMNIST", "KMNIST", "EMNIST", "USPS", "SVHN", "CIFAR10", "CIFAR100"]
EmnistSplit = Literal["balanced", "byclass", "bymerge", "digits", "letters", "mnist"]

# What lies in the root under another name than that of the set.
_FILE_NAMES = {
    "USPS": "usps.bz2 and usps.t.bz2",
    "SVHN": "train_32x32.mat and test_32x32.mat",
    "CIFAR10": "cifar-10-batches-py",
    "CIFAR100": "cifar-100-python",
}


@dataclass(frozen=True)
class _DatasetFiles:
    """How torchvision keeps a set below the root.

    `parts`: what its class is told to give the training and the test part. `files` that must be there, each with its
    checksum if torchvision has one. `archives` from which it makes them; of those that are there none is fetched.
    """

    split_arguments: tuple[Mapping[str, Any], Mapping[str, Any]]
    files: Mapping[str, str | None]
    archives: tuple[str, ...]


def _dataset_files(name: str, split: str | None, dataset: Any) -> _DatasetFiles:
    by_flag = ({"train": True}, {"train": False})
    if name == "SVHN":
        files = dict(dataset.split_list[part][1:] for part in ("train", "test"))
        return _DatasetFiles(({"split": "train"}, {"split": "test"}), files, tuple(files))
    if name == "USPS":
        files = dict(entry[1:] for entry in dataset.split_list.values())
        return _DatasetFiles(by_flag, files, tuple(files))
    if name.startswith("CIFAR"):
        listed = [*dataset.train_list, *dataset.test_list, (dataset.meta["filename"], dataset.meta["md5"])]
        files = {f"{dataset.base_folder}/{file}": checksum for file, checksum in listed}
        return _DatasetFiles(by_flag, files, (dataset.filename,))
    raw = f"{name}/raw"
    if name == "EMNIST":
        kinds = [f"{part}-{kind}" for part in ("train", "test") for kind in ("images-idx3", "labels-idx1")]
        named = {f"{raw}/emnist-{split}-{kind}-ubyte": None for kind in kinds}
        return _DatasetFiles(
            ({"split": split, "train": True}, {"split": split, "train": False}), named, (f"{raw}/gzip.zip",)
        )
    archives = [archive for archive, _ in dataset.resources]
    return _DatasetFiles(
        by_flag,
        {f"{raw}/{Path(archive).stem}": None for archive in archives},
        tuple(f"{raw}/{archive}" for archive in archives),
    )


class Torchvision:
    """A data set of torchvision, read by torchvision.

    SVHN needs scipy. The batches of CIFAR are pickles, which may run code when they are read: torchvision reads them
    only if they have the checksums of the published files, so a set of one's own in their format is refused.

    Args:
        name: its class in `torchvision.datasets`.
        data_root: the folder that holds it, in torchvision's layout.
        download: fetch it when it is missing.
        split: which of its sets, for EMNIST alone. Its images come upright, which in the files they are not.
    """

    def __init__(self, name: Name, data_root: str, download: bool = True, split: EmnistSplit | None = None) -> None:
        if (split is not None) != (name == "EMNIST"):
            splits = ", ".join(EmnistSplit.__args__)  # type: ignore[attr-defined]
            allowed = f"must be one of {splits}" if name == "EMNIST" else f"{name} has no splits, EMNIST has"
            raise ConfigError("benchmark.source.split", split, allowed)
        self.name, self.split, self.download = name, split, download
        self.root = Path(data_root).expanduser().absolute()
        self.location = f"data_root={self.root}: {name}"
        where = self.root / _FILE_NAMES.get(name, name)
        self.remedy = f"remove {where} to fetch it anew, or set data_root to a folder that holds it whole"

    def load(self) -> Dataset:
        if self.name == "SVHN" and find_spec("scipy") is None:
            raise DataError(
                "SVHN: is read by scipy, which is not installed; install it with: pip install 'gr-cli[svhn]'"
            )
        from torchvision import datasets

        layout = _dataset_files(self.name, self.split, getattr(datasets, self.name))
        stamps = tuple(file_stamp(self.root / file) for file in layout.files)
        wait_for_next_tick(stamps)
        return self._read(self.name, self.root, self.download, self.split, stamps)

    @classmethod
    @lru_cache(maxsize=2)  # the runs of a sweep share what was read once
    def _read(cls, name: Name, root: Path, download: bool, split: EmnistSplit | None, _: object) -> Dataset:
        from torchvision import datasets

        source, dataset = cls(name, str(root), download, split), getattr(datasets, name)
        layout = _dataset_files(name, split, dataset)
        parts = [source._load_split(dataset, layout, part) for part in layout.split_arguments]
        named = getattr(parts[0], "classes", [str(digit) for digit in range(10)])
        names = [str(name).partition(" - ")[0] for name in named]  # "0 - zero" is 0
        train, test = (Samples(source._images(part.data), source._labels(part)) for part in parts)
        classes = tuple(names[1:] if split == "letters" else names)  # its class 0 is "N/A"
        return Dataset(train, test, classes, SampleSpec(tuple(train.store.shape[1:])))

    def _images(self, data: object) -> Tensor:
        """(N, H, W), (N, C, H, W) or (N, H, W, C) bytes to (N, C, H, W)."""
        x = torch.as_tensor(data)
        if x.dim() == 3:
            x = (x.mT if self.name == "EMNIST" else x).unsqueeze(1)
        return (x if x.shape[1] in (1, 3) else x.permute(0, 3, 1, 2)).contiguous()

    def _labels(self, part: Any) -> Tensor:
        y = torch.as_tensor(part.labels if self.name == "SVHN" else part.targets).long()
        return y - 1 if self.split == "letters" else y

    def _load_split(self, dataset: Any, layout: _DatasetFiles, part: Mapping[str, Any]) -> Any:
        """The training or the test part, fetched if it is missing."""
        try:
            return dataset(self.root, **part, download=False)
        except Exception as error:  # of many kinds: its reader trusts the bytes that it finds
            fault, missing = self._file_problems(layout)
            # torchvision says `not found` of a set that isn't there, and other things of one that is broken.
            if not missing or not ("not found" in str(error) or isinstance(error, FileNotFoundError)):
                remedy = "see to its permissions" if isinstance(error, PermissionError) else self.remedy
                raise DataError(
                    f"{self.location} can't be read there ({fault or error_summary(error)}); {remedy}"
                ) from error
        if not self.download:
            raise DataError(
                f"{self.location} {missing}; set data_root or GR_DATA_ROOT to a folder that holds it, or download=true"
            )
        try:
            self._download(dataset, layout)
        except Exception as error:
            raise DataError(
                f"{self.location} {missing} and could not be downloaded ({error_summary(error)}); "
                "set data_root or GR_DATA_ROOT to a folder that holds it"
            ) from error
        return dataset(self.root, **part, download=False)

    def _file_problems(self, layout: _DatasetFiles) -> tuple[str, str]:
        """What is wrong with the files that are there, if it can be told; and what is missing, if anything is."""
        paths = {self.root / name: checksum for name, checksum in layout.files.items()}
        there = [path for path in paths if os.path.exists(path)]
        faults = ((path.name, _file_problem(path, paths[path])) for path in there)
        missing = [path.name for path in paths if path not in there]
        lacks = "" if not missing else f"lacks {missing[0]}" if there else "is not there"
        return next((f"{name} {fault}" for name, fault in faults if fault), ""), lacks

    def _download(self, dataset: Any, layout: _DatasetFiles) -> None:
        """Download the set beside its place, then move it there: what is broken off leaves nothing that looks whole."""
        self.root.mkdir(parents=True, exist_ok=True)
        with TemporaryDirectory(prefix=f".{self.name}.", dir=self.root) as folder, _connection_timeout():
            beside = Path(folder)
            # Archives that were put there need no network: torchvision knows them by their checksums.
            for archive in layout.archives:
                if (self.root / archive).is_file():
                    (beside / archive).parent.mkdir(parents=True, exist_ok=True)
                    shutil.copy(self.root / archive, beside / archive)
            for part in layout.split_arguments:
                dataset(beside, **part, download=True)
            for file in [path for path in beside.rglob("*") if path.is_file()]:
                target = self.root / file.relative_to(beside)
                target.parent.mkdir(parents=True, exist_ok=True)
                file.replace(target)


def _file_problem(path: Path, checksum: str | None) -> str:
    """What is wrong with a file, empty if nothing is: by its checksum, or its form if it has none."""
    if checksum is None:
        return idx_problem(path)
    from torchvision.datasets.utils import check_integrity

    if path.is_dir():
        return "is a folder, not a file"
    try:
        return "" if check_integrity(path, checksum) else "has not the checksum of the published file"
    except OSError as error:
        return f"can't be opened: {error.strerror}"


@contextmanager
def _connection_timeout() -> Iterator[None]:
    """Connections that are opened meanwhile fail when nothing comes for a while, instead of waiting for minutes."""
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(_TIMEOUT_SECONDS)
    try:
        yield
    finally:
        socket.setdefaulttimeout(before)
