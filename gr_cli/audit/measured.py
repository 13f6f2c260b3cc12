"""Tables of measurements of several runs, for people and as files."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping

from gr_cli.report.formats import csv_file, json_file, markdown
from gr_cli.report.tables import TextTable
from gr_cli.results.tables import CellValue, Column, MeasuredTable, display_factor, name_with_unit
from gr_cli.terminal.fitted_table import FittedColumn, FittedTable

Tables = Mapping[str, MeasuredTable]
"""The table of each run, by its name."""


def csv_text(tables: Tables) -> str:
    """All rows as CSV; with a column for the run if there are several."""
    several = len(tables) > 1
    names = [column.name for table in tables.values() for column in table.format.columns]
    rows = [
        [*([run] if several else []), *(row[name] for name in dict.fromkeys(names))]
        for run, table in tables.items()
        for row in table.rows
    ]
    return csv_file([*(["run"] if several else []), *dict.fromkeys(names)], rows)


def json_text(tables: Tables) -> str:
    """All rows as JSON, with the meaning of the columns."""
    rows = [{"run": run, **row} for run, table in tables.items() for row in table.rows]
    columns = {column.name: column.meaning for table in tables.values() for column in table.format.columns}
    return json_file({"columns": columns, "rows": rows})


def markdown_text(tables: Tables) -> str:
    """A table for each run as Markdown."""
    return "\n".join(
        markdown(
            TextTable(
                [_header(column) for column in table.format.columns],
                [[_cell(row[column.name], column) for column in table.format.columns] for row in table.rows],
                len(table.format.key_names) + 1,
            ),
            [run, table.format.description],
        )
        for run, table in tables.items()
    )


# How tables are written as text, by the name of the format.
TEXTS: Mapping[str, Callable[[Tables], str]] = {"csv": csv_text, "json": json_text, "markdown": markdown_text}


def fitted_tables(tables: Tables) -> Iterator[FittedTable]:
    """A table for each run for the terminal."""
    for run, table in tables.items():
        columns = {
            column: FittedColumn(
                _header(column), tuple(_cell(row[column.name], column) for row in table.rows), is_text=column.key
            )
            for column in table.format.columns
        }
        names = [fitted for column, fitted in columns.items() if column.key]
        values = [fitted for column, fitted in columns.items() if not column.key]
        yield FittedTable([run], [names], values[:1], values[1:], [table.format.description])


def _header(column: Column) -> str:
    return name_with_unit(column.name, column.unit)


def _cell(value: CellValue, column: Column) -> str:
    """A value, fractions in percent; empty where it is undefined."""
    if not isinstance(value, float):
        return "" if value is None else str(value)
    is_percent = display_factor(column.unit) == 100
    return f"{100 * value:.1f}" if is_percent else f"{value:.3f}"
