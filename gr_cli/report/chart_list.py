"""The charts of a report, for the page and for papers: how each is drawn, and the words and numbers beside it."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from markupsafe import Markup

from gr_cli.report import series
from gr_cli.report.groups import format_seeds
from gr_cli.report.tables import ReportRow, ReportTable, TextTable, format_number
from gr_cli.results import charts
from gr_cli.results.accuracy import ACCURACY
from gr_cli.results.charts import Curve
from gr_cli.results.statistics import Summary
from gr_cli.results.tables import FRACTION, Column, TableFormat, display_factor, name_with_unit
from gr_cli.system.files import make_folder

STATISTICS = ("mean", "standard error", "half of the 95 % interval", "n")


@dataclass(frozen=True)
class Chart:
    """A drawing with a caption, with words for who can't see it, and with its numbers.

    kind: the class of its element on the page.
    name: of its element on the page, and of its files for papers.
    draw: makes the figure, for the page or for a paper.
    """

    css_class: str
    name: str
    draw: Callable[[bool], charts.Figure]
    caption: str
    alt_text: str
    numbers: TextTable

    @property
    def drawing(self) -> Markup:
        """The figure as an element of the page."""
        return Markup(charts.svg_element(self.draw(True), self.name))


def comparison_charts(table: ReportTable) -> list[Chart]:
    """For each metric the means of all groups, where there are any."""
    made = (_comparison_chart(metric, table) for metric in table.metrics)
    return [chart for chart in made if chart is not None]


def _comparison_chart(metric: str, table: ReportTable) -> Chart | None:
    rows = [(i, row.label, summary) for i, row in enumerate(table.rows, 1) if (summary := row.metrics[metric])]
    if not rows:
        return None
    unit = table.units[metric]
    words, numbered = name_with_unit(metric, unit), [(f"{i} · {label}", summary) for i, label, summary in rows]
    best, highest = max(numbered, key=lambda pair: pair[1].mean)
    caption = f"{words} with 95 % confidence intervals"
    alt = f"{caption}; highest: {best} with {format_number(highest.mean, unit)}"
    numbers = [[name, *_statistics_cells(summary, unit)] for name, summary in numbered]

    def draw(page: bool) -> charts.Figure:
        return charts.comparison_chart(
            numbered if page else [row[1:] for row in rows], words, display_factor(unit), page
        )

    return Chart("comparison", metric, draw, caption, alt, TextTable(["configuration", *STATISTICS], numbers, 1))


def sweep_charts(table: ReportTable) -> list[Chart]:
    """The first metric against each setting of numbers."""
    metric = table.metrics[0]
    unit, words = table.units[metric], name_with_unit(metric, table.units[metric])
    made = []
    for column, lines in series.setting_curves(table):
        x = column.label.replace("_", " ")
        draw = partial(charts.sweep_chart, lines, x, words, display_factor(unit))
        caption = f"{words} by {x}, with 95 % confidence intervals"
        name = f"{metric}_by_{_as_file_name(column.label)}"
        made.append(_line_chart("sweep", name, draw, caption, lines, x, unit))
    return made


def group_charts(row_number: int, row: ReportRow) -> list[Chart]:
    """Accuracies and losses of a group as training goes on. `place`: of its row, from 1 on."""
    name, made, bands = _group_prefix(row_number, row), [], "bands: standard error"
    if lines := series.accuracy_curves(row.group):
        caption, draw = (
            f"Test accuracy (%) of each task as training goes on; {bands}",
            partial(charts.accuracy_chart, lines),
        )
        made.append(_line_chart("curves", f"{name}_curves", draw, caption, lines, "tasks learnt", FRACTION))
    if lines := series.loss_curves(row.group):
        caption, draw = f"Losses by iteration through all tasks; {bands}", partial(charts.loss_chart, lines)
        made.append(_line_chart("losses", f"{name}_losses", draw, caption, lines, "iteration", ""))
    return made


def table_formats(table: ReportTable) -> list[TableFormat]:
    """The tables that any finished run describes; one that several describe, as the first of them does."""
    runs = [run for row in table.rows for run in row.group.finished.values()]
    found = {name: described for run in reversed(runs) for name, described in run.tables.items()}
    return [found[name] for name in sorted(found) if name != ACCURACY.name]


def measured_charts(described: TableFormat, table: ReportTable) -> list[Chart]:
    """How the columns of a table go on with training, a chart for each group."""
    several = [series.measured_curves(row.group, described) for row in table.rows]
    name, made = described.name, []
    # So that the charts of several groups can be compared.
    tops = {
        column: max((line.upper_bound for panels in several for line in panels.get(column, ())), default=0.0)
        for column in described.value_columns
    }
    for place, (row, panels) in enumerate(zip(table.rows, several, strict=True), 1):
        if panels:
            caption = f"{place} · {row.label}: {name.replace('_', ' ')} as training goes on; {seeds_caption(row, name)}"
            alt = "; ".join(
                _alt_text(name_with_unit(column.name, column.unit), [lines[0], lines[-1]], column.unit)
                for column, lines in panels.items()
            )
            draw = partial(charts.measure_panels, panels, tops)
            file = f"{_group_prefix(place, row)}_{name}"
            made.append(Chart("measured", file, draw, caption, f"{caption}. {alt}", _panel_table(panels)))
    return made


def _panel_table(panels: Mapping[Column, Sequence[Curve]]) -> TextTable:
    rows = [
        [name_with_unit(column.name, column.unit), *cells]
        for column, lines in panels.items()
        for cells in _curve_rows(lines, column.unit)
    ]
    return TextTable(["measure", "line", "tasks learnt", *STATISTICS], rows, 2)


def seeds_caption(row: ReportRow, name: str, bands: bool = True) -> str:
    """Over which seeds of a group a table's values are averaged, and what bands mean."""
    seeds = row.group.seeds_with(f"{name}.csv")
    more = "; bands: standard error" if bands and len(seeds) > 1 else ""
    return f"mean over {format_seeds(seeds)} (n = {len(seeds)}){more}"


