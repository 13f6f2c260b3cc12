"""Search for samples in arrays of numbers at any scale, offset, rounding and layout.

Runs of a few values of each sample are indexed by their normalized coordinates, without mean and length, and looked
up at every position of an array. Around a hit the sample is compared value by value.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from functools import cache
from itertools import chain, groupby
from typing import Any

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray

from gr_cli.evaluation.audit_formats import NumberArray
from gr_cli.evaluation.audit_layouts import SampleLayout, SearchTarget, sample_layouts
from gr_cli.evaluation.audit_match import (
    Hits,
    Match,
    MatchedRectangle,
    NumberSequence,
    rectangles_around,
    resolve_overlaps,
)

Floats = NDArray[np.float32]
Integers = NDArray[np.int64]

# Width of the cells that index the coordinates of normalized runs. Rounding to a byte or bfloat16 changes a coordinate
# by at most `_NOISE`, so a run is entered into every cell within that distance.
_CELL, _NOISE = 0.1, 0.01
_NUM_HASHED_COORDINATES = 9  # 24 cells each; 63 bits would allow 13
_CELLS = 24
# Largest distance of matching runs: twice the effect of rounding on a run of low contrast.
_TOLERANCE = 0.02
_MAX_NEIGHBOURS = 12  # nearest runs that are compared per position
_MIN_CHANGES = 4  # differing neighbours in a run; fewer are background or an edge
_MIN_CONTRAST = 0.1  # standard deviation of a run relative to the range of its sample
_MAX_RUNS_PER_CELL = 256  # cells with more runs are common strokes or edges, and no evidence
_CHUNK = 1 << 16  # positions per block
_MAX_HITS = 1 << 19  # in memory at a time
_MAX_JOINED = 1 << 22  # numbers in joined small arrays of a file
_MAX_GRID_COLUMNS = 10  # columns of a grid of samples
_SCALES = range(2, 10)  # factors of enlarged images
_MULTIPLIER = np.uint64(0x9E3779B97F4A7C15)


def find_samples(targets: Sequence[SearchTarget], sequences: Iterable[NumberSequence]) -> Iterator[Match]:
    """Occurrences of samples of `targets`, all of one shape, in the sequences; of overlapping ones the largest."""
    indices = [_RunIndex(target) for target in targets]
    sizes = {index.size for index in indices}
    for sequence in sequences:
        rectangles: list[MatchedRectangle] = []
        pending: list[tuple[_RunIndex, Hits]] = []
        for size in sizes:
            for position, coordinates in _runs(sequence.values, size):
                keys = _keys(coordinates)
                looked_up = [
                    (index, index.look_up(keys, coordinates, position)) for index in indices if index.size == size
                ]
                pending += [(index, hits) for index, hits in looked_up if len(hits)]
                if sum(len(hits) for _, hits in pending) > _MAX_HITS:
                    rectangles += _rectangles_around_hits(sequence, pending)
                    pending = []
        rectangles += _rectangles_around_hits(sequence, pending)
        if rectangles:
            yield from resolve_overlaps(sequence, rectangles)


def _rectangles_around_hits(
    sequence: NumberSequence, hits_of_indices: Sequence[tuple[_RunIndex, Hits]]
) -> Iterator[MatchedRectangle]:
    """Rectangles of samples around hits."""
    by_index: dict[_RunIndex, list[Hits]] = {}
    for index, hits in hits_of_indices:
        by_index.setdefault(index, []).append(hits)
    for index, several in by_index.items():
        yield from rectangles_around(sequence, index.target, index.layouts, Hits.concatenate(several))


@cache
def _directions(size: int) -> Floats:
    """Orthonormal directions (size, size - 1) as columns, orthogonal to the mean, the same in every process."""
    draws = np.random.default_rng(0).normal(size=(size, size))
    draws[:, 0] = 1
    basis: Floats = np.linalg.qr(draws)[0][:, 1:].astype(np.float32)
    return basis


def _normalized_coordinates(runs: NDArray[np.float32]) -> tuple[Floats, NDArray[np.bool_]]:
    """Coordinates (n, size - 1) of runs (n, size) at unit length, the first positive; and a mask (n,) of valid runs."""
    coordinates = runs @ _directions(runs.shape[1])
    length = np.sqrt(np.einsum("ij,ij->i", coordinates, coordinates))
    valid = np.isfinite(length) & (length > 0)
    coordinates = coordinates[valid] / (length[valid] * np.where(coordinates[valid, 0] < 0, -1, 1))[:, None]
    return coordinates, valid


def _runs(values: NDArray[np.generic], size: int) -> Iterator[tuple[Integers, Floats]]:
    """Positions (n,) of all runs that vary, and their coordinates (n, size - 1)."""
    wide = values.dtype.itemsize > 4 or (values.dtype.kind in "iu" and values.dtype.itemsize == 4)
    for start in range(0, len(values) - size + 1, _CHUNK):
        with np.errstate(all="ignore"):
            block = values[start : start + _CHUNK + size - 1].astype(np.float64 if wide else np.float32)
            changes = np.concatenate([[0], np.cumsum(block[1:] != block[:-1])])
            position = np.flatnonzero(changes[size - 1 :] - changes[: len(changes) - size + 1] >= _MIN_CHANGES)
            if len(position):
                runs = sliding_window_view(block, size)[position]
                coordinates, valid = _normalized_coordinates((runs - runs[:, :1]).astype(np.float32))
                yield position[valid] + start, coordinates


def _cells(coordinates: Floats) -> NDArray[np.float32]:
    return (coordinates[:, :_NUM_HASHED_COORDINATES] + np.float32(1.15)) / np.float32(_CELL)


def _keys(coordinates: Floats) -> Integers:
    """Index of the cell (n,) that contains the coordinates (n, d)."""
    keys = np.zeros(len(coordinates), np.int64)
    for column in _cells(coordinates).astype(np.int64).T:
        keys = keys * _CELLS + column
    return keys


def _all_keys(coordinates: Floats) -> tuple[Integers, Integers]:
    """Indices of all cells within noise of the coordinates, and the row of each."""
    rows = np.arange(len(coordinates))
    keys = np.zeros(len(coordinates), np.int64)
    for column in _cells(coordinates).T:
        cell = column.astype(np.int64)
        within = column - cell
        step = np.where(within < _NOISE / _CELL, -1, np.where(within > 1 - _NOISE / _CELL, 1, 0))
        near_edge = step[rows] != 0
        keys = keys * _CELLS
        keys = np.concatenate([keys + cell[rows], (keys + (cell + step)[rows])[near_edge]])
        rows = np.concatenate([rows, rows[near_edge]])
    return keys, rows


class _RunIndex:
    """Index of distinctive runs of a target's samples by their normalized coordinates."""

    def __init__(self, target: SearchTarget) -> None:
        self.target, self.size = target, target.run_length
        self.layouts = sample_layouts(target, self.size)
        columns: list[tuple[NDArray[Any], ...]] = []
        for labels, x in self.target.batches():
            contrast = _MIN_CONTRAST * (x.max(1) - x.min(1))
            for number, layout in enumerate(self.layouts):
                rows_of_x, starts = _distinctive_runs(x[:, layout.flat], layout, self.size, contrast)
                index = starts[:, None] + np.arange(self.size)
                runs = x[rows_of_x[:, None], layout.flat[index]]
                coordinates, valid = _normalized_coordinates(runs - runs[:, :1])
                rows_of_x, starts = rows_of_x[valid], starts[valid]
                columns.append(
                    (labels[rows_of_x], np.full(len(rows_of_x), number), starts, coordinates.astype(np.float16))
                )
        joined = (np.concatenate(column) for column in zip(*columns, strict=True))
        self._label, self._layout, self._at, self._coordinates = joined
        # Rounding may change the sign of a first coordinate near 0.
        sign_ambiguous = np.flatnonzero(np.abs(self._coordinates[:, 0]) < _NOISE)
        all_coordinates = np.concatenate([self._coordinates, -self._coordinates[sign_ambiguous]]).astype(np.float32)
        keys, rows = _all_keys(all_coordinates)
        rows = np.concatenate([np.arange(len(self._coordinates)), sign_ambiguous])[rows]
        order = np.argsort(keys, kind="stable")
        self._keys, self._rows = keys[order], rows[order].astype(np.int32)
        bits = min(27, max(16, int(np.log2(len(keys) + 1)) + 6))
        self._shift = np.uint64(64 - bits)
        self._filter = np.zeros(1 << bits, np.bool_)
        self._filter[self._hashed(self._keys)] = True

    def _hashed(self, keys: Integers) -> NDArray[np.uint64]:
        hashed: NDArray[np.uint64] = (keys.view(np.uint64) * _MULTIPLIER) >> self._shift
        return hashed

    def look_up(self, keys: Integers, coordinates: Floats, position: Integers) -> Hits:
        """Runs of samples that match the runs at `position`."""
        likely = np.flatnonzero(self._filter[self._hashed(keys)])
        first = np.searchsorted(self._keys, keys[likely])
        count = np.searchsorted(self._keys, keys[likely], side="right") - first
        count[count > _MAX_RUNS_PER_CELL] = 0
        candidates = np.repeat(likely, count)
        steps = np.arange(len(candidates)) - np.repeat(np.cumsum(count) - count, count)
        rows = self._rows[np.repeat(first, count) + steps]
        sample_coordinates, run_coordinates = self._coordinates[rows].astype(np.float32), coordinates[candidates]
        cosine = np.abs(np.einsum("ij,ij->i", sample_coordinates, run_coordinates))
        near = np.flatnonzero(cosine > 1 - _TOLERANCE**2 / 2)
        near = near[np.lexsort((-cosine[near], candidates[near]))]
        begins = np.concatenate([[True], np.diff(candidates[near]) > 0])[: len(near)]
        rank = np.arange(len(near)) - np.maximum.accumulate(np.where(begins, np.arange(len(near)), 0))
        near = near[rank < _MAX_NEIGHBOURS]
        rows = rows[near]
        return Hits(position[candidates[near]], self._label[rows], self._layout[rows], self._at[rows])


