"""Arrays as streams of numbers: in their order, transposed, summed up, and at every second, third, ... pixel."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import groupby
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gr_cli.evaluation.audit_formats import Found
from gr_cli.evaluation.audit_match import Stream

_MOST_JOINED = 1 << 22  # numbers of small arrays of one file that are joined
_SCALES = (2, 3, 4)  # of images that were enlarged


def streams(found: Iterable[Found], shape: tuple[int, ...]) -> Iterator[Stream]:
    """All orders in which samples of `shape` may lie in the arrays of files; small ones of a file are joined, too."""
    size = int(np.prod(shape))
    for _, arrays in groupby(found, lambda array: array.place.partition(": ")[0]):
        small: list[Found] = []
        for array in arrays:
            for values in _scaled(array.values, shape) if array.image else _orders(array.values, shape):
                strides = values.shape[-1:] if values.ndim > 1 else ()
                yield Stream(values.reshape(-1), (array.place,), strides=strides, exact=array.image)
            if not array.image:
                yield from (Stream(values, (array.place,)) for values in _in_steps(array))
            if array.decoded and 0 < array.values.size < size and sum(a.values.size for a in small) < _MOST_JOINED:
                small.append(array)
        if len(small) > 1:
            starts = np.cumsum([0, *(array.values.size for array in small[:-1])])
            joined = np.concatenate([array.values.reshape(-1).astype(np.float64) for array in small])
            yield Stream(joined, tuple(array.place for array in small), tuple(starts.tolist()))


def _orders(values: NDArray[Any], shape: tuple[int, ...]) -> Iterator[NDArray[Any]]:
    yield values
    if values.ndim < 2 or min(values.shape[0], values.size) < 2:
        return
    last = values.shape[-1]
    if 1 < last < values.size:
        yield values.reshape(-1, last).T
    if values.ndim > 2:
        yield values.reshape(len(values), -1).T
        yield values.T
    with np.errstate(all="ignore"):
        whole = values.dtype.kind in "iu"  # differences of whole numbers may have wrapped around
        yield np.cumsum(values, 0, dtype=values.dtype if whole else np.float64)
    yield from list(_scaled(values, shape))[1:]


def _in_steps(array: Found) -> Iterator[NDArray[Any]]:
    """Every second, third, ... number of an array; and if these may be differences that wrapped around, their sums."""
    flat = array.values.reshape(-1)
    if array.decoded:
        yield from (flat[i::scale] for scale in _SCALES for i in range(scale))
    if flat.dtype == np.uint8:
        yield np.cumsum(flat, dtype=np.uint8)


def _scaled(values: NDArray[Any], shape: tuple[int, ...]) -> Iterator[NDArray[Any]]:
    """Images, and what they are if they were enlarged."""
    yield values
    for scale in _SCALES if len(shape) == 3 else ():
        if values.shape[-2] >= 0.9 * scale * shape[-2] and values.shape[-1] >= 0.9 * scale * shape[-1]:
            yield from (values[..., i::scale, j::scale] for i in range(scale) for j in range(scale))
