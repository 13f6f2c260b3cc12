"""Conversion of samples and labels from any array type to NumPy arrays."""

from __future__ import annotations

import unicodedata
from math import prod
from typing import Any

import numpy as np
import torch
from torch import Tensor

from gr_cli.errors import DataError
from gr_cli.system.memory import available_memory

Array = np.ndarray[Any, Any]

_DTYPE_NAMES = {
    "O": "objects",
    "U": "texts",
    "S": "texts",
    "T": "texts",
    "M": "dates",
    "m": "durations",
    "c": "complex numbers",
    "V": "records or raw bytes",
}


def _dtype_letter(array: Array) -> str:
    """NumPy's letter for the kind of a dtype."""
    return str(array.dtype.kind)


def as_real_array(values: Any, role: str, location: str) -> Array:
    """Real numbers as bool, uint8, int64, float32 or float64 in native byte order; sparse input becomes dense.

    Args:
        values: Array, tensor, sparse matrix or nested list.
        role: What the values are, for messages.
        location: Start of messages.

    Raises:
        DataError: The values are not real numbers, or not rectangular.
    """
    array = _as_dense_array(values, role, location)
    if _dtype_letter(array) == "O" and all(isinstance(value, (int, float, np.number)) for value in array.flat):
        array = array.astype(np.float64)
    letter = _dtype_letter(array)
    if letter not in "buif":
        raise DataError(
            f"{location}: its {role} are {_DTYPE_NAMES.get(letter, array.dtype)}, and must be real numbers; "
            "convert them"
        )
    if letter == "f":
        return array.astype(np.float32 if array.dtype.itemsize <= 4 else np.float64, copy=False)
    if letter == "b" or array.dtype == np.uint8:
        return array
    # Values beyond int64 become floats.
    fits_int64 = letter == "i" or not array.size or int(array.max()) < 2**63
    return array.astype(np.int64 if fits_int64 else np.float64, copy=False)


def as_label_array(values: Any, role: str, location: str) -> Array:
    """Labels (N,) as int64, Python integers beyond it, bool or texts.

    Whole numbers may be floats; one-hot rows (N, K) become their columns. Texts are normalized to Unicode NFC.

    Args:
        values: Array, tensor or list.
        role: What the values are, for messages.
        location: Start of messages.

    Raises:
        DataError: The values are not labels, or of several types.
    """
    if isinstance(values, (list, tuple)) and any(isinstance(value, str) for value in values):
        values = np.asarray(values, dtype=object)  # NumPy would convert numbers among texts to texts
    limit = _exact_integer_limit(getattr(values, "dtype", None))
    y = _as_dense_array(values, role, location)
    if y.ndim > 1 and y.size == len(y):
        y = y.reshape(-1)
    y = _flatten_labels(y, role, location)
    if _dtype_letter(y) == "O":
        y = _from_object_array(y, role, location)
    if _dtype_letter(y) == "S":
        y = np.char.decode(y, "utf-8", "backslashreplace")
    if _dtype_letter(y) == "U":
        names, codes = np.unique(y, return_inverse=True)
        normal = [unicodedata.normalize("NFC", name) for name in names.tolist()]
        return np.array(normal, dtype=np.str_)[codes] if normal else names
    if _dtype_letter(y) == "f":
        return _as_integers(y, limit, role, location)
    if _dtype_letter(y) not in "biuO":
        type_name = _DTYPE_NAMES.get(y.dtype.kind, y.dtype)
        raise DataError(f"{location}: its {role} are {type_name}, and must be whole numbers or texts; convert them")
    fits_int64 = _dtype_letter(y) in "bi" or not y.size or int(y.max()) < 2**63
    return y if _dtype_letter(y) == "b" else y.astype(np.int64 if fits_int64 else object, copy=False)


