"""Orders in which the values of a sample may be stored: by rows or columns, flipped, in strips."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from math import prod

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]
Integers = NDArray[np.int64]

_LONGEST_RUN, _SHORTEST_RUN = 14, 8
_FINE_SEARCH_SAMPLES = 20_000  # up to so many samples are also searched for in all strip widths


@dataclass(frozen=True, eq=False)
class SearchTarget:
    """Samples of one shape to search for.

    Attributes:
        labels: Labels of the samples, (N,).
        shape: Shape of a sample.
        values: Function from labels (n,) to samples (n, *shape).
        is_untransformed: Whether samples are as stored, so that rows and columns are meaningful.
    """

    labels: Integers
    shape: tuple[int, ...]
    values: Callable[[Integers], Floats]
    is_untransformed: bool = True

    @property
    def run_length(self) -> int:
        """Number of values of a run in the index: half a row, within bounds."""
        if len(self.shape) == 1:
            return min(max(self.shape[0] // 4, _SHORTEST_RUN), _LONGEST_RUN)
        row = self.shape[-1]
        if _SHORTEST_RUN - 2 <= row < _SHORTEST_RUN:
            return row
        return min(max(row // 2, _SHORTEST_RUN), _LONGEST_RUN, prod(self.shape))

    def flat(self, labels: Integers) -> Floats:
        """The samples with these labels as rows (n, D)."""
        return self.values(labels).reshape(len(labels), -1)

    def batches(self, size: int = 1000) -> Iterator[tuple[Integers, Floats]]:
        """All samples in batches: labels (n,) and values (n, D)."""
        for start in range(0, len(self.labels), size):
            labels = self.labels[start : start + size]
            yield labels, self.flat(labels)


@dataclass(frozen=True)
class SampleLayout:
    """Values of a sample, or of a strip of it, arranged as a matrix.

    Attributes:
        pixels: Index of each entry among the D values of a sample, (A, B).
        has_full_rows: Whether rows are complete, so that they may be stored apart.
    """

    pixels: Integers
    has_full_rows: bool = True

    @cached_property
    def flat(self) -> Integers:
        """Indices of the values in storage order, (A * B,)."""
        return self.pixels.reshape(-1)

    def run_starts(self, size: int) -> list[Integers]:
        """Starts of runs of `size` values as indices of `flat`, for each part of the layout that gets a run."""
        rows, columns = self.pixels.shape
        starts = np.arange(rows * columns - size + 1)
        if not self.runs_within_rows(size):
            return [part for part in np.array_split(starts, 4 if rows * columns >= 4 * size else 2) if len(part)]
        row, column = starts // columns, starts % columns
        fits = column + size <= columns
        bands, across = min(rows, 2 * max(1, rows // columns)), 4 if rows == 1 else 2
        group = (row * bands // rows) * across + column * across // (columns - size + 1)
        return [part for i in range(bands * across) if len(part := starts[fits & (group == i)])]

    def runs_within_rows(self, size: int) -> bool:
        """Whether runs of `size` values lie within rows, so that rows may be stored apart."""
        return self.has_full_rows and self.pixels.shape[1] >= size


def sample_layouts(target: SearchTarget, size: int) -> list[SampleLayout]:
    """All layouts in which the samples of a target are searched for."""
    index = np.arange(prod(target.shape))
    if len(target.shape) != 3:
        row = index.reshape(1, -1) if len(target.shape) == 1 else index.reshape(-1, target.shape[-1])
        return [SampleLayout(row), SampleLayout(row[:, ::-1])] if target.is_untransformed else [SampleLayout(row)]
    channels, height, width = target.shape
    pixels = index.reshape(target.shape)
    upright = [pixels.reshape(channels * height, width), pixels.transpose(0, 2, 1).reshape(channels * width, height)]
    if channels > 1:
        upright.append(pixels.transpose(1, 2, 0).reshape(height, width * channels))
    if not target.is_untransformed:
        return [SampleLayout(each) for each in upright]
    layouts = [SampleLayout(each) for matrix in upright for each in (matrix, matrix[:, ::-1])]
    for matrix in upright[:2]:
        layouts += [
            SampleLayout(piece, has_full_rows=False)
            for piece in _column_strips(matrix, size, len(target.labels) < _FINE_SEARCH_SAMPLES)
        ]
    return layouts


def _column_strips(matrix: Integers, size: int, all_widths: bool) -> Iterator[Integers]:
    """Strips of a matrix (A, B) with all rows and fewer columns than a run of `size` values."""
    width = matrix.shape[1]
    for strip_width in range(2, width) if all_widths else (2 * (width // 4), width // 4):
        if 2 <= strip_width < size and strip_width < width and strip_width * matrix.shape[0] >= size:
            step = 1 if all_widths and strip_width > width // 2 else max(1, strip_width)
            for first in range(0, width - strip_width + 1, step):
                yield matrix[:, first : first + strip_width]