def _distinctive_runs(x: Floats, layout: SampleLayout, size: int, contrast: Floats) -> tuple[Integers, Integers]:
    """The runs of highest variance in each part of the layout: sample indices and starts."""
    zero = np.zeros((len(x), 1))
    total = np.concatenate([zero, np.cumsum(x, 1, dtype=np.float64)], 1)
    square = np.concatenate([zero, np.cumsum(np.square(x, dtype=np.float64), 1)], 1)
    steps = np.concatenate([zero, np.cumsum(np.abs(np.diff(x, axis=1)) > 0.1 * contrast[:, None], 1)], 1)
    mean = (total[:, size:] - total[:, :-size]) / size
    variance = (square[:, size:] - square[:, :-size]) / size - np.square(mean)
    varied = steps[:, size - 1 :] - steps[:, : steps.shape[1] - size + 1] >= _MIN_CHANGES
    variance[~varied | (variance < np.square(contrast)[:, None])] = 0
    rows, starts_of_runs = [], []
    for starts in layout.run_starts(size):
        best = starts[variance[:, starts].argmax(1)]
        valid = np.flatnonzero(variance[np.arange(len(x)), best] > 0)
        rows.append(valid)
        starts_of_runs.append(best[valid])
    return np.concatenate(rows), np.concatenate(starts_of_runs)


