"""Data sets of torchvision, read from files in torchvision's own layout.

Those in IDX files are read without torchvision, whose import takes longer than everything else before the training.
"""

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
from gr_cli.benchmarks.sources.cifar_folders import cifar_folder, load_cifar_folders
from gr_cli.benchmarks.sources.idx import IdxSet, idx_problem, idx_set, read_idx
from gr_cli.benchmarks.sources.load import error_summary
from gr_cli.errors import ConfigError, DataError
from gr_cli.nn.sample_spec import SampleSpec
from gr_cli.system.file_stamps import file_stamp, wait_for_next_tick
from gr_cli.system.mapping import Storage

# Seconds without data after which a download fails.
_TIMEOUT_SECONDS = 10.0

Name = Literal["MNIST", "FashionMNIST", "KMNIST", "EMNIST", "USPS", "SVHN", "CIFAR10", "CIFAR100"]
EmnistSplit = Literal["balanced", "byclass", "bymerge", "digits", "letters", "mnist"]

_TEN_DIGITS = tuple(map(str, range(10)))  # class names of the data sets for which torchvision has none

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


def _idx_layout(name: str, split: str | None, data: IdxSet) -> _DatasetFiles:
    archives = (f"{name}/raw/gzip.zip",) if split else tuple(f"{file}.gz" for file in data.files)
    chosen = {"split": split} if split else {}
    return _DatasetFiles(({**chosen, "train": True}, {**chosen, "train": False}), dict.fromkeys(data.files), archives)


def _torchvision_layout(name: str) -> _DatasetFiles:
    """The files of a data set that torchvision reads; all have published checksums."""
    from torchvision import datasets

    dataset, by_flag = getattr(datasets, name), ({"train": True}, {"train": False})
    if name == "SVHN":
        files = dict(dataset.split_list[split_name][1:] for split_name in ("train", "test"))
        return _DatasetFiles(({"split": "train"}, {"split": "test"}), files, tuple(files))
    if name == "USPS":
        files = dict(entry[1:] for entry in dataset.split_list.values())
        return _DatasetFiles(by_flag, files, tuple(files))
    entries = [*dataset.train_list, *dataset.test_list, (dataset.meta["filename"], dataset.meta["md5"])]
    files = {f"{dataset.base_folder}/{file}": checksum for file, checksum in entries}
    return _DatasetFiles(by_flag, files, (dataset.filename,))