def _line_chart(
    kind: str, name: str, draw: Callable[[bool], charts.Figure], caption: str, lines: Sequence[Curve], x: str, unit: str
) -> Chart:
    numbers = TextTable(["line", x, *STATISTICS], _curve_rows(lines, unit), 1)
    return Chart(kind, name, draw, caption, _alt_text(caption, lines, unit), numbers)


def _group_prefix(place: int, row: ReportRow) -> str:
    """What the names of a group's charts begin with."""
    return f"{place}_{_as_file_name(row.label)}"


def _as_file_name(text: str) -> str:
    """As part of the name of a file and of an element."""
    return re.sub(r"[^\w-]+", "_", text.replace("=", "-"), flags=re.ASCII).strip("_")[:80]


def _statistics_cells(summary: Summary, unit: str) -> list[str]:
    """The statistics of a summary as cells, in its unit."""
    parts = [summary.mean, summary.sem, summary.half_width]
    return [*("–" if part is None else format_number(part, unit, 3) for part in parts), str(summary.n)]


def _curve_rows(lines: Iterable[Curve], unit: str) -> list[list[str]]:
    """The points of lines as rows of a table."""
    return [
        [line.name, f"{at:g}", *_statistics_cells(point, unit)] for line in lines for at, point in line.points.items()
    ]


def _alt_text(caption: str, lines: Sequence[Curve], unit: str) -> str:
    """A chart of lines in words: where each begins and ends."""
    ends = []
    for line in (line for line in lines if line.points):
        (first, begin), (last, end) = next(iter(line.points.items())), list(line.points.items())[-1]
        ends.append(
            f"{line.name} from {format_number(begin.mean, unit)} at {first:g} "
            f"to {format_number(end.mean, unit)} at {last:g}"
        )
    return f"{caption}: {'; '.join(ends)}"


def save_charts(table: ReportTable, folder: Path) -> int:
    """Draw every chart, and each accuracy matrix, into `folder` for papers; how many there are.

    Raises:
        FolderError, WriteError: `folder` can't be made, or a file not be written.
    """
    make_folder(folder)
    shown, drawn = [*comparison_charts(table), *sweep_charts(table)], dict[str, Callable[[bool], charts.Figure]]()
    for place, row in enumerate(table.rows, 1):
        if cells := series.accuracy_matrix(row.group):
            drawn[f"{_group_prefix(place, row)}_matrix"] = partial(charts.heat_map, cells)
        shown += group_charts(place, row)
    shown += [
        chart for found in table_formats(table) if found.layout == "lines" for chart in measured_charts(found, table)
    ]
    drawn |= {chart.name: chart.draw for chart in shown}
    for name, draw in drawn.items():
        charts.save_for_paper(draw(False), folder / name)
    return len(drawn)
