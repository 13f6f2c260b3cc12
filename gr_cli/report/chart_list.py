"""The charts of a report with captions, alternative texts and tables of numbers, for the page and for papers."""

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
from gr_cli.results.chart_style import TASKS_LEARNED
from gr_cli.results.charts import Curve
from gr_cli.results.statistics import MIN_SEEDS, Summary
from gr_cli.results.tables import FRACTION, Column, TableFormat, display_factor, name_with_unit
from gr_cli.system.files import make_folder

_MAX_NUMBERS = 1000  # points of a chart that its table of numbers has in full
STATISTICS = ("mean", "standard error", "95 % from", "95 % to", "n")  # headers of tables of numbers


@dataclass(frozen=True)
class Chart:
    """A chart and the texts beside it.

    Attributes:
        css_class: Class of its element on the page.
        name: Id of its element on the page, and name of its files for papers.
        draw: Returns the figure for the page (True) or a paper (False).
        caption: Text below the chart.
        alt_text: Description for readers who can't see the chart.
        numbers: The drawn values.
    """

    css_class: str
    name: str
    draw: Callable[[bool], charts.Figure]
    caption: str
    alt_text: str
    numbers: TextTable

    @property
    def drawing(self) -> Markup:
        """The figure as an SVG element of the page."""
        return Markup(charts.svg_element(self.draw(True), self.name))


def comparison_charts(table: ReportTable) -> list[Chart]:
    """A chart per metric with the means of all groups."""
    charts_or_none = (_comparison_chart(metric, table) for metric in table.metrics)
    return [chart for chart in charts_or_none if chart is not None]


def _comparison_chart(metric: str, table: ReportTable) -> Chart | None:
    rows = [(i, row.label, summary) for i, row in enumerate(table.rows, 1) if (summary := row.metrics[metric])]
    if not rows:
        return None
    unit = table.units[metric]
    metric_label, numbered = name_with_unit(metric, unit), [(f"{i} · {label}", summary) for i, label, summary in rows]
    best, highest = max(numbered, key=lambda pair: pair[1].mean)
    caption = f"{metric_label}: mean with {_interval_text([summary for *_, summary in rows])}; dots: seeds"
    alt_text = f"{caption}; highest: {best} with {format_number(highest.mean, unit)}"
    numbers = [[name, *_statistics_cells(summary, unit)] for name, summary in numbered]

    def draw(page: bool) -> charts.Figure:
        return charts.comparison_chart(
            numbered if page else [row[1:] for row in rows],
            metric_label,
            display_factor(unit),
            page,
            table.bounds[metric],
        )

    return Chart("comparison", metric, draw, caption, alt_text, TextTable(["configuration", *STATISTICS], numbers, 1))


def sweep_charts(table: ReportTable) -> list[Chart]:
    """A chart of the first metric for each numeric setting."""
    metric = table.metrics[0]
    unit, metric_label = table.units[metric], name_with_unit(metric, table.units[metric])
    result = []
    for column, curves in series.setting_curves(table):
        x = column.label.replace("_", " ")
        draw = partial(charts.sweep_chart, curves, x, metric_label, display_factor(unit), bounds=table.bounds[metric])
        points = [point for curve in curves for point in curve.points.values()]
        caption = f"{metric_label} by {x}, with {_interval_text(points)}"
        name = f"{metric}_by_{_as_file_name(column.label)}"
        result.append(_line_chart("sweep", name, draw, caption, curves, x, unit))
    return result


def group_charts(row_number: int, row: ReportRow) -> list[Chart]:
    """Accuracy and losses of a group over training. `row_number` counts from 1."""
    name, result, bands = _group_prefix(row_number, row), [], bands_text(row.n)
    if curves := series.accuracy_curves(row.group):
        caption = f"Test accuracy (%) of each task over training; {bands}"
        draw = partial(charts.accuracy_chart, curves)
        result.append(_line_chart("curves", f"{name}_curves", draw, caption, curves, TASKS_LEARNED, FRACTION))
    if curves := series.loss_curves(row.group):
        caption, draw = f"Losses by iteration over all tasks; {bands}", partial(charts.loss_chart, curves)
        result.append(_line_chart("losses", f"{name}_losses", draw, caption, curves, "iteration", ""))
    return result


def table_formats(table: ReportTable) -> list[TableFormat]:
    """Formats of all tables of finished runs but the accuracy table; for equal names, that of the first run."""
    runs = [run for row in table.rows for run in row.group.finished.values()]
    formats = {name: table_format for run in reversed(runs) for name, table_format in run.tables.items()}
    return [formats[name] for name in sorted(formats) if name != ACCURACY.name]


