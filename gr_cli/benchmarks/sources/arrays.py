"""Data sets in NumPy and torch files, read without executing code."""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from pickle import UnpicklingError
from typing import Any, Literal
from zipfile import ZipFile, is_zipfile

import numpy as np
import torch

from gr_cli.benchmarks.sources.base import Dataset, TestShare
from gr_cli.benchmarks.sources.categories import Categories
from gr_cli.benchmarks.sources.load import error_summary
from gr_cli.benchmarks.sources.tensors import ChannelLayout, Tensors, ValueRange, check_value_range
from gr_cli.benchmarks.sources.validation import join_names
from gr_cli.errors import ConfigError, DataError
from gr_cli.system.file_stamps import file_stamp, wait_for_next_tick
from gr_cli.system.mapping import Storage, is_to_be_mapped
from gr_cli.system.messages import print_status
from gr_cli.types import NonNegativeInt

ARRAY_SUFFIXES = (".npz", ".npy", ".pt", ".pth")
_ARRAY_NAMES = ("x", "y", "x_train", "y_train", "x_test", "y_test")
_COLUMN_NAMES_KEY = "columns"  # array with their names
_REQUIRED_ARRAYS = "it must hold x and y, or x_train, y_train, x_test and y_test"


class Arrays:
    """Arrays from files: `.npz`, `.npy`, or `.pt` with a dict or tuple of tensors, without pickled code.

    The arrays are named `x` and `y`, or `x_train`, `y_train`, `x_test` and `y_test`; a tuple has them in this order.
    A folder holds `.npy` files with these names. `columns`, an array of texts, names the columns of vectors.

    Args:
        path: File or folder of the arrays; required.
        labels: `.npy` file with the labels; required if `path` is a `.npy` file, otherwise null.
        test_share: Share of each class that becomes the test set, where the file has none.
        test_seed: Seed of that test split, independent of the run's seed.
        value_range: `[low, high]` of the values, scaled to [0, 1]; null: unbounded values, unchanged; `auto`: [0, 1] if
            all floats lie in it, else null.
        standardise: Scale each channel, or each entry of a vector, to mean 0 and variance 1 over the training set.
        layout: Axes of 4-dimensional arrays; `auto`: channels are the axis of size 1 or 3. `NCL` and `NLC` say that
            3-dimensional arrays are time series of C channels and L steps, not images.
        categories: Categorical columns of vectors, by name or index: `[4, [5, 6, 7]]` is a column of category numbers
            and three columns of a one-hot code.
        storage: Whether samples in `.npy` files are read into memory or memory-mapped; `auto`: mapped if a file takes
            more than a quarter of the available memory.
    """

    def __init__(
        self,
        path: str | None = None,
        labels: str | None = None,
        test_share: TestShare = 0.2,
        test_seed: NonNegativeInt = 0,
        value_range: ValueRange | Literal["auto"] | None = "auto",
        standardise: bool = False,
        layout: ChannelLayout = "auto",
        categories: Categories | None = None,
        storage: Storage = "auto",
    ) -> None:
        if path is None:
            raise ConfigError(
                "benchmark.source.path",
                None,
                "must be a file of arrays, .npz, .npy or .pt, or a folder of .npy files",
                "set benchmark.source.path=<file>",
            )
        check_value_range(value_range, standardise)
        self.location, self.remedy = f"benchmark.source.path={path}", "correct its contents"
        self._path, self._labels = Path(path).expanduser(), None if labels is None else Path(labels).expanduser()
        range_key = value_range if value_range is None or isinstance(value_range, str) else tuple(value_range)
        category_key = categories and tuple(c if isinstance(c, (int, str)) else tuple(c) for c in categories)
        self._choices = (
            ("test_share", test_share),
            ("test_seed", test_seed),
            ("value_range", range_key),
            ("standardise", standardise),
            ("layout", layout),
            ("categories", category_key),
        )
        self._storage: Storage = storage
        self.cache_name = str((self._path.resolve(), self._choices))

    def load(self) -> Dataset:
        files = _dataset_files(self._path, self._labels, self.location)
        stamps = tuple((file.absolute(), file_stamp(file)) for file in files)
        wait_for_next_tick(stamp for _, stamp in stamps)
        return _load_dataset(self._path, self._labels, stamps, self._choices, self._storage, self.location)


