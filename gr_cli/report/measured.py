"""What evaluations measured, for the page and for papers: a section for each table that the runs' folders describe.

The accuracy matrix and its curves stand with each group; here is whatever else was measured, none of it known by name.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from gr_cli.report import charts, series
from gr_cli.report.groups import seeds_shown
from gr_cli.report.page_chart import STATISTICS, Chart, alt_text, chart_of, line_numbers
from gr_cli.report.statistics import Summary
from gr_cli.report.tables import Row, Shown, Table, number, title
from gr_cli.results.accuracy import ACCURACY
from gr_cli.results.tables import FRACTION, Column, TableFormat

_BETTER = {"higher": "higher is better", "lower": "lower is better", "none": ""}


@dataclass(frozen=True)
class DrawnTable:
    """A table whose values are drawn over the tasks learnt: its panels, group by group, and the highest values."""

    format: TableFormat
    panels: list[dict[Column, list[series.Line]]]
    tops: dict[Column, float]


@dataclass
class Section:
    """A part of the page about one table: what it and its columns mean, and charts or matrices of each group."""

    name: str
    heading: str
    about: str
    meanings: dict[str, str]
    charts: list[Chart] = field(default_factory=list)
    matrices: list[dict[str, Any]] = field(default_factory=list)


def _formats(table: Table) -> list[TableFormat]:
    """The tables that any finished run describes; one that several describe, as the first of them does."""
    found: dict[str, TableFormat] = {}
    for row in table.rows:
        for run in row.group.finished.values():
            found = {**run.tables, **found}
    return [found[name] for name in sorted(found) if name != ACCURACY.name]


def drawn_tables(table: Table) -> list[DrawnTable]:
    """The tables that are drawn as lines."""
    made = []
    for described in _formats(table):
        if described.layout == "lines":
            panels = [series.measured(row.group, described) for row in table.rows]
            made.append(DrawnTable(described, panels, series.tops(panels)))
    return made


def sections(table: Table) -> list[Section]:
    """The sections of all tables that have anything to show."""
    made = [_lines(drawn, table) for drawn in drawn_tables(table)]
    made += [_matrices(described, table) for described in _formats(table) if described.layout == "matrix"]
    return [section for section in sorted(made, key=lambda section: section.name) if section.charts or section.matrices]


def _section(described: TableFormat) -> Section:
    words = {column: [column.unit.replace(FRACTION, "%"), _BETTER[column.direction]] for column in described.values}
    meanings = {
        f"{column.name} ({'; '.join(filter(None, parts))})" if any(parts) else column.name: column.meaning
        for column, parts in words.items()
    }
    heading = described.name.replace("_", " ").capitalize()
    return Section(f"measured-{described.name}", heading, described.about, meanings)


def _lines(drawn: DrawnTable, table: Table) -> Section:
    """How the columns of a table go on with training, group by group."""
    section, name = _section(drawn.format), drawn.format.name
    for place, (row, panels) in enumerate(zip(table.rows, drawn.panels, strict=True)):
        if panels:
            caption = (
                f"{place + 1} · {row.label}: {name.replace('_', ' ')} as training goes on; {_mean_over(row, name)}"
            )
            alt = "; ".join(
                alt_text(title(column.name, column.unit), [lines[0], lines[-1]], column.unit)
                for column, lines in panels.items()
            )
            figure = charts.panels(panels, drawn.tops, page=True)
            chart = chart_of(
                "measured", f"{section.name}-{place}", figure, caption, f"{caption}. {alt}", _numbers(panels)
            )
            section.charts.append(chart)
    return section


def _numbers(panels: Mapping[Column, Sequence[series.Line]]) -> Shown:
    rows = [
        [title(column.name, column.unit), *cells]
        for column, lines in panels.items()
        for cells in line_numbers(lines, "", column.unit).rows
    ]
    return Shown(["measure", "line", "tasks learnt", *STATISTICS], rows, 2)


def _mean_over(row: Row, name: str) -> str:
    seeds = row.group.seeds_with(f"{name}.csv")
    bands = "; bands: standard error" if len(seeds) > 1 else ""
    return f"mean over {seeds_shown(seeds)} (n = {len(seeds)}){bands}"


def _matrices(described: TableFormat, table: Table) -> Section:
    """The counts of each group after its last task, coloured by their share of the row; too large ones are left out."""
    section = _section(described)
    for place, row in enumerate(table.rows):
        counts = series.counted(row.group, described)
        names = [sorted({key[axis] for key in counts}, key=lambda text: (len(text), text)) for axis in (0, 1)]
        if counts and max(map(len, names)) <= charts.FEW:
            down, across = described.keys[-2:]
            seeds = row.group.seeds_with(f"{described.name}.csv")
            caption = f"{place + 1} · {row.label}: {described.values[0].meaning}, after the last task"
            section.matrices.append(
                {
                    "label": section.heading,
                    "corner": f"{down} \\ {across}",
                    "columns": names[1],
                    "rows": [(name, _shares(name, names[1], counts)) for name in names[0]],
                    "forgotten": [],
                    "caption": f"{caption}; mean over {seeds_shown(seeds)} (n = {len(seeds)})",
                }
            )
    return section


def _shares(name: str, columns: Sequence[str], counts: Mapping[tuple[str, str], Summary]) -> list[dict[str, str]]:
    """The cells of a row: counts, with colours for their shares of it."""
    values = [counts[name, column].mean if (name, column) in counts else 0.0 for column in columns]
    total = sum(values) or 1.0
    cells = []
    for value in values:
        colours = charts.colour_of(value / total), charts.readable_on(value / total)
        shown = number(value, "", 0 if value == int(value) else 1)
        cells.append({"mean": shown, "error": "", "back": colours[0], "front": colours[1]})
    return cells
