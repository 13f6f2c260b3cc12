"""Figures of one run as PNG files: accuracy matrix, accuracy curves, generated samples. All lengths are in inches."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from itertools import count
from math import ceil
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from gr_cli.errors import one_line, truncate
from gr_cli.results.canvas import PIXELS_PER_INCH, Canvas, LineStyle, Point, pixels, text_width
from gr_cli.results.chart_style import (
    COLOURS,
    MARKERS,
    MAX_SHOWN_SEPARATELY,
    PERCENT_LIMITS,
    TASKS_LEARNED,
    heat_colour,
    heat_colours,
    text_colour_on,
)
from gr_cli.results.metrics import MatrixRow, average_accuracy

if TYPE_CHECKING:
    from torch import Tensor

_WIDTH, _LEFT, _RIGHT, _ABOVE = 4.6, 0.62, 0.12, 0.3  # of a figure, and of its margins
_LINE_WIDTH, _TICK_LENGTH = 0.8, 3.5  # in points
_GRID_WIDTH, _GRID_COLOUR = 0.5, "#cccccc"
_LEGEND_ROW, _HANDLE, _MAX_MARKED = 0.2, 0.275, 30
_DASHES = ((), (3.7, 1.6), (1, 1.65), (6.4, 1.6, 1, 1.6))  # as matplotlib's styles
_SHEET_WIDTH = 4.4


class _Axes:
    """A rectangle of a canvas with an x and a y axis.

    Args:
        canvas: Where they are drawn.
        left, top: Upper left corner of the rectangle.
        size: Its width and height.
        x, y: Values at the left and right end, and at the bottom and top end.
    """

    def __init__(self, canvas: Canvas, left: float, top: float, size: Point, x: Point, y: Point) -> None:
        self.canvas, self._x, self._y = canvas, x, y
        self.left, self.top = left * PIXELS_PER_INCH, top * PIXELS_PER_INCH
        self.right, self.bottom = self.left + size[0] * PIXELS_PER_INCH, self.top + size[1] * PIXELS_PER_INCH
        self.box = (self.left, self.top, self.right, self.bottom)

    def at(self, x: float, y: float) -> Point:
        """The position of a point, in pixels."""
        (x0, x1), (y0, y1) = self._x, self._y
        return (
            self.left + (x - x0) / (x1 - x0) * (self.right - self.left),
            self.bottom - (y - y0) / (y1 - y0) * (self.bottom - self.top),
        )

    def ticks(self, xs: Iterable[tuple[float, str]], ys: Iterable[tuple[float, str]], angle: float = 0) -> None:
        """Draw the axes with marks and labels at given values; `angle` is that of the labels below the x axis."""
        length, lines = (
            pixels(_TICK_LENGTH),
            [[(self.left, self.top), (self.left, self.bottom), (self.right, self.bottom)]],
        )
        for value, label in xs:
            x = self.at(value, 0)[0]
            lines.append([(x, self.bottom), (x, self.bottom + length)])
            anchor = "mt" if not angle else "rm"
            self.canvas.text((x, self.bottom + 2 * length), label, anchor=anchor.replace("t", "a"), angle=angle)
        for value, label in ys:
            y = self.at(0, value)[1]
            lines.append([(self.left, y), (self.left - length, y)])
            self.canvas.text((self.left - 2 * length, y), label, anchor="rm")
        self.canvas.lines(lines, "black", _LINE_WIDTH)

    def grid(self, xs: Iterable[float], ys: Iterable[float]) -> None:
        """Draw grey lines at given values."""
        vertical = [[(x, self.top), (x, self.bottom)] for x in (self.at(value, 0)[0] for value in xs)]
        horizontal = [[(self.left, y), (self.right, y)] for y in (self.at(0, value)[1] for value in ys)]
        self.canvas.lines([*vertical, *horizontal], _GRID_COLOUR, _GRID_WIDTH)

    def labels(self, x: str, y: str, below: float, title: str, title_size: float = 7) -> None:
        """Draw the names of the axes and the title; the name of the x axis lies `below` the axis."""
        middle = (self.left + self.right) / 2
        self.canvas.text((middle, self.bottom + below * PIXELS_PER_INCH), x)
        self.canvas.text((0.15 * PIXELS_PER_INCH, (self.top + self.bottom) / 2), y, angle=90)
        self.canvas.text((middle, self.top - pixels(6)), one_line(title), title_size, anchor="ms")


def draw_accuracy_matrix(rows: Mapping[int, MatrixRow], names: Sequence[str], title: str, path: Path) -> None:
    """Heat map of the accuracy matrix: a row per training, a column per task.

    Args:
        rows: Accuracies by task, for each trained task (from 0).
        names: Names of all tasks.
        title: Title of the figure.
        path: PNG file.
    """
    num_tasks = max(map(len, rows.values()))
    values = np.full((len(rows), num_tasks), np.nan)
    for i, row in enumerate(rows.values()):
        values[i, : len(row)] = [np.nan if value is None else value for value in row]
    names = [truncate(one_line(name), 24) for name in names]
    widths = [text_width(name, 9) / PIXELS_PER_INCH for name in names]
    longest = max(widths)
    is_rotated, numbers_fit = longest > 0.4, max(values.shape) <= MAX_SHOWN_SEPARATELY
    below = 0.5 + (0.7 * longest - 0.05 if is_rotated else 0)
    width = _WIDTH - _LEFT - _RIGHT - (0 if numbers_fit else 0.75)
    # The first label ends below the middle of the first column.
    left = max(_LEFT, 0.7 * widths[0] + 0.15 - width / num_tasks / 2) if is_rotated else _LEFT
    size = (width + _LEFT - left, min(0.28 * len(rows) + 0.1, 3.9))
    canvas = Canvas(_WIDTH, size[1] + below + _ABOVE)
    axes = _Axes(canvas, left, _ABOVE, size, (-0.5, num_tasks - 0.5), (len(rows) - 0.5, -0.5))
    canvas.picture(heat_colours(values), axes.box)
    if numbers_fit:
        digits = 1 if num_tasks <= 12 else 0
        for (i, j), value in np.ndenumerate(values):
            if np.isfinite(value):
                canvas.text(axes.at(j, i), f"{100 * value:.{digits}f}", 6.5, colour=text_colour_on(value))
    else:
        _draw_colour_bar(canvas, axes, [(share, f"{100 * share:.0f}") for share in np.linspace(0, 1, 6)], "%")
    label_width = 0.2 if is_rotated else longest + 0.1
    x_step, y_step = (ceil(number * space) for number, space in ((num_tasks, label_width / size[0]), (len(rows), 0.05)))
    axes.ticks(
        list(enumerate(names[:num_tasks]))[::x_step],
        [(i, str(after)) for i, after in enumerate(rows)][::y_step],
        angle=45 if is_rotated else 0,
    )
    axes.labels("accuracy (%) on task", "after task", below - 0.15, title)
    canvas.save(path)


def _draw_colour_bar(canvas: Canvas, axes: _Axes, ticks: Sequence[tuple[float, str]], label: str = "") -> None:
    """Draw a colour bar to the right of the axes, with ticks at shares in [0, 1]."""
    left, right = axes.right + 0.12 * PIXELS_PER_INCH, axes.right + 0.24 * PIXELS_PER_INCH
    canvas.picture(heat_colours(np.linspace(1, 0, 256)[:, None]), (left, axes.top, right, axes.bottom))
    for share, text in ticks:
        y = axes.bottom + share * (axes.top - axes.bottom)
        canvas.lines([[(right, y), (right + pixels(_TICK_LENGTH), y)]], "black", _LINE_WIDTH)
        canvas.text((right + 2 * pixels(_TICK_LENGTH), y), text, anchor="lm")
    if label:
        canvas.text((right + 0.42 * PIXELS_PER_INCH, (axes.top + axes.bottom) / 2), label, angle=90)


def draw_accuracy_curves(rows: Mapping[int, MatrixRow], names: Sequence[str], title: str, path: Path) -> None:
    """Accuracy on each task over training, and the mean over the tasks that are learned so far.

    Args:
        rows: Accuracies by task, for each trained task (from 0).
        names: Names of all tasks.
        title: Title of the figure.
        path: PNG file.
    """
    values: dict[str, dict[int, float | None]] = {}
    for after, row in rows.items():
        for task, value in enumerate(row if len(rows) == 1 else row[: after + 1]):
            values.setdefault(f"task {task}: {truncate(one_line(names[task]), 24)}", {})[after] = value
    values["mean so far"] = {after: average_accuracy([row[: after + 1]]) for after, row in rows.items()}
    styles = _curve_styles(len(values), len(rows))
    legend = list(zip(values, styles, strict=True))
    if len(legend) > MAX_SHOWN_SEPARATELY + 1:
        legend = [legend[0], *legend[-2:]]
    columns = _legend_columns([name for name, _ in legend])
    height, below = 2.5, 0.5 + _LEGEND_ROW * -(-len(legend) // columns)
    canvas = Canvas(_WIDTH, height + below + _ABOVE)
    first, last = min(rows) + 1, max(rows) + 1
    margin = 0.05 * ((last - first) or 1)
    xs, ys = integer_ticks(first, last), range(0, 101, 20)
    size = (_WIDTH - _LEFT - _RIGHT, height)
    axes = _Axes(canvas, _LEFT, _ABOVE, size, (first - margin, last + margin), PERCENT_LIMITS)
    axes.grid(xs, ys)
    with canvas.smooth(axes.box) as lines:
        for curve, style in zip(values.values(), styles, strict=True):
            lines.curve([axes.at(after + 1, 100 * y) for after, y in curve.items() if y is not None], style)
    axes.ticks([(x, str(x)) for x in xs], [(y, str(y)) for y in ys])
    axes.labels(TASKS_LEARNED, "test accuracy (%)", 0.34, title)
    _draw_legend(canvas, legend, columns, top=_ABOVE + height + 0.5)
    canvas.save(path)


def _curve_styles(number: int, num_points: int) -> list[LineStyle]:
    """Styles of curves, the last of which is the mean; many curves get a sequence of colours from the heat map."""
    mean = LineStyle("black", 1.6, _DASHES[1])
    if number > MAX_SHOWN_SEPARATELY + 1:
        return [*(LineStyle(heat_colour(i / number), 0.6) for i in range(number - 1)), mean]
    return [
        *(
            LineStyle(
                COLOURS[i % len(COLOURS)],
                1.6,
                _DASHES[i // len(COLOURS) % len(_DASHES)],
                MARKERS[i % len(MARKERS)] if num_points <= _MAX_MARKED else "",
            )
            for i in range(number - 1)
        ),
        mean,
    ]


def _legend_columns(names: Sequence[str]) -> int:
    """Number of columns of the legend that fit into the width of a figure, at most three."""
    longest = max(text_width(name, 9) for name in names) / PIXELS_PER_INCH
    return max(1, min(3, len(names), int(_WIDTH / (_HANDLE + 0.25 + longest))))


def _draw_legend(canvas: Canvas, legend: Sequence[tuple[str, LineStyle]], columns: int, top: float) -> None:
    """Draw the names of curves beside a piece of their lines, column by column, in the middle of the figure."""
    num_rows = -(-len(legend) // columns)
    groups = [legend[i : i + num_rows] for i in range(0, len(legend), num_rows)]
    handle, gap = _HANDLE * PIXELS_PER_INCH, 0.1 * PIXELS_PER_INCH
    widths = [handle + 2.5 * gap + max(text_width(name, 9) for name, _ in group) for group in groups]
    x = (canvas.image.width - sum(widths)) / 2
    with canvas.smooth((0, top * PIXELS_PER_INCH, *canvas.image.size)) as lines:
        for group, width in zip(groups, widths, strict=True):
            for y, (_, style) in zip(count(top + 0.5 * _LEGEND_ROW, _LEGEND_ROW), group, strict=False):
                middle = y * PIXELS_PER_INCH
                lines.curve([(x, middle), (x + handle, middle)], style._replace(marker=""))
                lines.curve([(x + handle / 2, middle)], style)
            x += width
    x -= sum(widths)
    for group, width in zip(groups, widths, strict=True):
        for y, (name, _) in zip(count(top + 0.5 * _LEGEND_ROW, _LEGEND_ROW), group, strict=False):
            canvas.text((x + handle + gap, y * PIXELS_PER_INCH), name, anchor="lm")
        x += width


def integer_ticks(low: int, high: int, most: int = 10) -> list[int]:
    """Multiples of 1, 2, 5, 10, 20, ... from `low` to `high`; of the smallest that gives at most `most`."""
    steps = (factor * 10**power for power in count() for factor in (1, 2, 5))
    return next(ticks for step in steps if len(ticks := list(range(-(-low // step) * step, high + 1, step))) <= most)


def draw_sample_sheet(tiles: Tensor, title: str, path: Path, columns: int = 10, names: Sequence[str] = ()) -> None:
    """A grid of images, or a heat map of samples that are rows of values.

    Args:
        tiles: Samples (N, 1 or 3, H, W) in [0, 1], as `SampleSpec.preview` returns them; H is 1 for rows of values.
        title: Title of the figure.
        path: PNG file.
        columns: Columns of the grid of images.
        names: Names of the values of a row.
    """
    images = tiles.numpy()
    if images.shape[2] == 1:
        _draw_value_rows(images[:, 0, 0], title, path, names)
        return
    images = np.pad(images, ((0, 0), (0, 0), (0, 1), (0, 1)), constant_values=0.5)
    rows = -(-len(images) // columns)
    blank = np.full((rows * columns - len(images), *images.shape[1:]), 0.5, images.dtype)
    grid = np.concatenate([images, blank]).reshape(rows, columns, *images.shape[1:])
    sheet = grid.transpose(0, 3, 1, 4, 2).reshape(rows * images.shape[2], columns * images.shape[3], -1)
    sheet = (255 * sheet.clip(0, 1)).round().astype(np.uint8)
    width = _SHEET_WIDTH
    if enlargement := int(_SHEET_WIDTH * PIXELS_PER_INCH) // sheet.shape[1]:
        width = sheet.shape[1] * enlargement / PIXELS_PER_INCH  # pixels of equal size
    height, margin = width * sheet.shape[0] / sheet.shape[1], 0.05
    canvas = Canvas(max(width, 2.5) + 2 * margin, height + margin + 0.35)
    axes = _Axes(canvas, (canvas.width - width) / 2, 0.35, (width, height), (0, 1), (0, 1))
    canvas.picture(sheet.squeeze(-1) if sheet.shape[-1] == 1 else sheet, axes.box)
    axes.labels("", "", 0, title, 8)
    canvas.save(path)


def _draw_value_rows(values: np.ndarray[Any, Any], title: str, path: Path, names: Sequence[str]) -> None:
    """A heat map of samples (N, D) with values in [0, 1], a row per sample."""
    number, width = values.shape
    names = [truncate(one_line(name)) for name in names]
    below = 0.3 + max((text_width(name, 9) / PIXELS_PER_INCH for name in names), default=0.15)
    size = (max(2.6, min(9.0, 0.3 * width)), max(1.2, 0.09 * number))
    canvas = Canvas(0.55 + size[0] + 1.0, size[1] + below + 0.35)
    axes = _Axes(canvas, 0.55, 0.35, size, (-0.5, width - 0.5), (number - 0.5, -0.5))
    canvas.picture(heat_colours(values), axes.box)
    xs = list(enumerate(names)) if names else [(x, str(x)) for x in integer_ticks(0, width - 1)]
    axes.ticks(xs, [(y, str(y)) for y in integer_ticks(0, number - 1)], angle=90 if names else 0)
    axes.labels("" if names else "value", "sample", below - 0.11, title, 8)
    _draw_colour_bar(canvas, axes, [(0, "lowest"), (1, "highest")])
    canvas.save(path)
