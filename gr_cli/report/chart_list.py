"""The charts of a report, for the page and for papers: how each is drawn, and the words and numbers beside it."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from markupsafe import Markup

from gr_cli.report import series
from gr_cli.report.groups import seeds_shown
from gr_cli.report.tables import Row, Shown, Table, number
from gr_cli.results import charts
from gr_cli.results.accuracy import ACCURACY
from gr_cli.results.charts import Line
from gr_cli.results.statistics import Summary
from gr_cli.results.tables import FRACTION, Column, TableFormat, scale, title
from gr_cli.system.files import make_folder

STATISTICS = ("mean", "standard error", "half of the 95 % interval", "n")


@dataclass(frozen=True)
class Chart:
    """A drawing with a caption, with words for who can't see it, and with its numbers.

    kind: the class of its element on the page.
    name: of its element on the page, and of its files for papers.
    draw: makes the figure, for the page or for a paper.
    """

    kind: str
    name: str
    draw: Callable[[bool], charts.Figure]
    caption: str
    alt: str
    numbers: Shown

    @property
    def drawing(self) -> Markup:
        """The figure as an element of the page."""
        return Markup(charts.svg(self.draw(True), self.name))


def comparisons(table: Table) -> list[Chart]:
    """For each metric the means of all groups, where there are any."""
    made = (_comparison(metric, table) for metric in table.metrics)
    return [chart for chart in made if chart is not None]


def _comparison(metric: str, table: Table) -> Chart | None:
    rows = [(i, row.label, summary) for i, row in enumerate(table.rows, 1) if (summary := row.metrics[metric])]
    if not rows:
        return None
    unit = table.units[metric]
    words, numbered = title(metric, unit), [(f"{i} · {label}", summary) for i, label, summary in rows]
    best, highest = max(numbered, key=lambda pair: pair[1].mean)
    caption = f"{words} with 95 % confidence intervals"
    alt = f"{caption}; highest: {best} with {number(highest.mean, unit)}"
    numbers = [[name, *_numbers_of(summary, unit)] for name, summary in numbered]

    def draw(page: bool) -> charts.Figure:
        return charts.comparison(numbered if page else [row[1:] for row in rows], words, scale(unit), page)

    return Chart("comparison", metric, draw, caption, alt, Shown(["configuration", *STATISTICS], numbers, 1))


def sweeps(table: Table) -> list[Chart]:
    """The first metric against each setting of numbers."""
    metric = table.metrics[0]
    unit, words = table.units[metric], title(metric, table.units[metric])
    made = []
    for column, lines in series.sweeps(table):
        x = column.label.replace("_", " ")
        draw = partial(charts.sweep, lines, x, words, scale(unit))
        caption = f"{words} by {x}, with 95 % confidence intervals"
        name = f"{metric}_by_{_plain(column.label)}"
        made.append(_of_lines("sweep", name, draw, caption, lines, x, unit))
    return made


def of_group(place: int, row: Row) -> list[Chart]:
    """Accuracies and losses of a group as training goes on. `place`: of its row, from 1 on."""
    name, made, bands = _file_name(place, row), [], "bands: standard error"
    if lines := series.curves(row.group):
        caption, draw = f"Test accuracy (%) of each task as training goes on; {bands}", partial(charts.curves, lines)
        made.append(_of_lines("curves", f"{name}_curves", draw, caption, lines, "tasks learnt", FRACTION))
    if lines := series.losses(row.group):
        caption, draw = f"Losses by iteration through all tasks; {bands}", partial(charts.losses, lines)
        made.append(_of_lines("losses", f"{name}_losses", draw, caption, lines, "iteration", ""))
    return made


def formats(table: Table) -> list[TableFormat]:
    """The tables that any finished run describes; one that several describe, as the first of them does."""
    runs = [run for row in table.rows for run in row.group.finished.values()]
    found = {name: described for run in reversed(runs) for name, described in run.tables.items()}
    return [found[name] for name in sorted(found) if name != ACCURACY.name]


def of_table(described: TableFormat, table: Table) -> list[Chart]:
    """How the columns of a table go on with training, a chart for each group."""
    several = [series.measured(row.group, described) for row in table.rows]
    name, made = described.name, []
    # So that the charts of several groups can be compared.
    tops = {
        column: max((line.top for panels in several for line in panels.get(column, ())), default=0.0)
        for column in described.values
    }
    for place, (row, panels) in enumerate(zip(table.rows, several, strict=True), 1):
        if panels:
            caption = f"{place} · {row.label}: {name.replace('_', ' ')} as training goes on; {mean_over(row, name)}"
            alt = "; ".join(
                _alt_text(title(column.name, column.unit), [lines[0], lines[-1]], column.unit)
                for column, lines in panels.items()
            )
            draw = partial(charts.panels, panels, tops)
            file = f"{_file_name(place, row)}_{name}"
            made.append(Chart("measured", file, draw, caption, f"{caption}. {alt}", _panel_numbers(panels)))
    return made


def _panel_numbers(panels: Mapping[Column, Sequence[Line]]) -> Shown:
    rows = [
        [title(column.name, column.unit), *cells]
        for column, lines in panels.items()
        for cells in _line_numbers(lines, column.unit)
    ]
    return Shown(["measure", "line", "tasks learnt", *STATISTICS], rows, 2)


def mean_over(row: Row, name: str, bands: bool = True) -> str:
    """Over which seeds of a group a table's values are averaged, and what bands mean."""
    seeds = row.group.seeds_with(f"{name}.csv")
    more = "; bands: standard error" if bands and len(seeds) > 1 else ""
    return f"mean over {seeds_shown(seeds)} (n = {len(seeds)}){more}"


