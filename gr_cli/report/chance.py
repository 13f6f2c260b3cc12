"""The accuracy of random guesses, as rows of tables and lines in charts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from operator import itemgetter
from statistics import fmean
from typing import NamedTuple

from gr_cli.report.groups import NO_VALUE
from gr_cli.report.tables import ReportRow, ReportTable, TextTable, format_number
from gr_cli.results.tables import FRACTION, name_with_unit
from gr_cli.terminal.fitted_table import FittedColumn
from gr_cli.terminal.format import with_plural

METRIC, CHANCE_METRIC, LABEL = "average_accuracy", "chance_accuracy", "random chance"
_COMPARABLE = ("benchmark", "scenario")  # configurations that differ in these have a chance of their own
_MAX_VALUES = 3  # of a setting in a name


class ChanceRow(NamedTuple):
    """The average accuracy of random guesses, in [0, 1], with a name that tells it from that of other benchmarks."""

    label: str
    accuracy: float


def chance_rows(table: ReportTable) -> list[ChanceRow]:
    """The chances of each benchmark and scenario of a table; none unless the table shows the average accuracy.

    There are several where settings change the number of output units that compete, such as the classes of a task.
    Separate networks are given the task in every scenario. Their chance is shown where there is no other.
    """
    if METRIC not in table.metrics:
        return []
    by_values: dict[tuple[str, ...], list[ReportRow]] = {}
    for row in table.rows:
        if row.group.metric(CHANCE_METRIC):
            by_values.setdefault(tuple(str(row.group.values.get(name)) for name in _COMPARABLE), []).append(row)
    differ = [i for i in range(len(_COMPARABLE)) if len({values[i] for values in by_values}) > 1]
    result = []
    for values, rows in sorted(by_values.items()):
        by_chance: dict[float, list[ReportRow]] = {}
        for row in [row for row in rows if not row.group.is_given_the_task] or rows:
            chance = round(fmean(row.group.metric(CHANCE_METRIC).values()), 6)  # as in the CSV files
            by_chance.setdefault(chance, []).append(row)
        for chance, name in zip(by_chance, _distinguishing(list(by_chance.values()), table), strict=True):
            result.append(ChanceRow(" · ".join([LABEL, *(values[i] for i in differ), *name]), chance))
    return result


def _distinguishing(lists: Sequence[Sequence[ReportRow]], table: ReportTable) -> list[list[str]]:
    """What distinguishes lists of rows: the values of a setting, else how many rows they have; nothing for one list."""
    if len(lists) == 1:
        return [[]]
    candidates: list[tuple[int, list[list[str]]]] = []
    for i, column in enumerate(table.columns):
        values = [list(dict.fromkeys(row.labels[i] for row in rows)) for rows in lists]
        if sum(map(len, values)) == len(set().union(*values)) and max(map(len, values)) <= _MAX_VALUES:
            candidates.append((sum(map(len, values)), [[f"{column.label}={','.join(texts)}"] for texts in values]))
    if not candidates:
        return [[with_plural(len(rows), "configuration")] for rows in lists]
    return min(candidates, key=itemgetter(0))[1]  # of several settings the one with the fewest values


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