def measured_charts(table_format: TableFormat, table: ReportTable) -> list[Chart]:
    """The columns of an evaluation's table over training, a chart per group."""
    panels_by_row = [series.measured_curves(row.group, table_format) for row in table.rows]
    name, result = table_format.name, []
    # Equal axes, so that the charts of groups can be compared.
    axis_limits = {
        column: max((curve.upper_bound for panels in panels_by_row for curve in panels.get(column, ())), default=0.0)
        for column in table_format.value_columns
    }
    for number, (row, panels) in enumerate(zip(table.rows, panels_by_row, strict=True), 1):
        if panels:
            caption = f"{number} · {row.label}: {name.replace('_', ' ')} over training; {seeds_caption(row, name)}"
            alt_text = "; ".join(
                _alt_text(name_with_unit(column.name, column.unit), [curves[0], curves[-1]], column.unit)
                for column, curves in panels.items()
            )
            draw = partial(charts.measure_panels, panels, axis_limits)
            chart_name = f"{_group_prefix(number, row)}_{name}"
            numbers = _panel_table(panels)
            result.append(Chart("measured", chart_name, draw, caption, f"{caption}. {alt_text}", numbers))
    return result


def _panel_table(panels: Mapping[Column, Sequence[Curve]]) -> TextTable:
    rows = [
        [name_with_unit(column.name, column.unit), *cells]
        for column, curves in panels.items()
        for cells in _curve_rows(curves, column.unit)
    ]
    return TextTable(["measure", "curve", TASKS_LEARNED, *STATISTICS], rows, 2)


def seeds_caption(row: ReportRow, name: str, bands: bool = True) -> str:
    """The seeds over which a table's values are averaged, and the meaning of bands, for a caption."""
    seeds = row.group.seeds_with(f"{name}.csv")
    meaning_of_bands = f"; {bands_text(len(seeds))}" if bands else ""
    return f"mean over {format_seeds(seeds)} (n = {len(seeds)}){meaning_of_bands}"


def bands_text(n: int) -> str:
    """What is drawn beside the means over `n` seeds."""
    if n >= MIN_SEEDS:
        return "bands: standard error"
    return "dots: seeds" if n > 1 else "one seed"


def _interval_text(summaries: Iterable[Summary]) -> str:
    """The intervals of a chart, and whether some rows have too few seeds for one."""
    too_few = any(summary.interval is None for summary in summaries)
    return "95 % confidence intervals" + (f" from {MIN_SEEDS} seeds on" if too_few else "")


def _line_chart(
    css_class: str,
    name: str,
    draw: Callable[[bool], charts.Figure],
    caption: str,
    curves: Sequence[Curve],
    x: str,
    unit: str,
) -> Chart:
    numbers = TextTable(["curve", x, *STATISTICS], _curve_rows(curves, unit), 1)
    return Chart(css_class, name, draw, caption, _alt_text(caption, curves, unit), numbers)


def _group_prefix(row_number: int, row: ReportRow) -> str:
    """Prefix of the names of a group's charts."""
    return f"{row_number}_{_as_file_name(row.label)}"


def _as_file_name(text: str) -> str:
    """A text as part of a file name or id."""
    return re.sub(r"[^\w-]+", "_", text.replace("=", "-"), flags=re.ASCII).strip("_")[:80]


def _statistics_cells(summary: Summary, unit: str) -> list[str]:
    """The statistics of a summary as cells, in the order of STATISTICS."""
    values = [summary.mean, summary.sem, *(summary.interval or (None, None))]
    return [*("–" if value is None else format_number(value, unit, 3) for value in values), str(summary.n)]


def _curve_rows(curves: Iterable[Curve], unit: str) -> list[list[str]]:
    """The points of curves as rows of a table; of many points, the last one of each curve."""
    curves = list(curves)
    first = 0 if sum(len(curve.points) for curve in curves) <= _MAX_NUMBERS else -1
    return [
        [curve.name, f"{x:g}", *_statistics_cells(point, unit)]
        for curve in curves
        for x, point in list(curve.points.items())[first:]
    ]


def _alt_text(caption: str, curves: Sequence[Curve], unit: str) -> str:
    """A line chart in words: first and last value of each curve."""
    descriptions = []
    for curve in (curve for curve in curves if curve.points):
        (first_x, first), (last_x, last) = next(iter(curve.points.items())), list(curve.points.items())[-1]
        descriptions.append(
            f"{curve.name} from {format_number(first.mean, unit)} at {first_x:g} "
            f"to {format_number(last.mean, unit)} at {last_x:g}"
        )
    return f"{caption}: {'; '.join(descriptions)}"


def save_charts(table: ReportTable, folder: Path) -> int:
    """Write all charts and accuracy matrices for papers, each as SVG and PDF.

    Returns:
        Number of charts.

    Raises:
        FolderError, WriteError: The folder can't be created, or a file can't be written.
    """
    make_folder(folder)
    all_charts = [*comparison_charts(table), *sweep_charts(table)]
    draw_by_name = dict[str, Callable[[bool], charts.Figure]]()
    for number, row in enumerate(table.rows, 1):
        if cells := series.accuracy_matrix(row.group):
            draw_by_name[f"{_group_prefix(number, row)}_matrix"] = partial(charts.heat_map, cells)
        all_charts += group_charts(number, row)
    for table_format in table_formats(table):
        if table_format.layout == "lines":
            all_charts += measured_charts(table_format, table)
    draw_by_name |= {chart.name: chart.draw for chart in all_charts}
    for name, draw in draw_by_name.items():
        charts.save_for_paper(draw(False), folder / name)
    return len(draw_by_name)
