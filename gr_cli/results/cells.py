"""Addresses of values in the tables of a run: `sample_quality.recall`, `per_class.accuracy@class=3`."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from gr_cli.results.tables import AFTER_TASK, ALL_TASKS, ITERATION, TIME_COLUMNS, Column, TableFormat
from gr_cli.system.reading import parse_finite_float

_ADDRESS = re.compile(r"(\w+)\.(\w+)((?:@\w+=[\w.-]+)*)", re.ASCII)
_DEFAULT_KEYS = {"split": "test"}  # values of key columns that an address does not name


@dataclass(frozen=True)
class Cell:
    """A value column of a table after the last task.

    Of its rows, those with the named keys count; unless named, those of the test samples, and of all tasks together
    where the table has them. The value is their mean.
    """

    table: str
    """Name of the CSV file without `.csv`."""
    column: str
    """Name of the value column."""
    keys: Mapping[str, str]
    """Values of key columns by name."""

    def column_in(self, table_format: TableFormat) -> Column | None:
        """The column of the table that the address names; None if it has none."""
        return next((column for column in addressable_columns(table_format) if column.name == self.column), None)

    def unknown_keys(self, table_format: TableFormat) -> list[str]:
        """Keys of the address that are no key columns of the table."""
        return [name for name in self.keys if name not in key_names(table_format)]

    def value(self, rows: Sequence[Mapping[str, str]]) -> float | None:
        """The value in a table; None if there is no such row, or one without a value.

        Raises:
            ValueError, LookupError: The table is damaged.
        """
        chosen = [row for row in rows if all(row[name] == value for name, value in self.keys.items())]
        for name, value in _DEFAULT_KEYS.items():
            if name not in self.keys and any(name in row for row in chosen):
                chosen = [row for row in chosen if row[name] == value]
        for name in TIME_COLUMNS:
            if name not in self.keys and any(name in row for row in chosen):
                latest = max(int(row[name]) for row in chosen)
                chosen = [row for row in chosen if int(row[name]) == latest]
        together = [row for row in chosen if any(row[name] == ALL_TASKS for name in row.keys() - self.keys.keys())]
        values = [row[self.column] for row in together or chosen]
        return sum(map(parse_finite_float, values)) / len(values) if values and all(values) else None


def parse_cell(address: str) -> Cell | None:
    """The cell with this address; None for a text that is no address.

    >>> parse_cell("per_class.accuracy@class=3")
    Cell(table='per_class', column='accuracy', keys={'class': '3'})
    """
    match = _ADDRESS.fullmatch(address)
    if match is None:
        return None
    table, column, keys = match.groups()
    return Cell(table, column, dict(key.split("=", 1) for key in keys.split("@")[1:]))


def key_names(table_format: TableFormat) -> list[str]:
    """Key columns of a table that an address can name."""
    return [column.name for column in table_format.columns if column.key and column.name != ITERATION.name]


def addressable_columns(table_format: TableFormat) -> list[Column]:
    """Value columns of a table that have an address: all but numbers of samples."""
    return [column for column in table_format.value_columns if column.unit != "samples"]


def cell_addresses(formats: Iterable[TableFormat]) -> list[str]:
    """Addresses of all columns of tables."""
    return [f"{table.name}.{column.name}" for table in formats for column in addressable_columns(table)]


def with_cells_as_metrics(formats: Collection[TableFormat], names: Iterable[str]) -> list[TableFormat]:
    """The formats, and one for each of `names` that is an address in them, whose column is a metric of that name."""
    by_name = {table.name: table for table in formats}
    result = list(formats)
    for name in names:
        cell = parse_cell(name)
        column = cell.column_in(by_name[cell.table]) if cell is not None and cell.table in by_name else None
        if column is not None:
            result.append(TableFormat(name, "", (AFTER_TASK, replace(column, name=name, metric=name))))
    return result
