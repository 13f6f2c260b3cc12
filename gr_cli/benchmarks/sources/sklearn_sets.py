"""Data sets of scikit-learn, by name."""

from __future__ import annotations

from dataclasses import replace
from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal

import numpy as np

from gr_cli.benchmarks.sources.base import Dataset, TestShare
from gr_cli.benchmarks.sources.load import error_summary
from gr_cli.benchmarks.sources.tensors import Tensors
from gr_cli.errors import DataError
from gr_cli.types import NonNegativeInt

_SHIPPED = ("breast_cancer", "digits", "iris", "wine")
_IMAGES = ("digits", "olivetti_faces")
_FOLDER = "scikit_learn"  # in `data_root`


class SklearnSet:
    """A data set of scikit-learn. Those of images are images; the others are vectors of numbers.

    Args:
        name: `breast_cancer`, `digits`, `iris` and `wine` are part of scikit-learn, the others are downloaded.
        data_root: Folder of the data sets.
        download: Download the data set if it is missing.
        test_share: Share of each class that becomes the test set.
        test_seed: Seed of that test split, independent of the run's seed.
        standardise: Scale each column of numbers to mean 0 and variance 1 over the training samples; images are scaled
            to [0, 1] instead.
    """

    def __init__(
        self,
        name: Literal["breast_cancer", "digits", "iris", "wine", "covtype", "olivetti_faces"],
        data_root: str,
        download: bool = True,
        test_share: TestShare = 0.2,
        test_seed: NonNegativeInt = 0,
        standardise: bool = True,
    ) -> None:
        self.location, self.remedy = f"benchmark.source.name={name}", "choose another"
        self._arguments = (name, data_root, download, test_share, test_seed, standardise)

    def load(self) -> Dataset:
        if find_spec("sklearn") is None:
            raise DataError(
                f"{self.location}: scikit-learn is not installed; install it with: pip install 'gr-cli[sklearn]'"
            )
        return _load(self.location, *self._arguments)


@lru_cache(maxsize=2)  # shared by the runs of a sweep
def _load(
    location: str, name: str, data_root: str, download: bool, test_share: float, test_seed: int, standardise: bool
) -> Dataset:
    data = _bunch(location, name, data_root, download)
    is_image = name in _IMAGES
    x = np.asarray(data.images if is_image else data.data, dtype=np.float64)
    if name == "digits":
        x = x / 16
    names = [str(class_name) for class_name in getattr(data, "target_names", ())]
    y = np.asarray(data.target)
    labels = y if is_image or len(names) <= int(y.max()) else np.array(names)[y]
    columns = None if is_image else list(map(str, data.feature_names))
    source = Tensors(
        x,
        labels,
        test_share=test_share,
        test_seed=test_seed,
        standardise=standardise and not is_image,
        columns=columns,
    )
    source.location, source.shares_memory = location, False
    return replace(source.load(), classes_follow_labels=False)  # the data sets of these names are public


def _bunch(location: str, name: str, data_root: str, download: bool) -> Any:
    """What scikit-learn returns for a data set.

    Raises:
        DataError: It is missing and may not be, or can't be, downloaded.
    """
    from sklearn import datasets

    if name in _SHIPPED:
        return getattr(datasets, f"load_{name}")()
    folder = Path(data_root).expanduser() / _FOLDER
    try:
        return getattr(datasets, f"fetch_{name}")(data_home=str(folder), download_if_missing=download)
    except OSError as error:
        remedy = "check the network" if download else "use download=true"
        raise DataError(f"{location}: is not in {folder} ({error_summary(error)}); {remedy}") from error
