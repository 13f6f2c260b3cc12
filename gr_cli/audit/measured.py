"""Tables of measurements of several runs, for people and as files."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence

from gr_cli.report.formats import csv_file, json_file, markdown
from gr_cli.report.tables import TextTable
from gr_cli.results.tables import CellValue, Column, MeasuredTable, TableRow, display_factor, name_with_unit
from gr_cli.terminal.fitted_table import FittedColumn, FittedTable

_ENDS = ("_low", "_high")  # of the names of columns with the ends of an interval
_BLOCKS = ("part", "score")  # the terminal shows a block of rows for each of their values
# By table: columns with the same value in all rows, which the terminal shows above the table.
_SETTINGS = {"generated_samples": ("after_task", "generated"), "canaries": ("delta", "confidence")}

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
    """Tables for the terminal, which fit into 80 characters: a row for each figure where figures have intervals."""
    for run, table in tables.items():
        settings = [column for column in table.format.columns if column.name in _SETTINGS[table.format.name]]
        shown = [column for column in table.format.columns if column not in settings]
        values = [f"{_header(column)}: {_cell(table.rows[0][column.name], column)}" for column in settings]
        heading = [run, ", ".join(values)]
        is_interval = {f"{column.name}{end}" for column in shown for end in _ENDS} & {column.name for column in shown}
        meanings = [column for column in shown if not column.key and column.name not in is_interval]
        notes = [table.format.description, *(f"{_header(column)}: {column.meaning}" for column in meanings)]
        if is_interval:
            yield _figure_rows(table, [c for c in shown if c.name not in is_interval], heading, notes)
            continue
        blocks: dict[tuple[str, ...], list[TableRow]] = {}
        for row in table.rows:
            blocks.setdefault(tuple(str(row[name]) for name in _BLOCKS), []).append(row)
        for i, (block, rows) in enumerate(blocks.items()):
            columns = {
                column: FittedColumn(_header(column), tuple(_cell(row[column.name], column) for row in rows))
                for column in shown
                if column.name not in _BLOCKS
            }
            yield FittedTable(
                [*(heading if i == 0 else []), ": ".join(block)],
                [[fitted for column, fitted in columns.items() if column.key]],
                [fitted for column, fitted in columns.items() if not column.key],
                [],
                notes if i == len(blocks) - 1 else [],
            )


def _figure_rows(table: MeasuredTable, columns: Sequence[Column], heading: list[str], notes: list[str]) -> FittedTable:
    """A table with a row for each figure of each row: its name, value and interval."""
    keys, figures = [column for column in columns if column.key], [column for column in columns if not column.key]
    pairs = [(row, figure) for row in table.rows for figure in figures]
    names = [FittedColumn(_header(key), tuple(_cell(row[key.name], key) for row, _ in pairs)) for key in keys]
    names.append(FittedColumn("figure", tuple(_header(figure) for _, figure in pairs), is_text=True))
    ends = {"value": "", "low": "_low", "high": "_high"}
    values = [
        FittedColumn(header, tuple(_cell(row.get(f"{figure.name}{end}"), figure) for row, figure in pairs))
        for header, end in ends.items()
    ]
    return FittedTable(heading, [names], values, [], ["low and high: interval of 95 %", *notes])


def _header(column: Column) -> str:
    return name_with_unit(column.name, column.unit)


def _cell(value: CellValue, column: Column) -> str:
    """A value, fractions in percent; empty where it is undefined."""
    if not isinstance(value, float):
        return "" if value is None else str(value)
    is_percent = display_factor(column.unit) == 100
    return f"{100 * value:.1f}" if is_percent else f"{value:.3f}"
