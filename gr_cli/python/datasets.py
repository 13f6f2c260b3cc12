"""Samples and labels from tensors, arrays and torch data sets."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import TensorDataset

from gr_cli.errors import ConfigError, DataError, one_line
from gr_cli.system.messages import with_progress


def arrays_of(value: Any) -> tuple[tuple[Any, ...], str]:
    """Samples and labels as `(x, y)` or `(x, y, x_test, y_test)`, and a name for them.

    Raises:
        ConfigError: It is no data.
        DataError: A data set can't be read.
    """
    if _is_dataset(value):
        return _read(value), type(value).__name__
    parts = tuple(value) if isinstance(value, (list, tuple)) else ()
    if len(parts) in (2, 4) and all(map(_is_array, parts)):
        return tuple(np.asarray(part) if hasattr(part, "iloc") else part for part in parts), "tensors"
    if len(parts) == 2:
        (train, name), (test, _) = (arrays_of(part) for part in parts)
        if len(train) == len(test) == 2:
            return (*train, *test), name
    raise ConfigError(
        "benchmark",
        type(value).__name__,
        "must be the name of an option, a Benchmark, a torch Dataset, tensors (x, y) or (x, y, x_test, y_test), or a "
        "pair of such data for training and testing",
    )


def _is_array(value: Any) -> bool:
    """Whether it is a tensor, an array, a sparse matrix, a pandas table, or a list of numbers, texts or such lists."""
    if isinstance(value, (list, tuple)):
        return bool(value) and (isinstance(value[0], (int, float, str)) or _is_nested_list(value))
    return hasattr(value, "dtype") or hasattr(value, "iloc")


def _is_nested_list(value: Any) -> bool:
    return isinstance(value[0], (list, tuple)) and _is_array(value[0])


def _is_dataset(value: Any) -> bool:
    """Whether it is a data set in the sense of torch: samples by index."""
    is_sequence = hasattr(value, "__getitem__") and hasattr(value, "__len__")
    return is_sequence and not isinstance(value, (list, tuple, dict, str)) and not _is_array(value)


def _read(dataset: Any) -> tuple[Any, Any]:
    """All samples and labels of a torch data set.

    Raises:
        DataError: It does not yield pairs of a sample and a label, or samples differ in shape.
    """
    name = type(dataset).__name__
    if isinstance(dataset, TensorDataset) and len(dataset.tensors) == 2:
        return dataset.tensors
    samples, labels = [], []
    for index in with_progress(range(len(dataset)), len(dataset), f"reading {name}"):
        item = dataset[index]
        if not isinstance(item, Sequence) or len(item) != 2:
            raise DataError(f"benchmark={name}: must yield pairs of a sample and a label; sample {index} is none")
        samples.append(torch.as_tensor(np.asarray(item[0])) if not isinstance(item[0], Tensor) else item[0])
        labels.append(item[1].item() if isinstance(item[1], (Tensor, np.generic)) else item[1])
    if not samples:
        raise DataError(f"benchmark={name}: has no samples")
    try:
        return torch.stack(samples), labels
    except (RuntimeError, TypeError) as error:
        raise DataError(
            f"benchmark={name}: its samples differ ({one_line(error)[:100]}); give all the same shape"
        ) from error