class Torchvision:
    """A data set of torchvision, downloaded if it is missing.

    SVHN needs scipy. The files of CIFAR are pickles, which may run code when read: torchvision reads them only if they
    have the checksums of the published files, so other data in this format is refused. Where there are none, the images
    are read from `cifar10/` or `cifar100/`, folders `train/<class>/` and `test/<class>/` of image files.

    Args:
        name: Class in `torchvision.datasets`.
        data_root: Folder of the data sets, in torchvision's layout.
        download: Download the data set if it is missing.
        split: EMNIST's split; null for all other data sets. Its images are transposed to be upright.
        cache_root: Folder of the cache; images decoded from image files lie in `images/` below it.
        storage: Whether they are read into memory or memory-mapped; `auto`: mapped if they take more than a quarter of
            the available memory.
    """

    def __init__(
        self,
        name: Name,
        data_root: str,
        download: bool = True,
        split: EmnistSplit | None = None,
        cache_root: str = "~/.cache/gr_cli",
        storage: Storage = "auto",
    ) -> None:
        if (split is not None) != (name == "EMNIST"):
            splits = ", ".join(EmnistSplit.__args__)  # type: ignore[attr-defined]
            problem = f"must be one of {splits}" if name == "EMNIST" else f"{name} has no splits, EMNIST has"
            raise ConfigError("benchmark.source.split", split, problem)
        self.name, self.split, self.download = name, split, download
        self.root = Path(data_root).expanduser().absolute()
        self.cache_root, self.storage = Path(cache_root).expanduser(), storage
        self.location = f"data_root={self.root}: {name}"
        files = self.root / _FILE_NAMES.get(name, name)
        self.remedy = f"remove {files} to fetch it anew, or set data_root to a folder that holds it whole"
        folder = cifar_folder(self.root, name)
        if folder is not None and folder.is_dir() and not files.exists():
            self.remedy = f"correct the images in {folder}"

    def load(self) -> Dataset:
        if self.name == "SVHN" and find_spec("scipy") is None:
            raise DataError(
                "SVHN: is read by scipy, which is not installed; install it with: pip install 'gr-cli[svhn]'"
            )
        data = idx_set(self.name, self.split)
        layout = _torchvision_layout(self.name) if data is None else _idx_layout(self.name, self.split, data)
        folder = cifar_folder(self.root, self.name)
        if folder is not None and folder.is_dir() and not self._has_any(layout):
            return load_cifar_folders(folder, self.name, self.location, self.cache_root, self.storage)
        stamps = tuple(file_stamp(self.root / file) for file in layout.files)
        wait_for_next_tick(stamps)
        return self._read(self.name, self.root, self.download, self.split, stamps)

    @classmethod
    @lru_cache(maxsize=2)  # shared by the runs of a sweep
    def _read(cls, name: Name, root: Path, download: bool, split: EmnistSplit | None, _: object) -> Dataset:
        source, data = cls(name, str(root), download, split), idx_set(name, split)
        return source._read_by_torchvision() if data is None else source._read_idx(data)

    def _has_any(self, layout: _DatasetFiles) -> bool:
        return any((self.root / file).exists() for file in (*layout.files, *layout.archives))

    def _read_idx(self, data: IdxSet) -> Dataset:
        """Read the data set from IDX files.

        Raises:
            DataError: The files are missing, damaged or can't be downloaded.
        """
        layout = _idx_layout(self.name, self.split, data)
        problem, missing = self._file_problems(layout)
        if missing:
            self._fetch(layout, missing)
            problem, _ = self._file_problems(layout)
        if problem:
            raise self._unreadable(problem, "check its permissions" if "can't be opened" in problem else self.remedy)
        train_x, train_y, test_x, test_y = (read_idx(self.root / file) for file in data.files)
        train = Samples(self._images(train_x), self._labels(train_y))
        test = Samples(self._images(test_x), self._labels(test_y))
        return Dataset(train, test, data.classes, SampleSpec(tuple(train.store.shape[1:])))

    def _read_by_torchvision(self) -> Dataset:
        layout = _torchvision_layout(self.name)
        splits = [self._load_split(layout, split_arguments) for split_arguments in layout.split_arguments]
        train, test = (
            Samples(self._images(part.data), self._labels(part.labels if self.name == "SVHN" else part.targets))
            for part in splits
        )
        classes = tuple(getattr(splits[0], "classes", _TEN_DIGITS))
        files = "" if cifar_folder(self.root, self.name) is None else f"{_FILE_NAMES[self.name]}/"
        return Dataset(train, test, classes, SampleSpec(tuple(train.store.shape[1:])), files=files)

    def _images(self, data: object) -> Tensor:
        """(N, H, W), (N, C, H, W) or (N, H, W, C) bytes to (N, C, H, W)."""
        x = torch.as_tensor(data)
        if x.dim() == 3:
            x = (x.mT if self.name == "EMNIST" else x).unsqueeze(1)
        return (x if x.shape[1] in (1, 3) else x.permute(0, 3, 1, 2)).contiguous()

    def _labels(self, labels: object) -> Tensor:
        y = torch.as_tensor(labels).long()
        return y - 1 if self.split == "letters" else y

    def _load_split(self, layout: _DatasetFiles, arguments: Mapping[str, Any]) -> Any:
        """torchvision's training or test split, downloaded if it is missing.

        Raises:
            DataError: The files are missing, damaged or can't be downloaded.
        """
        from torchvision import datasets

        dataset = getattr(datasets, self.name)
        try:
            return dataset(self.root, **arguments, download=False)
        except Exception as error:  # torchvision's readers don't validate the bytes and raise anything
            problem, missing = self._file_problems(layout)
            # torchvision's message contains `not found` only if the data set is missing.
            if not missing or not ("not found" in str(error) or isinstance(error, FileNotFoundError)):
                remedy = "check its permissions" if isinstance(error, PermissionError) else self.remedy
                raise self._unreadable(problem or error_summary(error), remedy) from error
        self._fetch(layout, missing)
        return dataset(self.root, **arguments, download=False)

    def _unreadable(self, problem: str, remedy: str) -> DataError:
        return DataError(f"{self.location} can't be read there ({problem}); {remedy}")

    def _fetch(self, layout: _DatasetFiles, missing: str) -> None:
        """Download the data set, of which files are missing.

        Raises:
            DataError: `download` is not set, or the download failed.
        """
        folder = cifar_folder(self.root, self.name)
        classes = "" if folder is None else f" ({_FILE_NAMES[self.name]}/, or {folder.name}/ with folders of classes)"
        holder = f"set data_root or GR_DATA_ROOT to a folder that holds it{classes}"
        if not self.download:
            raise DataError(f"{self.location} {missing}; {holder}, or download=true")
        try:
            self._download(layout)
        except Exception as error:
            raise DataError(
                f"{self.location} {missing} and could not be downloaded ({error_summary(error)}); {holder}"
            ) from error

    def _file_problems(self, layout: _DatasetFiles) -> tuple[str, str]:
        """What is wrong with the present files, and which file is missing; both empty if nothing is."""
        paths = {self.root / name: checksum for name, checksum in layout.files.items()}
        present = [path for path in paths if os.path.exists(path)]
        problems = ((path.name, _file_problem(path, paths[path])) for path in present)
        missing = [path.name for path in paths if path not in present]
        missing_note = "" if not missing else f"lacks {missing[0]}" if present else "is not there"
        return next((f"{name} {problem}" for name, problem in problems if problem), ""), missing_note

    def _download(self, layout: _DatasetFiles) -> None:
        """Download into a temporary folder, then move the files into place, so that failures leave nothing behind."""
        from torchvision import datasets

        dataset = getattr(datasets, self.name)
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
