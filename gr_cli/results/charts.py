"""Charts of groups of runs as matplotlib figures for papers, one column wide."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from math import isfinite
from pathlib import Path
from textwrap import fill
from typing import Any

import numpy as np

from gr_cli.results.chart_style import (
    COLOURS,
    MARKERS,
    MAX_SHOWN_SEPARATELY,
    PERCENT_LIMITS,
    TASKS_LEARNED,
    heat_colour,
    text_colour_on,
)
from gr_cli.results.curves import ALL_TASKS_LINE, Curve, MatrixCells
from gr_cli.results.matplotlib_setup import (
    Axes,
    MaxNLocator,
    NullFormatter,
    StrMethodFormatter,
    isolated_matplotlib,
    matplotlib,
)
from gr_cli.results.matplotlib_setup import Figure as Figure
from gr_cli.results.statistics import UNBOUNDED, Bounds, Summary
from gr_cli.results.tables import FRACTION, Column, display_factor, name_with_unit
from gr_cli.system.files import write_atomically

_DASHES = ("-", "--", ":", "-.")
_COLOUR_MAP = matplotlib.colormaps["viridis"]
_DOTS: dict[str, Any] = {"color": COLOURS[0], "markersize": 5, "alpha": 0.45, "markeredgewidth": 0}  # of seeds
_MEAN_TICK: dict[str, Any] = {"color": COLOURS[0], "markersize": 9}  # of a mean without interval
_DPI = 200  # of a figure on a screen, and of heat maps in SVG and PDF
PAPER_COLUMN_INCHES = 3.35  # width of a column in a paper with two columns


@contextmanager
def _style() -> Iterator[None]:
    """matplotlib settings: text as outlines in SVG, embedded fonts in PDF."""
    settings: dict[Any, Any] = dict.fromkeys(("text.color", "axes.labelcolor", "xtick.color", "ytick.color"), "black")
    settings |= {"axes.edgecolor": "black", "grid.color": "black", "grid.alpha": 0.2, "axes.grid": True}
    settings |= {"figure.dpi": _DPI, "font.size": 7, "axes.spines.top": False, "axes.spines.right": False}
    settings |= {"lines.linewidth": 1.0, "lines.markersize": 3}
    settings |= {"svg.fonttype": "path", "pdf.fonttype": 42, "svg.hashsalt": "gr", "legend.frameon": False}
    with isolated_matplotlib(settings):
        yield


def _figure_with_axes(height: float, left: float = 0.45, below: float = 0.5) -> tuple[Figure, Axes]:
    """A figure as wide as a column with axes of a given height; all lengths in inches."""
    width, margin = PAPER_COLUMN_INCHES, 0.12
    total_height = height + below + margin
    figure = Figure(figsize=(width, total_height))
    axes = figure.add_axes((left / width, below / total_height, (width - left - margin) / width, height / total_height))
    return figure, axes


def _line_style(i: int) -> dict[str, Any]:
    """Colour, marker and dashes of the i-th curve; distinguishable without colours."""
    return {
        "color": COLOURS[i % len(COLOURS)],
        "marker": MARKERS[i % len(MARKERS)],
        "linestyle": _DASHES[i // len(COLOURS) % len(_DASHES)],
    }


def line_chart(
    drawn: Sequence[Curve],
    x: str,
    y: str,
    scale: float = 100.0,
    interval: bool = False,
    last_bold: bool = False,
) -> Figure:
    """Means along x, with bands; with fewer than `MIN_SEEDS` seeds the seeds as dots.

    Args:
        drawn: Curves.
        x: Label of the x axis.
        y: Label of the y axis.
        scale: Factor for values; with 100 the y axis spans 0 to 100 %.
        interval: Bands are 95 % confidence intervals, or else standard errors.
        last_bold: Whether the last curve is the mean of the others, and drawn in the text colour.
    """
    with _style():
        names = [curve.name for curve in _in_legend(drawn, last_bold)]
        columns = _legend_columns(names)
        rows = -(-len(names) // columns)
        figure, axes = _figure_with_axes(1.7, below=0.5 + 0.14 * rows)
        _draw_curves(axes, drawn, scale, interval, last_bold)
        if scale == 100:
            axes.set_ylim(*PERCENT_LIMITS)
        axes.set_xlabel(x)
        axes.set_ylabel(y)
        _add_legend(axes, figure, columns)
    return figure


def _draw_curves(axes: Axes, drawn: Sequence[Curve], scale: float, interval: bool, last_bold: bool) -> None:
    """Draw curves with their bands; many curves get a sequence of colours from the heat map."""
    in_legend = _in_legend(drawn, last_bold)
    for i, curve in enumerate(drawn):
        style: dict[str, Any]
        if last_bold and curve is drawn[-1]:
            style = {"color": "black", "linestyle": "--"}
        elif len(in_legend) == len(drawn):
            style = _line_style(i)
        else:
            style = {"color": heat_colour(i / len(drawn)), "linewidth": 0.6}
        xs = np.array(list(curve.points))
        mean = scale * np.array([point.mean for point in curve.points.values()])
        style = style if len(xs) <= 30 else style | {"marker": ""}
        axes.plot(xs, mean, label=curve.name if curve in in_legend else None, **style)
        ends = scale * np.array([_band(point, interval) for point in curve.points.values()]).reshape(-1, 2)
        axes.fill_between(xs, *ends.T, color=style["color"], alpha=0.2, linewidth=0)
        if len(xs) == 1:  # where a band has no area
            axes.vlines(xs, *ends.T, color=style["color"], alpha=0.4)
        dots = [(x, scale * value) for x, p in curve.points.items() if p.n > 1 for value in p.shown_values]
        if dots:
            axes.plot(*zip(*dots, strict=True), ".", color=style["color"], markersize=3 if len(xs) <= 30 else 1.5)


def _band(point: Summary, interval: bool) -> tuple[float, float]:
    """Lower and upper end of the band at a point; the mean without standard error or interval."""
    if interval:
        return point.interval or (point.mean, point.mean)
    return point.mean - (point.sem or 0.0), point.mean + (point.sem or 0.0)


def _in_legend(drawn: Sequence[Curve], last_bold: bool) -> Sequence[Curve]:
    """Curves that the legend names: all, or the first and the last of many."""
    if len(drawn) <= MAX_SHOWN_SEPARATELY + 1:
        return drawn
    return [drawn[0], *([drawn[-2]] if last_bold else []), drawn[-1]]


def _legend_columns(names: Sequence[str]) -> int:
    """Number of columns of the legend that fit into the width of a figure, at most three."""
    letter_width, handle_width = 0.055, 0.4
    longest = max(map(len, names), default=1)
    return max(1, min(3, len(names), int(PAPER_COLUMN_INCHES / (handle_width + letter_width * longest))))


def _add_legend(axes: Axes, figure: Figure, columns: int) -> None:
    """Add a legend at the bottom of the figure."""
    axes.legend(
        loc="lower center", bbox_to_anchor=(0.5, 0.0), bbox_transform=figure.transFigure,
        ncols=columns, columnspacing=1.0, handlelength=2.2,
        borderaxespad=0.05 / figure.get_figheight(),
    )  # fmt: skip


@isolated_matplotlib()
def accuracy_chart(drawn: Sequence[Curve]) -> Figure:
    """Test accuracy on each task over training; the last curve is the mean."""
    figure = line_chart(drawn, TASKS_LEARNED, "test accuracy (%)", last_bold=True)
    figure.axes[0].xaxis.set_major_locator(MaxNLocator(integer=True))
    return figure


@isolated_matplotlib()
def loss_chart(drawn: Sequence[Curve]) -> Figure:
    """Loss terms by iteration; on a logarithmic axis if they span a factor of 30 or more."""
    figure = line_chart(drawn, "iteration", "loss", scale=1.0)
    values = [point.mean for curve in drawn for point in curve.points.values()]
    if min(values) > 0 and max(values) / min(values) >= 30:
        axes = figure.axes[0]
        axes.set_yscale("log")
        axes.yaxis.set_major_formatter(StrMethodFormatter("{x:g}"))  # powers of ten take long to typeset
        axes.yaxis.set_minor_formatter(NullFormatter())
    return figure


def measure_panels(drawn: Mapping[Column, Sequence[Curve]], axis_limits: Mapping[Column, float]) -> Figure:
    """A small chart for each column of a table over training, two in a row.

    Args:
        drawn: Curves by column; all columns have the same curves.
        axis_limits: Highest value by column that must fit, so that the figures of several groups have equal axes.
    """
    height, gap = 0.8, 0.45
    curves = next(iter(drawn.values()))  # of the first column; all have the same names
    last_bold = curves[-1].name == ALL_TASKS_LINE
    num_rows, legend_entries = -(-len(drawn) // 2), len(_in_legend(curves, last_bold))
    below = 0.5 + 0.14 * -(-legend_entries // 3)
    total_height = below + num_rows * (height + gap) - gap + 0.3
    with _style():
        figure = Figure(figsize=(PAPER_COLUMN_INCHES, total_height))
        for i, (measure, curves) in enumerate(drawn.items()):
            row, column = divmod(i, 2)
            corner = (0.1 + 0.5 * column, (below + (num_rows - 1 - row) * (height + gap)) / total_height)
            axes = figure.add_axes((*corner, 0.38, height / total_height))
            _draw_curves(axes, curves, display_factor(measure.unit), interval=False, last_bold=last_bold)
            top = 1.05 * display_factor(measure.unit) * axis_limits[measure] or 1.0
            axes.set_ylim(*(PERCENT_LIMITS if measure.unit == FRACTION and top <= 110 else (-0.03 * top, top)))
            axes.xaxis.set_major_locator(MaxNLocator(integer=True))
            axes.set_title(name_with_unit(measure.name, measure.unit), loc="left", fontsize="medium")
            if i >= len(drawn) - 2:
                axes.set_xlabel(TASKS_LEARNED)
        _add_legend(axes, figure, 3)
    return figure


@isolated_matplotlib()
def sweep_chart(drawn: Sequence[Curve], x: str, y: str, scale: float, bounds: Bounds = UNBOUNDED) -> Figure:
    """A metric by a numeric setting, with confidence intervals; logarithmic x axis for a factor of 8 or more.

    The y axis does not leave the range of possible values, `bounds`.
    """
    figure = line_chart(drawn, x, y, scale, interval=True)
    xs = [value for curve in drawn for value in curve.points]
    axes = figure.axes[0]
    if min(xs) > 0 and max(xs) / min(xs) >= 8:
        axes.set_xscale("log")
        axes.xaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
        axes.xaxis.set_minor_formatter(NullFormatter())
    if scale == 100:
        axes.set_ylim(auto=True)
        axes.autoscale(axis="y")
    axes.set_ylim(*_axis_limits(axes.get_ylim(), bounds, scale))
    if len(set(xs)) <= 8:
        axes.set_xticks(sorted(set(xs)), [f"{value:g}" for value in sorted(set(xs))])
        axes.minorticks_off()
    return figure


def _axis_limits(limits: tuple[float, float], bounds: Bounds, scale: float) -> tuple[float, float]:
    """Limits of an axis within the range of possible values, with a margin for markers at its ends."""
    margin = 0.02 * (limits[1] - limits[0])
    low = limits[0] if bounds.low is None else max(limits[0], scale * bounds.low - margin)
    high = limits[1] if bounds.high is None else min(limits[1], scale * bounds.high + margin)
    return low, high


def comparison_chart(named: Sequence[tuple[str, Summary]], x: str, scale: float, bounds: Bounds = UNBOUNDED) -> Figure:
    """The mean of a metric, its confidence interval and the values of the seeds for each group, in lines.

    Args:
        named: Name and statistics of each group.
        x: Label of the axis.
        scale: Factor for values.
        bounds: Range of possible values, which the axis does not leave.
    """
    names = [fill(name, 26, break_on_hyphens=False) for name, _ in named]
    longest = max(len(line) for name in names for line in name.split("\n"))
    lines_per_name = 1 + max(name.count("\n") for name in names)
    with _style():
        left = (0.3 + 0.075 * longest) * PAPER_COLUMN_INCHES / 4.6
        row_height = 0.1 + 0.12 * lines_per_name
        figure, axes = _figure_with_axes(row_height * len(names) + 0.1, left=left)
        for i, (_, summary) in enumerate(named):
            has_interval = summary.interval is not None and isfinite(summary.mean)
            height = i + 0.25 if has_interval else i  # below the interval, which would hide them
            axes.plot([scale * value for value in summary.values], [height] * summary.n, ".", **_DOTS)
            if summary.interval is None or not has_interval:
                axes.plot([scale * summary.mean] * (summary.n > 1), [i] * (summary.n > 1), "|", **_MEAN_TICK)
                continue
            error = [[scale * abs(end - summary.mean)] for end in summary.interval]
            axes.errorbar(scale * summary.mean, i, xerr=error, fmt="o", color=COLOURS[0], capsize=3, elinewidth=1.3)
        axes.set_xlim(*_axis_limits(axes.get_xlim(), bounds, scale))
        axes.set_yticks(range(len(names)), names)
        axes.set_ylim(len(names) - 0.5, -0.5)
        axes.set_xlabel(x)
    return figure


def heat_map(cells: MatrixCells) -> Figure:
    """The accuracy matrix: a row per training, a column per task. Tasks are numbered from 0.

    Args:
        cells: Accuracy by (after task, task).
    """
    trainings, tasks = sorted({i for i, _ in cells}), sorted({j for _, j in cells})
    values = np.array([[100 * cells[i, j].mean if (i, j) in cells else np.nan for j in tasks] for i in trainings])
    with _style():
        figure, axes = _figure_with_axes(min(0.28 * len(trainings) + 0.1, 2.8))
        axes.grid(False)
        image = axes.imshow(values, vmin=0, vmax=100, cmap=_COLOUR_MAP, aspect="auto")
        numbers_fit, digits = max(values.shape) <= 12, 1 if len(tasks) <= 12 else 0
        if not numbers_fit:
            figure.colorbar(image, ax=axes, label="%")
        for (i, j), value in np.ndenumerate(values):
            if isfinite(value) and numbers_fit:
                colour = text_colour_on(value / 100)
                axes.text(j, i, f"{value:.{digits}f}", ha="center", va="center", color=colour, fontsize=6.5)
        x_step, y_step = (-(-len(ticks) // MAX_SHOWN_SEPARATELY) for ticks in (tasks, trainings))
        axes.set_xticks(range(0, len(tasks), x_step), list(map(str, tasks))[::x_step])
        axes.set_yticks(range(0, len(trainings), y_step), list(map(str, trainings))[::y_step])
        axes.set_xlabel("accuracy (%) on task")
        axes.set_ylabel("after task")
    return figure


def picture_chart(pixels: np.ndarray[Any, Any]) -> Figure:
    """A picture (H, W, 3) of bytes without axes."""
    with _style():
        height, width = (number + 1e-6 for number in pixels.shape[:2])  # which matplotlib rounds down
        figure = Figure(figsize=(width / _DPI, height / _DPI))
        axes = figure.add_axes((0, 0, 1, 1))
        axes.set_axis_off()
        axes.imshow(pixels, interpolation="nearest")
    return figure


# --- output


def drawn_once(figure: Figure) -> Figure:
    """The figure, drawn once: matplotlib creates ticks when it draws, which get the style of the time."""
    with _style():
        figure.draw_without_rendering()
    return figure


def save_for_paper(figure: Figure, path: Path) -> None:
    """Write a figure as SVG and as PDF; `path` has no suffix."""
    with _style():
        for suffix, metadata in (("svg", {"Date": None}), ("pdf", {"CreationDate": None})):
            write_atomically(
                path.with_name(f"{path.name}.{suffix}"), partial(figure.savefig, format=suffix, metadata=metadata)
            )