def _flatten_labels(y: Array, role: str, location: str) -> Array:
    """Labels (N,) as they are, or the columns of one-hot rows (N, K)."""
    may_be_one_hot = y.ndim == 2 and y.shape[1] > 1 and _dtype_letter(y) in "biuf" and len(y) > 0
    if may_be_one_hot and bool(((y == 0) | (y == 1)).all() and (y.sum(1) == 1).all()):
        return np.asarray(y.argmax(1))
    if y.ndim != 1:
        raise DataError(f"{location}: its {role} must have the shape (N,), or be one-hot rows (N, K), not {y.shape}")
    return y


def _from_object_array(y: Array, role: str, location: str) -> Array:
    """An array of Python objects with the dtype that all of them have."""
    for types, dtype in ((str, np.str_), (bytes, np.bytes_), ((bool, np.bool_), np.bool_), ((int, np.integer), object)):
        if all(isinstance(value, types) for value in y.tolist()):
            return y if dtype is object else y.astype(dtype)
    if all(isinstance(value, (int, float, np.number)) for value in y.tolist()):
        return y.astype(np.float64)
    type_names = sorted({"missing (None)" if value is None else type(value).__name__ for value in y.tolist()})
    raise DataError(f"{location}: its {role} are of several types, {', '.join(type_names[:5])}; convert them to one")


def _exact_integer_limit(dtype: Any) -> float:
    """The smallest float of a dtype that may stand for two integers."""
    if isinstance(dtype, torch.dtype):
        return 2 / torch.finfo(dtype).eps if dtype.is_floating_point else 2.0**53
    return 2 / float(np.finfo(dtype).eps) if getattr(dtype, "kind", "") == "f" else 2.0**53


def _as_integers(y: Array, limit: float, role: str, location: str) -> Array:
    """Whole floats as int64."""
    if not np.isfinite(y).all():
        raise DataError(
            f"{location}: {int((~np.isfinite(y)).sum())} of its {role} are NaN or infinite; give each a class"
        )
    if not (y == np.round(y)).all():
        raise DataError(f"{location}: its {role} must be whole numbers or texts, not {y[y != y.round()][0]}")
    if len(y) and np.abs(y).max() >= limit:
        raise DataError(
            f"{location}: its {role} are floats of so few digits that whole numbers from {limit:.0f} on can't be "
            "distinguished; save them as integers"
        )
    return y.astype(np.int64)


def _as_dense_array(values: Any, role: str, location: str) -> Array:
    """A dense array in native byte order."""
    if isinstance(values, Tensor):
        return _tensor_to_array(values, role, location)
    if hasattr(values, "toarray"):  # a sparse matrix of SciPy
        _check_dense_size(values.shape, role, location)
        values = values.toarray()
    if np.ma.is_masked(values):
        raise DataError(f"{location}: its {role} are masked in part; fill in values")
    try:
        array = np.asarray(values)
    except (TypeError, ValueError) as error:
        raise DataError(f"{location}: its {role} differ in shape; give all the same shape") from error
    if _dtype_letter(array) == "T":
        return np.array(array.tolist(), dtype=np.str_)
    return array.astype(array.dtype.newbyteorder("="), copy=False)


def _tensor_to_array(values: Tensor, role: str, location: str) -> Array:
    if values.is_nested:
        raise DataError(f"{location}: its {role} are a nested tensor of several shapes; give all the same shape")
    if values.is_meta:
        raise DataError(f"{location}: its {role} are a tensor without values, on the device `meta`; load them")
    x = values.detach()
    x = x.dequantize() if x.is_quantized else x
    if x.layout != torch.strided:
        _check_dense_size(x.shape, role, location)
        x = x.to_dense()
    if x.is_floating_point() and x.dtype not in (torch.float16, torch.float32, torch.float64):
        x = x.float()  # NumPy lacks this dtype
    return x.cpu().resolve_conj().resolve_neg().numpy()


def _check_dense_size(shape: Any, role: str, location: str) -> None:
    """Raise DataError for sparse values that don't fit into memory when dense."""
    needed = 8 * prod(shape)
    if needed > available_memory(torch.device("cpu")):
        raise DataError(
            f"{location}: its {role} are sparse, and {tuple(shape)} values in full take {needed / 2**30:,.1f} GiB, "
            "more than there is; choose fewer"
        )
