"""The accuracy of random guesses, as rows of tables and lines in charts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import NamedTuple

from gr_cli.report.groups import NO_VALUE, Group
from gr_cli.report.tables import ReportTable, TextTable, format_number
from gr_cli.results.tables import FRACTION, name_with_unit
from gr_cli.terminal.fitted_table import FittedColumn

METRIC, CHANCE_METRIC, LABEL = "average_accuracy", "chance_accuracy", "random chance"
_COMPARABLE = ("benchmark", "scenario")  # configurations that differ in these have a chance of their own


class ChanceRow(NamedTuple):
    """The average accuracy of random guesses, in [0, 1], with a name that tells it from that of other benchmarks."""

    label: str
    accuracy: float


def chance_rows(table: ReportTable) -> list[ChanceRow]:
    """The chance of each benchmark and scenario of a table; none unless the table shows the average accuracy.

    Separate networks are given the task in every scenario. Their chance is shown where there is no other.
    """
    if METRIC not in table.metrics:
        return []
    by_values: dict[tuple[str, ...], float] = {}
    for row in sorted(table.rows, key=lambda row: _is_given_the_task(row.group)):
        if values := row.group.metric(CHANCE_METRIC).values():
            key = tuple(str(row.group.values.get(name)) for name in _COMPARABLE)
            by_values.setdefault(key, sum(values) / len(values))
    differ = [i for i in range(len(_COMPARABLE)) if len({values[i] for values in by_values}) > 1]
    return [
        ChanceRow(" · ".join([LABEL, *(values[i] for i in differ)]), chance)
        for values, chance in sorted(by_values.items())
    ]


def _is_given_the_task(group: Group) -> bool:
    return any(run.status.get("reference_for") == "transfer" for run in group.finished.values())


def with_chance_rows(text: TextTable, table: ReportTable) -> TextTable:
    """The table for people with a row for each chance: its name, and its value below the average accuracy."""
    accuracy = name_with_unit(METRIC, FRACTION)
    rows = [
        [
            row.label,
            *(format_number(row.accuracy, FRACTION) if name == accuracy else NO_VALUE for name in text.headers[1:]),
        ]
        for row in chance_rows(table)
    ]
    return replace(text, rows=[*text.rows, *rows])


def with_chance(columns: Sequence[FittedColumn], rows: Sequence[ChanceRow]) -> list[FittedColumn]:
    """Columns with a cell more for each chance: its name in the first column of texts, its value below the accuracy."""
    first_text = next((column for column in columns if column.is_text), None)
    accuracy = name_with_unit(METRIC, FRACTION)

    def cells(column: FittedColumn, digits: int) -> tuple[str, ...]:
        if column is first_text:
            return tuple(row.label for row in rows)
        if column.header == accuracy:
            return tuple(format_number(row.accuracy, FRACTION, digits) for row in rows)
        return tuple("" if column.is_text or column.header == "#" else NO_VALUE for _ in rows)

    return [
        replace(
            column,
            cells=(*column.cells, *cells(column, 2)),
            short_cells=(*column.short_cells, *cells(column, 1)) if column.short_cells else (),
        )
        for column in columns
    ]
