"""Comparison of samples with the numbers around a matching run."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from math import prod
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from gr_cli.evaluation.audit_layouts import SampleLayout, SearchTarget
from gr_cli.evaluation.audit_rectangles import TOLERANCE, Floats, Integers, largest_rectangles

_CHUNK = 256  # samples compared at a time
_MAX_VALUES = 1 << 19  # numbers in memory at a time
_MAX_ROW_STRIDE = 10  # largest distance between rows of a sample, in row lengths


class Match(NamedTuple):
    """A sample that was found.

    Attributes:
        location: Where it was found.
        target: The search target.
        label: Label of the sample.
        scale: Contrast of the copy relative to the sample.
        values: Mask (D,) of the values that were found; None: all.
    """

    location: str
    target: SearchTarget
    label: int
    scale: float
    values: NDArray[np.bool_] | None


@dataclass(frozen=True)
class NumberSequence:
    """A sequence of numbers from one or more arrays.

    Attributes:
        values: The numbers (n,).
        locations: Location of each array.
        starts: Position of each array's first number.
        strides: Distances at which the next row of a sample may start.
        exact: Whether no other distances are possible, as in an image.
    """

    values: NDArray[Any]
    locations: tuple[str, ...]
    starts: tuple[int, ...] = (0,)
    strides: tuple[int, ...] = ()
    exact: bool = False

    def location_of(self, position: int) -> str:
        """The location of the number at a position."""
        return self.locations[int(np.searchsorted(self.starts, position, side="right")) - 1]


class Hits(NamedTuple):
    """Runs that match a run of a sample.

    Attributes:
        position: Position in the sequence.
        label: Label of the sample.
        layout: Index of the layout.
        at: Position of the run in the layout.
    """

    position: Integers
    label: NDArray[Any]
    layout: NDArray[Any]
    at: NDArray[Any]

    def __len__(self) -> int:
        return len(self.position)

    @classmethod
    def concatenate(cls, sets: Sequence[Hits]) -> Hits:
        """All hits of several sets."""
        return cls(*(np.concatenate(column) for column in zip(*sets, strict=True)))

    def select(self, index: NDArray[Any]) -> Hits:
        """The hits at `index`."""
        return Hits(*(column[index] for column in self))


class MatchedRectangle(NamedTuple):
    """A rectangle of a sample that was found in a sequence.

    Attributes:
        values: Number of values.
        distance: Distance of the copy after normalization.
        target: The search target.
        layout: Layout of the sample.
        label: Label of the sample.
        origin: Position of the layout's first value in the sequence.
        stride: Distance between rows in the sequence.
        top: First row.
        bottom: Row after the last.
        left: First column.
        right: Column after the last.
        scale: Contrast of the copy relative to the sample.
    """

    values: int
    distance: float
    target: SearchTarget
    layout: SampleLayout
    label: int
    origin: int
    stride: int
    top: int
    bottom: int
    left: int
    right: int
    scale: float


def resolve_overlaps(sequence: NumberSequence, rectangles: Iterable[MatchedRectangle]) -> Iterator[Match]:
    """The samples that rectangles belong to; of overlapping ones that with the most values."""
    claimed = np.zeros(len(sequence.values), np.bool_)
    for rectangle in sorted(rectangles, key=lambda rectangle: (-rectangle.values, rectangle.distance)):
        rows, columns = np.arange(rectangle.top, rectangle.bottom), np.arange(rectangle.left, rectangle.right)
        positions = (rectangle.origin + rows[:, None] * rectangle.stride + columns).reshape(-1)
        if claimed[positions].mean() > 0.5:
            continue
        claimed[positions] = True
        is_complete = rectangle.values == rectangle.layout.pixels.size and rectangle.layout.has_full_rows
        values = None
        if not is_complete:
            values = np.zeros(prod(rectangle.target.shape), np.bool_)
            values[rectangle.layout.pixels[rectangle.top : rectangle.bottom, rectangle.left : rectangle.right]] = True
        yield Match(sequence.location_of(int(positions[0])), rectangle.target, rectangle.label, rectangle.scale, values)


def rectangles_around(
    sequence: NumberSequence, target: SearchTarget, layouts: Sequence[SampleLayout], hits: Hits
) -> Iterator[MatchedRectangle]:
    """Rectangles of a target's samples around hits."""
    size = target.run_length
    groups: dict[tuple[tuple[int, ...], bool], list[int]] = {}
    for number in np.unique(hits.layout).tolist():
        layout = layouts[number]
        groups.setdefault(
            (layout.pixels.shape, layout.runs_within_rows(size) and layout.pixels.shape[0] > 1), []
        ).append(number)
    for (_, in_rows), numbers in groups.items():
        comparison = _Comparison(sequence, target, {number: layouts[number] for number in numbers}, size, in_rows)
        group_hits = hits.select(np.flatnonzero(np.isin(hits.layout, numbers)))
        # Most samples are contiguous; only hits outside of these are compared at other strides.
        for strides in comparison.strides():
            rectangles = list(comparison.compared(comparison.candidates(group_hits, strides)))
            yield from rectangles
            ends = np.zeros(len(sequence.values) + 1, np.int64)
            for rectangle in rectangles:
                if rectangle.values == rectangle.layout.pixels.size and rectangle.stride == comparison.matrix_shape[1]:
                    ends[rectangle.origin] += 1
                    ends[rectangle.origin + rectangle.values] -= 1
            group_hits = group_hits.select(np.flatnonzero(ends.cumsum()[group_hits.position] == 0))


