"""Data sets of torchvision, read from files in torchvision's own layout."""

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

# Seconds without data after which a download fails.
_TIMEOUT_SECONDS = 10.0

Name = Literal["MNIST", "FashionMNIST", "KMNIST", "EMNIST", "USPS", "SVHN", "CIFAR10", "CIFAR100"]
EmnistSplit = Literal["balanced", "byclass", "bymerge", "digits", "letters", "mnist"]

# Files in the root folder that are not named after the data set.
_FILE_NAMES = {
    "USPS": "usps.bz2 and usps.t.bz2",
    "SVHN": "train_32x32.mat and test_32x32.mat",
    "CIFAR10": "cifar-10-batches-py",
    "CIFAR100": "cifar-100-python",
}


@dataclass(frozen=True)
class _DatasetFiles:
    """Files of a data set below its root folder.

    Attributes:
        split_arguments: Keyword arguments that select torchvision's training and test split.
        files: Required files, each with its MD5 checksum if torchvision publishes one.
        archives: Downloads from which torchvision extracts the files; present ones are not downloaded again.
    """

    split_arguments: tuple[Mapping[str, Any], Mapping[str, Any]]
    files: Mapping[str, str | None]
    archives: tuple[str, ...]


def _dataset_files(name: str, split: str | None, dataset: Any) -> _DatasetFiles:
    by_flag = ({"train": True}, {"train": False})
    if name == "SVHN":
        files = dict(dataset.split_list[split_name][1:] for split_name in ("train", "test"))
        return _DatasetFiles(({"split": "train"}, {"split": "test"}), files, tuple(files))
    if name == "USPS":
        files = dict(entry[1:] for entry in dataset.split_list.values())
        return _DatasetFiles(by_flag, files, tuple(files))
    if name.startswith("CIFAR"):
        entries = [*dataset.train_list, *dataset.test_list, (dataset.meta["filename"], dataset.meta["md5"])]
        files = {f"{dataset.base_folder}/{file}": checksum for file, checksum in entries}
        return _DatasetFiles(by_flag, files, (dataset.filename,))
    raw = f"{name}/raw"
    if name == "EMNIST":
        names = [
            f"{split_name}-{file_kind}"
            for split_name in ("train", "test")
            for file_kind in ("images-idx3", "labels-idx1")
        ]
        raw_files = {f"{raw}/emnist-{split}-{file_kind}-ubyte": None for file_kind in names}
        return _DatasetFiles(
            ({"split": split, "train": True}, {"split": split, "train": False}), raw_files, (f"{raw}/gzip.zip",)
        )
    archives = [archive for archive, _ in dataset.resources]
    return _DatasetFiles(
        by_flag,
        {f"{raw}/{Path(archive).stem}": None for archive in archives},
        tuple(f"{raw}/{archive}" for archive in archives),
    )


class Torchvision:
    """A data set of torchvision, downloaded if it is missing.

    SVHN needs scipy. The files of CIFAR are pickles, which may run code when read: torchvision reads them only if they
    have the checksums of the published files, so other data in this format is refused.

    Args:
        name: Class in `torchvision.datasets`.
        data_root: Folder of the data sets, in torchvision's layout.
        download: Download the data set if it is missing.
        split: EMNIST's split; null for all other data sets. Its images are transposed to be upright.
    """

    def __init__(self, name: Name, data_root: str, download: bool = True, split: EmnistSplit | None = None) -> None:
        if (split is not None) != (name == "EMNIST"):
            splits = ", ".join(EmnistSplit.__args__)  # type: ignore[attr-defined]
            problem = f"must be one of {splits}" if name == "EMNIST" else f"{name} has no splits, EMNIST has"
            raise ConfigError("benchmark.source.split", split, problem)
        self.name, self.split, self.download = name, split, download
        self.root = Path(data_root).expanduser().absolute()
        self.location = f"data_root={self.root}: {name}"
        files = self.root / _FILE_NAMES.get(name, name)
        self.remedy = f"remove {files} to fetch it anew, or set data_root to a folder that holds it whole"

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
    @lru_cache(maxsize=2)  # shared by the runs of a sweep
    def _read(cls, name: Name, root: Path, download: bool, split: EmnistSplit | None, _: object) -> Dataset:
        from torchvision import datasets

        source, dataset = cls(name, str(root), download, split), getattr(datasets, name)
        layout = _dataset_files(name, split, dataset)
        splits = [source._load_split(dataset, layout, split_arguments) for split_arguments in layout.split_arguments]
        class_names = getattr(splits[0], "classes", [str(digit) for digit in range(10)])
        names = [str(name).partition(" - ")[0] for name in class_names]  # "0 - zero" becomes "0"
        train, test = (
            Samples(source._images(split_arguments.data), source._labels(split_arguments)) for split_arguments in splits
        )
        classes = tuple(names[1:] if split == "letters" else names)  # class 0 is "N/A"
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

    def _load_split(self, dataset: Any, layout: _DatasetFiles, arguments: Mapping[str, Any]) -> Any:
        """torchvision's training or test split, downloaded if it is missing.

        Raises:
            DataError: The files are missing, damaged or can't be downloaded.
        """
        try:
            return dataset(self.root, **arguments, download=False)
        except Exception as error:  # torchvision's readers don't validate the bytes and raise anything
            problem, missing = self._file_problems(layout)
            # torchvision's message contains `not found` only if the data set is missing.
            if not missing or not ("not found" in str(error) or isinstance(error, FileNotFoundError)):
                remedy = "check its permissions" if isinstance(error, PermissionError) else self.remedy
                raise DataError(
                    f"{self.location} can't be read there ({problem or error_summary(error)}); {remedy}"
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
        return dataset(self.root, **arguments, download=False)

    def _file_problems(self, layout: _DatasetFiles) -> tuple[str, str]:
        """What is wrong with the present files, and which file is missing; both empty if nothing is."""
        paths = {self.root / name: checksum for name, checksum in layout.files.items()}
        present = [path for path in paths if os.path.exists(path)]
        problems = ((path.name, _file_problem(path, paths[path])) for path in present)
        missing = [path.name for path in paths if path not in present]
        missing_note = "" if not missing else f"lacks {missing[0]}" if present else "is not there"
        return next((f"{name} {problem}" for name, problem in problems if problem), ""), missing_note

    def _download(self, dataset: Any, layout: _DatasetFiles) -> None:
        """Download into a temporary folder, then move the files into place, so that failures leave nothing behind."""
        self.root.mkdir(parents=True, exist_ok=True)
        with TemporaryDirectory(prefix=f".{self.name}.", dir=self.root) as folder, _connection_timeout():
            temporary = Path(folder)
            # Present archives need no network: torchvision verifies them by their checksums.
            for archive in layout.archives:
                if (self.root / archive).is_file():
                    (temporary / archive).parent.mkdir(parents=True, exist_ok=True)
                    shutil.copy(self.root / archive, temporary / archive)
            for arguments in layout.split_arguments:
                dataset(temporary, **arguments, download=True)
            for file in [path for path in temporary.rglob("*") if path.is_file()]:
                target = self.root / file.relative_to(temporary)
                target.parent.mkdir(parents=True, exist_ok=True)
                file.replace(target)


def _file_problem(path: Path, checksum: str | None) -> str:
    """What is wrong with a file, by its checksum or else its IDX header; empty if nothing is."""
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
    """Set a timeout on sockets that are opened within the context."""
    previous = socket.getdefaulttimeout()
    socket.setdefaulttimeout(_TIMEOUT_SECONDS)
    try:
        yield
    finally:
        socket.setdefaulttimeout(previous)