def _of_lines(
    kind: str, name: str, draw: Callable[[bool], charts.Figure], caption: str, lines: Sequence[Line], x: str, unit: str
) -> Chart:
    numbers = Shown(["line", x, *STATISTICS], _line_numbers(lines, unit), 1)
    return Chart(kind, name, draw, caption, _alt_text(caption, lines, unit), numbers)


def _file_name(place: int, row: Row) -> str:
    """What the names of a group's charts begin with."""
    return f"{place}_{_plain(row.label)}"


def _plain(text: str) -> str:
    """As part of the name of a file and of an element."""
    return re.sub(r"[^\w-]+", "_", text.replace("=", "-"), flags=re.ASCII).strip("_")[:80]


def _numbers_of(summary: Summary, unit: str) -> list[str]:
    """The statistics of a summary as cells, in its unit."""
    parts = [summary.mean, summary.sem, summary.half]
    return [*("–" if part is None else number(part, unit, 3) for part in parts), str(summary.n)]


def _line_numbers(lines: Iterable[Line], unit: str) -> list[list[str]]:
    """The points of lines as rows of a table."""
    return [[line.name, f"{at:g}", *_numbers_of(point, unit)] for line in lines for at, point in line.points.items()]


def _alt_text(caption: str, lines: Sequence[Line], unit: str) -> str:
    """A chart of lines in words: where each begins and ends."""
    ends = []
    for line in (line for line in lines if line.points):
        (first, begin), (last, end) = next(iter(line.points.items())), list(line.points.items())[-1]
        ends.append(f"{line.name} from {number(begin.mean, unit)} at {first:g} to {number(end.mean, unit)} at {last:g}")
    return f"{caption}: {'; '.join(ends)}"


def save_all(table: Table, folder: Path) -> int:
    """Draw every chart, and each accuracy matrix, into `folder` for papers; how many there are.

    Raises:
        FolderError, WriteError: `folder` can't be made, or a file not be written.
    """
    make_folder(folder)
    shown, drawn = [*comparisons(table), *sweeps(table)], dict[str, Callable[[bool], charts.Figure]]()
    for place, row in enumerate(table.rows, 1):
        if cells := series.matrix(row.group):
            drawn[f"{_file_name(place, row)}_matrix"] = partial(charts.heat_map, cells)
        shown += of_group(place, row)
    shown += [chart for found in formats(table) if found.layout == "lines" for chart in of_table(found, table)]
    drawn |= {chart.name: chart.draw for chart in shown}
    for name, draw in drawn.items():
        charts.save(draw(False), folder / name)
    return len(drawn)