# --- sequences to search


def number_sequences(arrays_of_files: Iterable[NumberArray], shape: tuple[int, ...]) -> Iterator[NumberSequence]:
    """All orders in which samples of `shape` may be stored in arrays; small arrays of a file are also joined."""
    size = int(np.prod(shape))
    for _, arrays in groupby(arrays_of_files, lambda array: array.location.partition(": ")[0]):
        small: list[NumberArray] = []
        for array in arrays:
            orders = _value_sequences(array.values, shape)
            if array.is_image:
                orders = chain(_downscaled(array.values, shape), _sample_grids(array.values, shape))
            for values in orders:
                strides = values.shape[-1:] if values.ndim > 1 else ()
                yield NumberSequence(values.reshape(-1), (array.location,), strides=strides, exact=array.is_image)
            if array.is_decoded and 0 < array.values.size < size and sum(a.values.size for a in small) < _MAX_JOINED:
                small.append(array)
        if len(small) > 1:
            starts = np.cumsum([0, *(array.values.size for array in small[:-1])])
            joined = np.concatenate([array.values.reshape(-1).astype(np.float64) for array in small])
            yield NumberSequence(joined, tuple(array.location for array in small), tuple(starts.tolist()))


def _value_sequences(values: NDArray[Any], shape: tuple[int, ...]) -> Iterator[NDArray[Any]]:
    yield values
    if values.ndim < 2 or min(values.shape[0], values.size) < 2:
        return
    last = values.shape[-1]
    if 1 < last < values.size:
        yield values.reshape(-1, last).T
    if values.ndim > 2:
        yield values.reshape(len(values), -1).T
        yield values.T
    yield from list(_downscaled(values, shape))[1:]


def _downscaled(values: NDArray[Any], shape: tuple[int, ...]) -> Iterator[NDArray[Any]]:
    """Images, and the images that were enlarged to them."""
    yield values
    for scale in _SCALES if len(shape) == 3 else ():
        if values.shape[-2] >= 0.9 * scale * shape[-2] and values.shape[-1] >= 0.9 * scale * shape[-1]:
            # Every `scale`-th pixel has each source pixel once, from any start.
            yield values[..., ::scale, ::scale]


def _sample_grids(picture: NDArray[Any], shape: tuple[int, ...]) -> Iterator[NDArray[Any]]:
    """A picture (H, W) reduced to one value per pixel of the samples that this program may have drawn in a grid."""
    if len(shape) != 3 or picture.ndim != 2:
        return
    for columns in range(1, _MAX_GRID_COLUMNS + 1):
        width = columns * (shape[2] + 1)
        height = round(picture.shape[0] / picture.shape[1] * width / (shape[1] + 1)) * (shape[1] + 1)
        if 0 < height < picture.shape[0] and width < picture.shape[1]:
            sides = zip(picture.shape, (height, width), strict=True)
            middles = [((np.arange(n) + 0.5) * size / n).astype(np.intp) for size, n in sides]
            yield picture[np.ix_(*middles)]
