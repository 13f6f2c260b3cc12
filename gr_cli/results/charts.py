"""Charts of one run and of many, drawn with matplotlib on no display: as pictures, for a page, and for papers."""

from __future__ import annotations

import io
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from math import isfinite
from pathlib import Path
from textwrap import fill
from typing import Any

import numpy as np

from gr_cli.errors import one_line
from gr_cli.results.matplotlib_setup import (
    Axes,
    MaxNLocator,
    NullFormatter,
    StrMethodFormatter,
    isolated_matplotlib,
    matplotlib,
)
from gr_cli.results.matplotlib_setup import Figure as Figure
from gr_cli.results.statistics import Summary
from gr_cli.results.tables import FRACTION, Column, display_factor, name_with_unit
from gr_cli.system.files import write_atomically

# Told apart by colour-blind eyes (Okabe & Ito 2008); without the yellow and the black, which vanish on white or black.
_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
_MARKERS, _DASHES = "osD^vP", ("-", "--", ":", "-.")
_COLOUR_MAP = matplotlib.colormaps["viridis"]
_INK = "#010203"  # on the page: whatever colour its text has
_PERCENT_LIMITS = (-3, 103)  # of an axis
PAPER_COLUMN_INCHES = 3.35  # inches, of a paper with two columns
MAX_SHOWN_SEPARATELY = 20  # tasks each of which there is room for

ALL_TASKS_LINE = "all so far"  # the line of all tasks together
MatrixCells = dict[tuple[int, int], Summary]  # by (after task, task)


@dataclass(frozen=True)
class Curve:
    """Values along x, each of several seeds."""

    name: str
    points: dict[float, Summary]

    @property
    def upper_bound(self) -> float:
        """Its highest value, the standard error included."""
        return max((point.mean + (point.sem or 0.0) for point in self.points.values()), default=0.0)


@contextmanager
def _style(page: bool) -> Iterator[None]:
    """Small type; text as text on a page, as outlines or with its fonts in a paper."""
    ink = _INK if page else "black"
    settings: dict[Any, Any] = dict.fromkeys(("text.color", "axes.labelcolor", "xtick.color", "ytick.color"), ink)
    settings |= {"axes.edgecolor": ink, "grid.color": ink, "grid.alpha": 0.2, "axes.grid": True}
    settings |= {"font.size": 9 if page else 7, "axes.spines.top": False, "axes.spines.right": False}
    settings |= {"lines.linewidth": 1.6 if page else 1.0, "lines.markersize": 4.5 if page else 3}
    settings |= {
        "svg.fonttype": "none" if page else "path",
        "pdf.fonttype": 42,
        "svg.hashsalt": "gr",
        "legend.frameon": False,
    }
    with isolated_matplotlib(settings):
        yield


def _figure_with_axes(
    height: float, page: bool, left: float = 0.62, below: float = 0.5, heading: str = ""
) -> tuple[Figure, Axes]:
    """Axes of that height in a figure as wide as a column, with so much room around, in inches."""
    width = 4.6 if page else PAPER_COLUMN_INCHES
    left, below, above, right = left * width / 4.6, below, 0.3 if heading else 0.12, 0.12
    whole = height + below + above
    figure = Figure(figsize=(width, whole))
    place = (left / width, below / whole, (width - left - right) / width, height / whole)
    axes = figure.add_axes(place)
    axes.set_title(one_line(heading), fontsize=7)
    return figure, axes


