"""Figures of one run, drawn with matplotlib on no display."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from gr_cli.errors import one_line, shortened
from gr_cli.results.drawing import Axes, Figure, MaxNLocator, PercentFormatter, matplotlib, own_settings
from gr_cli.results.metrics import Row, average_accuracy
from gr_cli.system.files import write_whole

if TYPE_CHECKING:
    from torch import Tensor

_COLOURS = "viridis"  # even in lightness, and told apart by colour-blind eyes
_FEW = 20  # tasks each of which there is room for


def _save(figure: Figure, path: Path) -> None:
    write_whole(path, partial(figure.savefig, format="png", dpi=150))


def _placed(width: float, height: float, left: float, right: float, below: float) -> tuple[Figure, Axes]:
    """A figure with axes of that size and so much room around, in inches. To find room takes longer than to draw."""
    whole = (width + left + right, height + below + 0.35)
    figure = Figure(figsize=whole)
    return figure, figure.add_axes((left / whole[0], below / whole[1], width / whole[0], height / whole[1]))


@own_settings()
def matrix(rows: Mapping[int, Row], names: Sequence[str], title: str, path: Path) -> None:
    """Heat map of the accuracy matrix: a row per training, a column per task."""
    values, names = 100 * np.array(list(rows.values()), dtype=float), list(map(one_line, names))
    height, width = values.shape
    longest, few = max(map(len, names)), max(values.shape) <= _FEW
    # Inches of the map itself. A picture of all numbers of a hundred tasks would take gigabytes to draw.
    across, down = (0.75 * width, 0.55 * height) if few else (min(8.0, 0.75 * width), min(8.0, 0.55 * height))
    figure, axes = _placed(across, down, left=1.1, right=1.2, below=0.65 + (0.055 * longest if longest > 5 else 0))
    image = axes.imshow(values, vmin=0, vmax=100, cmap=_COLOURS, aspect="auto")
    if few:
        for (i, j), value in np.ndenumerate(values):
            axes.text(
                j, i, f"{value:.1f}", ha="center", va="center", color="black" if value > 60 else "white", fontsize=8
            )
    step = -(-width // _FEW)
    aslant: dict[str, Any] = {"rotation": 45, "ha": "right", "rotation_mode": "anchor"} if longest > 5 else {}
    axes.set_xticks(range(0, width, step), names[::step], **aslant)
    step = -(-height // _FEW)
    axes.set_yticks(range(0, height, step), [f"after task {after}" for after in rows][::step])
    axes.set_xlabel("evaluated on task")
    axes.set_title(one_line(title), fontsize=9)
    box = axes.get_position()
    beside = figure.add_axes((box.x1 + 0.15 / figure.get_figwidth(), box.y0, 0.15 / figure.get_figwidth(), box.height))
    figure.colorbar(image, cax=beside, label="test accuracy (%)" if down > 1.2 else "%")
    _save(figure, path)


@own_settings()
def curves(rows: Mapping[int, Row], names: Sequence[str], title: str, path: Path) -> None:
    """Accuracy on each task as training goes on, and their mean over the tasks learnt so far."""
    names = list(map(one_line, names))
    listed = len(names) <= 12
    widest = max(len(f"task {task}: {name}") for task, name in enumerate([*names, "mean of tasks"]))
    figure, axes = _placed(4.3, 2.8, left=0.75, right=0.55 + 0.068 * min(widest, 60) if listed else 0.2, below=0.55)
    colours = np.linspace(0, 0.9, len(names))
    palette = matplotlib.colormaps[_COLOURS]
    for task, name in enumerate(names):
        points = [(after, accuracies[task]) for after, accuracies in rows.items() if after >= task or len(rows) == 1]
        width, size = (1.3, 4) if len(names) <= _FEW else (0.6, 0)
        label = f"task {task}: {name}"
        axes.plot(*zip(*points, strict=True), "o-", color=palette(colours[task]), lw=width, ms=size, label=label)
    means = [(after, average_accuracy([accuracies[: after + 1]])) for after, accuracies in rows.items()]
    axes.plot(*zip(*means, strict=True), "k--", lw=1.8, label="mean of tasks so far")
    axes.set_ylim(-0.02, 1.02)
    axes.yaxis.set_major_formatter(PercentFormatter(1.0))
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set_xlabel("after task")
    axes.set_ylabel("test accuracy")
    axes.set_title(one_line(title), fontsize=9)
    axes.grid(alpha=0.3)
    if listed:
        axes.legend(fontsize=7, loc="center left", bbox_to_anchor=(1.01, 0.5), frameon=False)
    _save(figure, path)


@own_settings()
def samples(tiles: Tensor, title: str, path: Path, columns: int = 10, names: Sequence[str] = ()) -> None:
    """A sheet of samples, as `SampleSpec.preview` gives them: `tiles` (N, 1 or 3, H, W) in [0, 1].

    Images lie in a grid of so many `columns`; rows of values (H = 1) lie below each other, below the `names` of values.
    """
    images = tiles.numpy()
    if images.shape[2] == 1:
        _rows(images[:, 0, 0], title, path, names)
        return
    images = np.pad(images, ((0, 0), (0, 0), (0, 1), (0, 1)), constant_values=0.5)
    rows = -(-len(images) // columns)
    blank = np.full((rows * columns - len(images), *images.shape[1:]), 0.5, images.dtype)
    grid = np.concatenate([images, blank]).reshape(rows, columns, *images.shape[1:])
    sheet = grid.transpose(0, 3, 1, 4, 2).reshape(rows * images.shape[2], columns * images.shape[3], -1)
    figure, axes = _placed(4.4, 4.4 * sheet.shape[0] / sheet.shape[1], left=0.05, right=0.05, below=0.05)
    axes.imshow(
        sheet.squeeze(-1) if sheet.shape[-1] == 1 else sheet, cmap="gray", vmin=0, vmax=1, interpolation="nearest"
    )
    axes.set_axis_off()
    axes.set_title(one_line(title), fontsize=8)
    _save(figure, path)


def _rows(values: np.ndarray[Any, Any], title: str, path: Path, names: Sequence[str]) -> None:
    """A heat map of samples (N, D), a row each, of values in [0, 1]."""
    count, width = values.shape
    names = [shortened(one_line(name)) for name in names]
    below = 0.3 + 0.06 * max(map(len, names), default=2)
    figure, axes = _placed(max(2.6, min(9.0, 0.3 * width)), max(1.2, 0.09 * count), left=0.55, right=1.0, below=below)
    image = axes.imshow(values, vmin=0, vmax=1, cmap=_COLOURS, aspect="auto", interpolation="nearest")
    if names:
        axes.set_xticks(range(width), names, rotation=90)
    else:
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.set_xlabel("value")
    axes.set_ylabel("sample")
    axes.set_title(one_line(title), fontsize=8)
    box, across = axes.get_position(), figure.get_figwidth()
    bar = figure.colorbar(image, cax=figure.add_axes((box.x1 + 0.1 / across, box.y0, 0.12 / across, box.height)))
    bar.set_ticks([0, 1], labels=["lowest", "highest"])
    _save(figure, path)
