"""Figures of one run as PNG files: accuracy matrix, accuracy curves, generated samples."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from gr_cli.errors import one_line, truncate
from gr_cli.results import charts
from gr_cli.results.charts import Curve, heat_map
from gr_cli.results.matplotlib_setup import Axes, Figure, MaxNLocator, isolated_matplotlib
from gr_cli.results.metrics import MatrixRow, average_accuracy
from gr_cli.results.statistics import Summary
from gr_cli.system.files import write_atomically

if TYPE_CHECKING:
    from torch import Tensor


def _save_png(figure: Figure, path: Path) -> None:
    write_atomically(path, partial(figure.savefig, format="png", dpi=150))


def _figure_with_axes(width: float, height: float, left: float, right: float, below: float) -> tuple[Figure, Axes]:
    """A figure with axes of a given size and margins, in inches. (matplotlib's automatic layout is slow.)"""
    total_width, total_height = width + left + right, height + below + 0.35
    figure = Figure(figsize=(total_width, total_height))
    axes = figure.add_axes((left / total_width, below / total_height, width / total_width, height / total_height))
    return figure, axes


def draw_accuracy_matrix(rows: Mapping[int, MatrixRow], names: Sequence[str], title: str, path: Path) -> None:
    """Heat map of the accuracy matrix: a row per training, a column per task.

    Args:
        rows: Accuracies by task, for each trained task (from 0).
        names: Names of all tasks.
        title: Title of the figure.
        path: PNG file.
    """
    single = {(after, task): _single_value(value) for after, row in rows.items() for task, value in enumerate(row)}
    cells = {index: value for index, value in single.items() if value is not None}
    with isolated_matplotlib():
        _save_png(heat_map(cells, page=True, names=list(map(one_line, names)), heading=title), path)


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
    lines = [
        Curve(name, {after + 1.0: point for after, value in row.items() if (point := _single_value(value)) is not None})
        for name, row in values.items()
    ]
    with isolated_matplotlib():
        _save_png(charts.accuracy_chart(lines, page=True, heading=title), path)


def _single_value(value: float | None) -> Summary | None:
    return None if value is None else Summary(value, None, None, 1)


@isolated_matplotlib()
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
    figure, axes = _figure_with_axes(4.4, 4.4 * sheet.shape[0] / sheet.shape[1], left=0.05, right=0.05, below=0.05)
    axes.imshow(
        sheet.squeeze(-1) if sheet.shape[-1] == 1 else sheet, cmap="gray", vmin=0, vmax=1, interpolation="nearest"
    )
    axes.set_axis_off()
    axes.set_title(one_line(title), fontsize=8)
    _save_png(figure, path)


def _draw_value_rows(values: np.ndarray[Any, Any], title: str, path: Path, names: Sequence[str]) -> None:
    """A heat map of samples (N, D) with values in [0, 1], a row per sample."""
    count, width = values.shape
    names = [truncate(one_line(name)) for name in names]
    below = 0.3 + 0.06 * max(map(len, names), default=2)
    figure, axes = _figure_with_axes(
        max(2.6, min(9.0, 0.3 * width)), max(1.2, 0.09 * count), left=0.55, right=1.0, below=below
    )
    image = axes.imshow(values, vmin=0, vmax=1, cmap="viridis", aspect="auto", interpolation="nearest")
    if names:
        axes.set_xticks(range(width), names, rotation=90)
    else:
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.set_xlabel("value")
    axes.set_ylabel("sample")
    axes.set_title(one_line(title), fontsize=8)
    box, total_width = axes.get_position(), figure.get_figwidth()
    bar_axes = figure.add_axes((box.x1 + 0.1 / total_width, box.y0, 0.12 / total_width, box.height))
    bar = figure.colorbar(image, cax=bar_axes)
    bar.set_ticks([0, 1], labels=["lowest", "highest"])
    _save_png(figure, path)
