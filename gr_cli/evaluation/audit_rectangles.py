"""The largest rectangle of a sample that matches the numbers around one of its runs."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]
# Values are compared without their mean, at length 1. A value that was rounded to bfloat16, or to a byte, is off by
# 0.0011 of its size, or of the range of all, in the root mean square; so a copy is at most this far from its sample,
# unless the contrast of the picture is below 1/18 of that. Two samples of MNIST are never nearer than 0.1.
TOLERANCE = 0.02
# Tolerance of the differences between neighbours: smooth rectangles resemble each other, their differences don't.
_STEP_TOLERANCE = 0.2
MIN_VALUES = 16  # values of a rectangle
MIN_SHARE = 1 / 16
# Largest difference of similar values, relative to the sample's contrast.
_SIMILAR_VALUE_DISTANCE = 0.05
_MIN_COMMON_CONTRAST = 0.15  # least share of a sample's contrast in similar values
_MIN_VARIATION = 0.05  # least share of a rectangle's variance within columns, and within rows
_MAX_BOXES = 50  # rectangles of a sample that are tested, largest first
_MIN_STEPS = 6  # pairs of neighbours in a rectangle that differ
_EDGES = 8  # rectangles start and end at multiples of an eighth


@cache
def _boxes(rows: int, columns: int) -> Integers:
    """Rectangles (R, 4) of a matrix that are compared: top, bottom, left, right."""

    def spans(n: int) -> list[tuple[int, int]]:
        edges = sorted({round(i * n / min(n, _EDGES)) for i in range(min(n, _EDGES) + 1)})
        return [(a, b) for a in edges for b in edges if a < b]

    return np.array([(*height, *width) for height in spans(rows) for width in spans(columns)])


def _sums(values: NDArray[Any], boxes: Integers) -> Floats:
    """Sums (n, R) of values (n, A, B) in each box."""
    total = np.zeros((len(values), values.shape[1] + 1, values.shape[2] + 1))
    total[:, 1:, 1:] = values.cumsum(1).cumsum(2)
    top, bottom, left, right = boxes.T
    sums: Floats = total[:, bottom, right] - total[:, top, right] - total[:, bottom, left] + total[:, top, left]
    return sums


def _distances(x: Floats, y: Floats, boxes: Integers, inside: NDArray[np.bool_]) -> tuple[Floats, Floats]:
    """Distances (n, R) of x and y (n, A, B) in each box, without mean and at unit length, and scales of y.

    Infinite for a box that is not all inside.
    """
    count = _sums(np.ones_like(x[:1]), boxes)
    of_x, of_y = _sums(x, boxes), _sums(y, boxes)
    xx = _sums(x * x, boxes) - of_x**2 / count
    yy = _sums(y * y, boxes) - of_y**2 / count
    xy = _sums(x * y, boxes) - of_x * of_y / count
    valid = (xx > 1e-9) & (yy > 1e-9) & (_sums(inside, boxes) == count)
    cosine = np.abs(xy) / np.sqrt(np.where(valid, xx * yy, 1.0))
    scale = np.sqrt(np.where(valid, yy / np.where(valid, xx, 1.0), 0.0))
    return np.where(valid, np.sqrt(np.clip(2 - 2 * cosine, 0, None)), np.inf), scale


def largest_rectangles(
    x: Floats, y: Floats, inside: NDArray[np.bool_], at: Integers, size: int, whole: int
) -> Iterator[tuple[int, tuple[int, int, int, int], float, float]]:
    """The largest matching rectangle of each sample that has one: index, box, distance and scale.

    Args:
        x: Samples (n, A, B).
        y: Numbers to compare them with (n, A, B).
        inside: Mask of valid numbers.
        at: Position of the matching run in each sample, (n,).
        size: Length of the run.
        whole: Number of values of a complete sample.
    """
    boxes = _boxes(*x.shape[1:])
    values = (boxes[:, 1] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 2])
    is_large = (values >= max(MIN_VALUES, whole * MIN_SHARE)) & (boxes[:, 3] - boxes[:, 2] > 1)
    boxes, values = boxes[is_large], values[is_large]
    if not len(boxes) or not len(x):
        return
    x, y, scale = _aligned(x, y, at, size)
    promising = _similar_samples(x, y, inside, int(values.min()))
    x, y, inside, scale = x[promising], np.where(inside, y, 0.0)[promising], inside[promising], scale[promising]
    distance, relative = _distances(x, y, boxes, inside)
    near_indices = np.flatnonzero((distance < TOLERANCE).any(1))
    promising, x, y, inside, scale = (
        promising[near_indices],
        x[near_indices],
        y[near_indices],
        inside[near_indices],
        scale[near_indices],
    )
    distance, relative = distance[near_indices], relative[near_indices]
    steps = np.zeros_like(x)
    steps[..., 1:] = np.abs(np.diff(x)) > 0.02
    # The first column has no difference to a left neighbour.
    narrower = boxes + np.array([0, 0, 1, 0])
    step_distance, _ = _distances(_left_differences(x), _left_differences(y), narrower, inside)
    is_distinctive = (_sums(steps, narrower) >= _MIN_STEPS) & (step_distance < _STEP_TOLERANCE)
    amount = np.where((distance < TOLERANCE) & is_distinctive, values, 0)
    for i in np.flatnonzero(amount.max(1)):
        for best in np.argsort(-amount[i], kind="stable")[: min(_MAX_BOXES, np.count_nonzero(amount[i]))]:
            top, bottom, left, right = (int(edge) for edge in boxes[best])
            if _varies_in_both_directions(x[i, top:bottom, left:right]):
                box = (top, bottom, left, right)
                yield int(promising[i]), box, float(distance[i, best]), float(relative[i, best] * scale[i])
                break


def _similar_samples(x: Floats, y: Floats, inside: NDArray[np.bool_], least: int) -> Integers:
    """Indices of samples x (n, A, B) that share enough values and contrast with y."""
    same = inside & (np.abs(x - y) < _SIMILAR_VALUE_DISTANCE)
    contrast = np.square(x - x.mean((1, 2), keepdims=True))
    enough = (contrast * same).sum((1, 2)) >= _MIN_COMMON_CONTRAST * contrast.sum((1, 2))
    return np.flatnonzero(enough & (same.sum((1, 2)) >= least))


def _varies_in_both_directions(x: Floats) -> bool:
    """Whether a rectangle (A, B) varies between rows and between columns, unlike straight lines."""
    total = x.var()
    return len(x) == 1 or bool(min(x.var(0).mean(), x.var(1).mean()) > _MIN_VARIATION * total)


def _aligned(x: Floats, y: Floats, at: Integers, size: int) -> tuple[Floats, Floats, Floats]:
    """x and y (n, A, B) in units of the contrast of x, aligned by the runs at `at`, and the scale of y.

    Deviations are clipped, so that sums over them keep their precision.
    """
    index = at[:, None] + np.arange(size)
    run, copy = (np.take_along_axis(values.reshape(len(values), -1), index, 1) for values in (x, y))
    means = run.mean(1, keepdims=True), copy.mean(1, keepdims=True)
    run, copy = run - means[0], copy - means[1]
    scale = (run * copy).sum(1) / np.square(run).sum(1)
    contrast = np.ptp(x, (1, 2))
    with np.errstate(all="ignore"):
        y = np.nan_to_num((y - means[1][..., None]) / (scale * contrast)[:, None, None], nan=100.0)
    return (x - means[0][..., None]) / contrast[:, None, None], np.clip(y, -100, 100), np.abs(scale)


def _left_differences(x: Floats) -> Floats:
    steps = np.zeros_like(x)
    steps[..., 1:] = np.diff(x)
    return steps