@lru_cache(maxsize=2)  # shared by the runs of a sweep
def _load_dataset(
    path: Path, labels: Path | None, _: object, choices: tuple[Any, ...], storage: Storage, location: str
) -> Dataset:
    arrays = read_arrays(path, location, labels, storage)
    train_names = ("x", "y") if "x" in arrays else ("x_train", "y_train")
    missing = [name for name in train_names if name not in arrays]
    if {"data", "format", "shape"} <= arrays.keys():
        raise DataError(
            f"{location}: is a sparse matrix of SciPy, without labels; save x=matrix.toarray() and y beside it"
        )
    if missing:
        raise DataError(
            f"{location}: holds {join_names(list(arrays)) or 'nothing'}, and no {missing[0]}; {_REQUIRED_ARRAYS}"
        )
    if "x" in arrays and "x_train" in arrays:
        raise DataError(f"{location}: holds x and x_train, of which one must be for training; remove the other")
    columns = _column_names(arrays.pop(_COLUMN_NAMES_KEY, None), location)
    unknown = [name for name in arrays if name not in (*train_names, "x_test", "y_test")]
    if unknown:
        print_status(f"{location}: ignored: {join_names(unknown)}")
    x, y, x_test, y_test = (arrays.get(name) for name in (*train_names, "x_test", "y_test"))
    source = Tensors(x, y, x_test, y_test, columns=columns, **dict(choices))
    source.location, source.shares_memory = location, False
    return source.load()


def _column_names(values: Any, location: str) -> list[str]:
    """The names of columns as texts.

    Raises:
        DataError: They are not texts.
    """
    names = np.asarray([] if values is None else values)
    if names.ndim != 1 or (names.size and names.dtype.kind not in "US"):
        raise DataError(
            f"{location}: its {_COLUMN_NAMES_KEY} must be texts, one for each column; save them as an array of str"
        )
    return [name.decode("utf-8", "replace") if isinstance(name, bytes) else str(name) for name in names.tolist()]


# --- reading


def _dataset_files(path: Path, labels: Path | None, location: str) -> list[Path]:
    """The files of a data set.

    Raises:
        ConfigError: The file type is unsupported, or `labels` does not fit it.
        DataError: A file is missing.
    """
    if path.is_dir():
        present = [
            path / f"{name}.npy" for name in (*_ARRAY_NAMES, _COLUMN_NAMES_KEY) if (path / f"{name}.npy").is_file()
        ]
        if not present:
            raise DataError(
                f"{location}: is a folder without x.npy and y.npy; for folders of images use benchmark=image_folder"
            )
        return present
    if path.suffix.lower() not in ARRAY_SUFFIXES:
        raise ConfigError(
            "benchmark.source.path", path, "must be a file .npz, .npy or .pt, or a folder with x.npy and y.npy"
        )
    if (path.suffix.lower() == ".npy") != (labels is not None):
        allowed = "must name the .npy file with the labels" if labels is None else "is for .npy files alone"
        raise ConfigError("benchmark.source.labels", labels, allowed)
    paths = {location: path} | ({} if labels is None else {f"benchmark.source.labels={labels}": labels})
    for setting, file in paths.items():
        if not file.is_file():
            problem = "is no file" if file.exists() else "is not there"
            raise DataError(f"{setting}: {problem}; name a file that holds {'labels' if file == labels else 'arrays'}")
    return list(paths.values())