def _line_style(i: int) -> dict[str, Any]:
    """Colour, marker and dashes of the i-th line: told apart without colours too."""
    return {
        "color": _COLOURS[i % len(_COLOURS)],
        "marker": _MARKERS[i % len(_MARKERS)],
        "linestyle": _DASHES[i // len(_COLOURS) % len(_DASHES)],
    }


def line_chart(
    drawn: Sequence[Curve],
    x: str,
    y: str,
    page: bool,
    scale: float = 100.0,
    interval: bool = False,
    last_bold: bool = False,
    heading: str = "",
) -> Figure:
    """Means along x with a band of the standard error, or of the confidence interval."""
    with _style(page):
        names = [line.name for line in _in_legend(drawn, last_bold)]
        columns = _legend_columns(names, page)
        rows = -(-len(names) // columns)
        figure, axes = _figure_with_axes(
            2.5 if page else 1.7, page, below=0.5 + (0.2 if page else 0.14) * rows, heading=heading
        )
        _draw_curves(axes, drawn, page, scale, interval, last_bold)
        if scale == 100:
            axes.set_ylim(*_PERCENT_LIMITS)
        axes.set_xlabel(x)
        axes.set_ylabel(y)
        _add_legend(axes, figure, columns)
    return figure


def _draw_curves(axes: Axes, drawn: Sequence[Curve], page: bool, scale: float, interval: bool, last_bold: bool) -> None:
    """Each line with its band; of many that come one after the other, in colours that do."""
    named = _in_legend(drawn, last_bold)
    for i, line in enumerate(drawn):
        look: dict[str, Any]
        if last_bold and line is drawn[-1]:
            look = {"color": _INK if page else "black", "linestyle": "--"}
        else:
            look = (
                _line_style(i) if len(named) == len(drawn) else {"color": heat_colour(i / len(drawn)), "linewidth": 0.6}
            )
        at = np.array(list(line.points))
        mean = scale * np.array([point.mean for point in line.points.values()])
        widths = [(p.half_width if interval else p.sem) or 0.0 for p in line.points.values()]
        band = scale * np.array(widths)
        look = look if len(at) <= 30 else look | {"marker": ""}
        axes.plot(at, mean, label=line.name if line in named else None, **look)
        axes.fill_between(at, mean - band, mean + band, color=look["color"], alpha=0.2, linewidth=0)


def _in_legend(drawn: Sequence[Curve], last_bold: bool) -> Sequence[Curve]:
    """Those that the legend names: all, but of many the first and the last one."""
    if len(drawn) <= MAX_SHOWN_SEPARATELY + 1:
        return drawn
    return [drawn[0], *([drawn[-2]] if last_bold else []), drawn[-1]]


def _legend_columns(names: Sequence[str], page: bool) -> int:
    """How many names of lines there is room for beside each other, at most three."""
    width, letter, line = (4.6, 0.07, 0.55) if page else (PAPER_COLUMN_INCHES, 0.055, 0.4)
    return max(1, min(3, len(names), int(width / (line + letter * max(map(len, names), default=1)))))


def _add_legend(axes: Axes, figure: Figure, columns: int) -> None:
    """What the lines of `axes` are, below everything."""
    axes.legend(
        loc="lower center", bbox_to_anchor=(0.5, 0.0), bbox_transform=figure.transFigure,
        ncols=columns, columnspacing=1.0, handlelength=2.2,
        borderaxespad=0.05 / figure.get_figheight(),
    )  # fmt: skip


@isolated_matplotlib()
def accuracy_chart(drawn: Sequence[Curve], page: bool, heading: str = "") -> Figure:
    """Accuracy of each task as training goes on."""
    figure = line_chart(drawn, "tasks learnt", "test accuracy (%)", page, last_bold=True, heading=heading)
    figure.axes[0].xaxis.set_major_locator(MaxNLocator(integer=True))
    return figure


@isolated_matplotlib()
def loss_chart(drawn: Sequence[Curve], page: bool) -> Figure:
    """Loss terms by iteration; on a scale of ratios, if they span a wide range."""
    figure = line_chart(drawn, "iteration", "loss", page, scale=1.0)
    values = [point.mean for line in drawn for point in line.points.values()]
    if min(values) > 0 and max(values) / min(values) >= 30:
        axes = figure.axes[0]
        axes.set_yscale("log")
        axes.yaxis.set_major_formatter(StrMethodFormatter("{x:g}"))  # powers of ten take long to typeset
        axes.yaxis.set_minor_formatter(NullFormatter())
    return figure


def measure_panels(drawn: Mapping[Column, Sequence[Curve]], axis_limits: Mapping[Column, float], page: bool) -> Figure:
    """The columns of a table as training goes on: a small chart for each, two beside each other.

    `tops`: the highest value of each column that shall have room, so that several figures can be compared.
    """
    width, height, gap = (4.6, 1.15, 0.62) if page else (PAPER_COLUMN_INCHES, 0.8, 0.45)
    first = next(iter(drawn.values()))  # all have the same lines
    bold = first[-1].name == ALL_TASKS_LINE
    down, several = -(-len(drawn) // 2), len(_in_legend(first, bold))
    below = 0.5 + (0.2 if page else 0.14) * -(-several // 3)
    whole = below + down * (height + gap) - gap + 0.3
    with _style(page):
        figure = Figure(figsize=(width, whole))
        for place, (measure, found) in enumerate(drawn.items()):
            row, column = divmod(place, 2)
            corner = (0.1 + 0.5 * column, (below + (down - 1 - row) * (height + gap)) / whole)
            axes = figure.add_axes((*corner, 0.38, height / whole))
            _draw_curves(axes, found, page, display_factor(measure.unit), interval=False, last_bold=bold)
            high = 1.05 * display_factor(measure.unit) * axis_limits[measure] or 1.0
            axes.set_ylim(*(_PERCENT_LIMITS if measure.unit == FRACTION and high <= 110 else (-0.03 * high, high)))
            axes.xaxis.set_major_locator(MaxNLocator(integer=True))
            axes.set_title(name_with_unit(measure.name, measure.unit), loc="left", fontsize="medium")
            if place >= len(drawn) - 2:
                axes.set_xlabel("tasks learnt")
        _add_legend(axes, figure, 3)
    return figure


@isolated_matplotlib()
def sweep_chart(drawn: Sequence[Curve], x: str, y: str, scale: float, page: bool) -> Figure:
    """A metric against a setting, with confidence intervals; on a scale of ratios, if it spans a wide range."""
    figure = line_chart(drawn, x, y, page, scale, interval=True)
    at = [value for line in drawn for value in line.points]
    axes = figure.axes[0]
    if min(at) > 0 and max(at) / min(at) >= 8:
        axes.set_xscale("log")
        axes.xaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
        axes.xaxis.set_minor_formatter(NullFormatter())
    if scale == 100:
        axes.set_ylim(auto=True)
        axes.autoscale(axis="y")
    if len(set(at)) <= 8:
        axes.set_xticks(sorted(set(at)), [f"{value:g}" for value in sorted(set(at))])
        axes.minorticks_off()
    return figure


def comparison_chart(named: Sequence[tuple[str, Summary]], x: str, scale: float, page: bool) -> Figure:
    """A dot for the mean of each group, with its confidence interval, one below the other."""
    names = [fill(name, 26, break_on_hyphens=False) for name, _ in named]
    longest = max(len(line) for name in names for line in name.split("\n"))
    tall = 1 + max(name.count("\n") for name in names)
    with _style(page):
        left = 0.3 + (0.085 if page else 0.075) * longest
        figure, axes = _figure_with_axes((0.1 + (0.16 if page else 0.12) * tall) * len(names) + 0.1, page, left=left)
        for i, (_, summary) in enumerate(named):
            error = (
                scale * summary.half_width if summary.half_width is not None and isfinite(summary.half_width) else None
            )
            axes.errorbar(scale * summary.mean, i, xerr=error, fmt="o", color=_COLOURS[0], capsize=3, elinewidth=1.3)
        axes.set_yticks(range(len(names)), names)
        axes.set_ylim(len(names) - 0.5, -0.5)
        axes.set_xlabel(x)
    return figure


def heat_map(cells: MatrixCells, page: bool, names: Sequence[str] = (), heading: str = "") -> Figure:
    """The accuracy matrix: a row per training, a column per task, which may have names."""
    after, tasks = sorted({i for i, _ in cells}), sorted({j for _, j in cells})
    values = np.array([[100 * cells[i, j].mean if (i, j) in cells else np.nan for j in tasks] for i in after])
    with _style(page):
        longest = max(map(len, names), default=0)
        aslant: dict[str, Any] = {"rotation": 45, "ha": "right", "rotation_mode": "anchor"} if longest > 5 else {}
        height = min(0.28 * len(after) + 0.1, 3.9 if page else 2.8)
        figure, axes = _figure_with_axes(height, page, below=0.5 + (0.06 * longest if aslant else 0), heading=heading)
        axes.grid(False)
        image = axes.imshow(values, vmin=0, vmax=100, cmap=_COLOUR_MAP, aspect="auto")
        room, digits = max(values.shape) <= (MAX_SHOWN_SEPARATELY if page else 12), 1 if len(tasks) <= 12 else 0
        if not room:
            figure.colorbar(image, ax=axes, label="%")
        for (i, j), value in np.ndenumerate(values):
            if isfinite(value) and room:
                axes.text(
                    j,
                    i,
                    f"{value:.{digits}f}",
                    ha="center",
                    va="center",
                    color=text_colour_on(value / 100),
                    fontsize=6.5,
                )
        across, down = (-(-len(shown) // MAX_SHOWN_SEPARATELY) for shown in (tasks, after))
        shown = [names[task] for task in tasks] if names else list(map(str, tasks))
        axes.set_xticks(range(0, len(tasks), across), shown[::across], **aslant)
        axes.set_yticks(range(0, len(after), down), list(map(str, after))[::down])
        axes.set_xlabel("accuracy (%) on task")
        axes.set_ylabel("after task")
    return figure


def heat_colour(share: float) -> str:
    """The colour of a number from 0 to 1: even in lightness, told apart by colour-blind eyes."""
    return matplotlib.colors.to_hex(_COLOUR_MAP(min(max(share, 0.0), 1.0)))


def text_colour_on(share: float) -> str:
    """The colour of text on it: the one of more contrast."""
    return "black" if share > 0.45 else "white"


# --- what becomes of a figure


def svg_element(figure: Figure, name: str) -> str:
    """As an element of a page: in the colour of its text, with names of its own, `name` in front."""
    text = io.StringIO()
    with _style(page=True):
        figure.savefig(text, format="svg", transparent=True, metadata={"Date": None})
    drawn = text.getvalue()
    drawn = drawn[drawn.index("<svg") :].replace(_INK, "currentColor")
    for i, colour in enumerate(_COLOURS):
        drawn = drawn.replace(colour.lower(), f"var(--c{i}, {colour})")  # brighter ones where the page is dark
    drawn = re.sub(r"<metadata>.*?</metadata>", "", drawn, flags=re.DOTALL)
    drawn = re.sub(r' width="[\d.]+pt" height="[\d.]+pt"', "", drawn, count=1)
    used = set(re.findall(r"#([\w-]+)", drawn))
    drawn = re.sub(r' id="([^"]+)"', lambda found: f' id="{name}-{found[1]}"' if found[1] in used else "", drawn)
    ours = re.sub(r'(href="|url\()#([\w-]+)', rf"\1#{name}-\2", drawn)
    return re.sub(r"\s*\n\s*", "\n", ours)


def save_for_paper(figure: Figure, path: Path) -> None:
    """As SVG and as PDF, for a paper; `path` without its ending."""
    with _style(page=False):
        for form, metadata in (("svg", {"Date": None}), ("pdf", {"CreationDate": None})):
            write_atomically(
                path.with_name(f"{path.name}.{form}"), partial(figure.savefig, format=form, metadata=metadata)
            )