class _Candidates(NamedTuple):
    """Samples that may be stored at a position, as a run suggests.

    Attributes:
        origin: Position of the first value.
        stride: Distance between rows.
        label: Label of the sample.
        layout: Index of the layout.
        at: Position of the run in the layout.
    """

    origin: Integers
    stride: Integers
    label: Integers
    layout: Integers
    at: Integers

    @classmethod
    def unique(cls, sets: Sequence[tuple[NDArray[Any], ...]]) -> _Candidates:
        """The distinct candidates of several sets of columns."""
        columns = [np.concatenate(column).astype(np.int64) for column in zip(*sets, strict=True)]
        _, first = np.unique(np.stack(columns[:4], 1), axis=0, return_index=True)
        return cls(*(column[first] for column in columns))


@dataclass(frozen=True)
class _Comparison:
    """Comparison of samples in layouts of one shape with the numbers around their runs.

    Attributes:
        sequence: The sequence of numbers.
        target: The search target.
        layouts: Layouts of one shape, by index.
        size: Length of a run.
        in_rows: Whether runs lie within rows, which may be stored apart.
    """

    sequence: NumberSequence
    target: SearchTarget
    layouts: Mapping[int, SampleLayout]
    size: int
    in_rows: bool

    @cached_property
    def matrix_shape(self) -> tuple[int, int]:
        """Rows and columns of the layouts."""
        rows, columns = next(iter(self.layouts.values())).pixels.shape
        return rows, columns

    @cached_property
    def _order(self) -> Integers:
        """Indices of a sample's values (A * B) in each layout, by the layout's index."""
        order = np.zeros((max(self.layouts) + 1, self.matrix_shape[0] * self.matrix_shape[1]), np.int64)
        for number, layout in self.layouts.items():
            order[number] = layout.flat
        return order

    def _samples(self, label: NDArray[Any], layout: NDArray[Any]) -> Floats:
        """The samples (n, A * B) in their layouts."""
        return np.take_along_axis(self.target.flat(label), self._order[layout], 1).astype(np.float64)

    def strides(self) -> Iterator[Integers]:
        """Possible distances between rows, also negative: first as in the sample, then all others."""
        columns = self.matrix_shape[1]
        if self.sequence.exact:
            strides = self.sequence.strides if self.in_rows else ()
            yield np.array([sign * stride for stride in strides for sign in (1, -1)], np.int64)
            return
        yield np.array([columns])
        if self.in_rows:
            distances = {*range(self.size, 2 * columns + 5), *(columns * i for i in range(2, _MAX_ROW_STRIDE))}
            distances = {stride for stride in {*distances, *self.sequence.strides} if stride >= self.size}
            yield np.array(
                [sign * stride for stride in sorted(distances) for sign in (1, -1) if sign * stride != columns]
            )

    def candidates(self, hits: Hits, strides: Integers) -> _Candidates:
        """Samples whose second run matches, too: in an adjacent row, or next to the first run."""
        confirmed = []
        chunk = max(_CHUNK, _MAX_VALUES // (2 * self.size * max(1, len(strides))))
        for start in range(0, len(hits) if len(strides) else 0, chunk):
            chunk_hits = hits.select(np.arange(start, min(start + chunk, len(hits))))
            labels, row = np.unique(chunk_hits.label, return_inverse=True)
            x = self.target.flat(labels)
            for second, step in self._second(chunk_hits.at):
                runs = np.stack([chunk_hits.at, second], 1)[..., None] + np.arange(self.size)
                known = x[row[:, None], self._order[chunk_hits.layout[:, None], runs.reshape(len(runs), -1)]]
                confirmed.append(self._confirmed(chunk_hits, known.astype(np.float64), step, strides))
        empty = np.zeros(0, np.int64)
        return _Candidates.unique(confirmed or [(empty,) * 5])

    def _second(self, at: Integers) -> Iterator[tuple[Integers, Integers]]:
        """Starts of second runs in a layout on either side, and their distance from the first in rows or values.

        Runs that cross rows overlap, so that both are in a quarter of the sample.
        """
        rows, columns = self.matrix_shape
        for side in (-1, 1):
            if self.in_rows:
                row = at // columns
                step = np.where((row + side >= 0) & (row + side < rows), side, -side)
                yield at + step * columns, step
            else:
                step = np.full_like(at, side * (self.size // 2))
                step[(at + step < 0) | (at + step + self.size > rows * columns)] = 0
                yield at + step, step

    def _confirmed(self, hits: Hits, known: Floats, step: Integers, strides: Integers) -> tuple[NDArray[Any], ...]:
        """Hits whose second run matches at one of the strides, as columns of candidates.

        Args:
            hits: First runs.
            known: Values of both runs (n, 2 * size).
            step: Distance of the second run from the first, in rows or values, (n,).
            strides: Possible distances between rows.
        """
        position = hits.position[:, None] + (step[:, None] * strides if self.in_rows else step[:, None])
        inside = (position >= 0) & (position + self.size <= len(self.sequence.values))
        first = np.broadcast_to(hits.position[:, None], position.shape)
        y = self._numbers(np.stack([first, position], 2)[..., None] + np.arange(self.size))
        distance, _ = _distance(known[:, None], y.reshape(*position.shape, -1))
        which, number = np.nonzero(inside & (distance < 2 * TOLERANCE))
        stride, at = strides[number], hits.at[which]
        row, column = (at // self.matrix_shape[1], at % self.matrix_shape[1]) if self.in_rows else (0 * at, at)
        return hits.position[which] - column - row * stride, stride, hits.label[which], hits.layout[which], at

    def _numbers(self, index: Integers) -> Floats:
        """The numbers at these positions; arbitrary ones for positions outside."""
        with np.errstate(all="ignore"):
            numbers: Floats = self.sequence.values[np.clip(index, 0, len(self.sequence.values) - 1)].astype(np.float64)
        return numbers

    def compared(self, candidates: _Candidates) -> Iterator[MatchedRectangle]:
        """Candidates that are complete, and of the others the largest matching rectangle."""
        rows, columns = self.matrix_shape
        for start in range(0, len(candidates.origin), _CHUNK):
            chunk = _Candidates(*(column[start : start + _CHUNK] for column in candidates))
            x = self._samples(chunk.label, chunk.layout).reshape(-1, rows, columns)
            positions = chunk.origin[:, None, None] + np.arange(rows)[:, None] * chunk.stride[:, None, None]
            positions = positions + np.arange(columns)
            y = self._numbers(positions)
            inside = (positions >= 0) & (positions < len(self.sequence.values)) & np.isfinite(y)
            distance, scale = _distance(x.reshape(len(x), -1), np.where(inside, y, 0.0).reshape(len(x), -1))
            complete = inside.all((1, 2)) & (distance < TOLERANCE)
            incomplete = np.flatnonzero(~complete)
            matches = [
                (i, (0, rows, 0, columns), float(distance[i]), float(scale[i])) for i in np.flatnonzero(complete)
            ]
            pieces = largest_rectangles(
                x[incomplete],
                y[incomplete],
                inside[incomplete],
                chunk.at[incomplete],
                self.size,
                prod(self.target.shape),
            )
            matches += [(incomplete[i], *others) for i, *others in pieces]
            for i, box, rectangle_distance, relative in matches:
                values, layout = (box[1] - box[0]) * (box[3] - box[2]), self.layouts[int(chunk.layout[i])]
                location = int(chunk.label[i]), int(chunk.origin[i]), int(chunk.stride[i])
                yield MatchedRectangle(values, rectangle_distance, self.target, layout, *location, *box, relative)


def _distance(x: Floats, y: Floats) -> tuple[Floats, Floats]:
    """Distance between values x and y (..., n) without mean and at unit length, and the scale of y relative to x."""
    with np.errstate(all="ignore"):
        x = x - x.mean(-1, keepdims=True)
        y = y - y[..., :1]
        y = y - y.mean(-1, keepdims=True)
        lengths = np.sqrt(np.square(x).sum(-1)), np.sqrt(np.square(y).sum(-1))
        cosine = np.abs((x * y).sum(-1)) / (lengths[0] * lengths[1])
        distance = np.sqrt(np.clip(2 - 2 * cosine, 0, None))
        return np.where(np.isfinite(distance), distance, np.inf), lengths[1] / lengths[0]