def read_arrays(path: Path, location: str, labels: Path | None = None, storage: Storage = "memory") -> dict[str, Any]:
    """The arrays of a file or folder by name; samples in `.npy` files as `np.memmap` if `storage` says so.

    Raises:
        DataError: A file is damaged, holds pickled objects, or no arrays by these names.
    """
    if path.is_dir():
        files = _dataset_files(path, labels, location)
        return {file.stem: _read_file(file, location, storage) for file in files}
    if labels is not None:
        y = _read_file(labels, f"benchmark.source.labels={labels}")
        return {"x": _read_file(path, location, storage), "y": y}
    content = _read_file(path, location)
    if isinstance(content, Mapping):
        named = {str(name).lower(): value for name, value in content.items()}
        if len(named) < len(content):
            raise DataError(
                f"{location}: holds arrays whose names differ only in case ({join_names(list(content))}); rename"
            )
        return named
    if isinstance(content, (tuple, list)) and len(content) in (2, 4):
        return dict(zip(_ARRAY_NAMES[:2] if len(content) == 2 else _ARRAY_NAMES[2:], content, strict=True))
    raise DataError(f"{location}: holds an object of type {type(content).__name__}; {_REQUIRED_ARRAYS}")


def _read_file(file: Path, location: str, storage: Storage = "memory") -> Any:
    """The arrays of a file, read without executing code.

    Args:
        file: File `.npz`, `.npy` or `.pt`.
        location: Start of messages.
        storage: Whether an array of numbers in a `.npy` file is memory-mapped.

    Raises:
        DataError: The file is damaged, empty, or holds pickled objects.
    """
    try:
        if not file.stat().st_size:
            raise _unreadable_error(file, location, "is empty")
        # Neither reader verifies the checksums of all archive members.
        archived = is_zipfile(file)
        if file.suffix.lower() == ".npz" and not archived:
            raise _unreadable_error(file, location, _DAMAGED)
        if archived:
            with ZipFile(file) as archive:
                if archive.testzip() is not None:
                    raise _unreadable_error(file, location, _DAMAGED)
        if file.suffix.lower() in (".pt", ".pth"):
            return torch.load(file, map_location="cpu", weights_only=True)
        if _is_mappable(file) and is_to_be_mapped(storage, file.stat().st_size):
            return np.load(file, mmap_mode="r")
        content = np.load(file, allow_pickle=False)
        if isinstance(content, np.lib.npyio.NpzFile):
            with content:
                return dict(content)
        return content
    except DataError:
        raise
    except UnpicklingError as error:
        raise _unreadable_error(file, location, "holds pickled objects, which are not read, or is damaged") from error
    except MemoryError as error:
        raise _unreadable_error(file, location, "holds more than there is memory for, or is damaged") from error
    except OSError as error:
        reason = error.strerror or error_summary(error)
        raise _unreadable_error(file, location, f"can't be read ({reason})") from error
    except Exception as error:  # a damaged file raises anything
        pickled = "pickle" in str(error).lower()
        raise _unreadable_error(
            file, location, "holds pickled objects, which are not read" if pickled else _DAMAGED
        ) from error


def _is_mappable(file: Path) -> bool:
    """Whether a file holds samples as one array of numbers: neither labels nor an archive."""
    if file.suffix.lower() != ".npy" or file.stem.startswith("y") or file.stem == _COLUMN_NAMES_KEY:
        return False
    with file.open("rb") as content:
        version = np.lib.format.read_magic(content)
        read_header = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        shape, _, dtype = read_header(content)
    return dtype.kind in "buif" and len(shape) > 1 and 0 not in shape


_DAMAGED = "is damaged, cut short, or of another format than its name says"


def _unreadable_error(file: Path, location: str, problem: str) -> DataError:
    source = location if str(file) in location else f"{location}: {file.name}"
    return DataError(f"{source}: {problem}; write it anew: {_REQUIRED_ARRAYS}, saved without pickling")
