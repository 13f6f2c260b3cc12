"""The charts of a report for papers."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from gr_cli.report import series
from gr_cli.report.groups import Group
from gr_cli.report.tables import ReportRow, ReportTable
from gr_cli.results import charts
from gr_cli.results.tables import TableFormat, display_factor, name_with_unit, prefixed_unit
from gr_cli.system.files import make_folder


@dataclass(frozen=True)
class Chart:
    """A chart: the name of its files, and a function that draws it."""

    name: str
    draw: Callable[[], charts.Figure]


def comparison_charts(table: ReportTable) -> list[Chart]:
    """A chart per metric with the means of all groups."""
    charts_or_none = (_comparison_chart(metric, table) for metric in table.metrics)
    return [chart for chart in charts_or_none if chart is not None]


def _comparison_chart(metric: str, table: ReportTable) -> Chart | None:
    named = [(row.label, summary) for row in table.rows if (summary := row.metrics[metric])]
    unit = table.units[metric]
    draw = partial(
        charts.comparison_chart, named, name_with_unit(metric, unit), display_factor(unit), table.bounds[metric]
    )
    return Chart(metric, draw) if named else None


def sweep_charts(table: ReportTable) -> list[Chart]:
    """A chart of the first metric for each numeric setting."""
    metric = table.metrics[0]
    unit, result = table.units[metric], []
    for column, curves in series.setting_curves(table):
        labels = column.label.replace("_", " "), name_with_unit(metric, unit)
        draw = partial(charts.sweep_chart, curves, *labels, display_factor(unit), table.bounds[metric])
        result.append(Chart(f"{metric}_by_{_as_file_name(column.label)}", draw))
    return result


def group_charts(row_number: int, row: ReportRow) -> list[Chart]:
    """Accuracy matrix, accuracy and losses of a group over training. `row_number` counts from 1."""
    return [
        Chart(f"{_group_prefix(row_number, row)}_{name.removeprefix('accuracy_')}", draw)
        for name, draw in training_figures(row.group).items()
    ]


def training_figures(group: Group) -> dict[str, Callable[[], charts.Figure]]:
    """Functions that draw the accuracy matrix, accuracy and losses of a group over training, by name."""
    drawn: dict[str, Callable[[], charts.Figure]] = {}
    if cells := series.accuracy_matrix(group):
        drawn["accuracy_matrix"] = partial(charts.heat_map, cells)
    if curves := series.accuracy_curves(group):
        drawn["accuracy_curves"] = partial(charts.accuracy_chart, curves)
    if curves := series.loss_curves(group):
        drawn["losses"] = partial(charts.loss_chart, curves)
    return drawn


def measured_charts(table_format: TableFormat, table: ReportTable) -> list[Chart]:
    """The columns of an evaluation's table over training, a chart per group."""
    drawn = measure_figures(table_format, [row.group for row in table.rows])
    return [
        Chart(f"{_group_prefix(number, row)}_{table_format.name}", draw)
        for number, (row, draw) in enumerate(zip(table.rows, drawn, strict=True), 1)
        if draw is not None
    ]


def measure_figures(table_format: TableFormat, groups: Sequence[Group]) -> list[Callable[[], charts.Figure] | None]:
    """For each group a function that draws the columns of an evaluation's table over training; None without values."""
    panels_by_group = [series.measured_curves(group, table_format) for group in groups]
    # Equal axes and units, so that the charts of groups can be compared.
    highest = {
        column: max((curve.upper_bound for panels in panels_by_group for curve in panels.get(column, ())), default=0.0)
        for column in table_format.value_columns
    }
    units = {column: prefixed_unit(column.unit, limit) for column, limit in highest.items()}
    shown = {column: replace(column, unit=unit) for column, (unit, _) in units.items()}
    axis_limits = {shown[column]: limit / units[column][1] for column, limit in highest.items()}
    scaled = [
        {shown[column]: [curve.scaled(1 / units[column][1]) for curve in curves] for column, curves in panels.items()}
        for panels in panels_by_group
    ]
    return [partial(charts.measure_panels, panels, axis_limits) if panels else None for panels in scaled]


def _group_prefix(row_number: int, row: ReportRow) -> str:
    """Prefix of the names of a group's charts."""
    return f"{row_number}_{_as_file_name(row.label)}"


def _as_file_name(text: str) -> str:
    """A text as part of a file name."""
    return re.sub(r"[^\w-]+", "_", text.replace("=", "-"), flags=re.ASCII).strip("_")[:80]


def save_charts(table: ReportTable, folder: Path) -> int:
    """Write all charts and accuracy matrices for papers, each as SVG and PDF.

    Returns:
        Number of charts.

    Raises:
        FolderError, WriteError: The folder can't be created, or a file can't be written.
    """
    make_folder(folder)
    all_charts = [*comparison_charts(table), *sweep_charts(table)]
    for number, row in enumerate(table.rows, 1):
        all_charts += group_charts(number, row)
    for table_format in series.table_formats(table):
        if table_format.layout == "lines":
            all_charts += measured_charts(table_format, table)
    draw_by_name = {chart.name: chart.draw for chart in all_charts}
    for name, draw in draw_by_name.items():
        charts.save_for_paper(draw(), folder / name)
    return len(draw_by_name)
