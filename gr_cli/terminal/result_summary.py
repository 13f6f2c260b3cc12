"""Summary of a finished run: accuracy matrix, metrics, and a table for each evaluation that gives metrics."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

from rich.console import Console
from rich.table import Table
from rich.text import Text

from gr_cli.errors import one_line
from gr_cli.results.tables import ALL_TASKS, display_factor, name_with_unit, prefixed_unit
from gr_cli.terminal.format import format_percent

if TYPE_CHECKING:
    from gr_cli.results.metrics import MatrixRow
    from gr_cli.results.record import Result
    from gr_cli.results.tables import MeasuredTable

_PLURALS = {"task": "tasks", "class": "classes"}  # names of keys
_UNLIMITED = 1_000_000  # columns
# Labels of the rows and columns of the accuracy matrix, from wide to narrow.
_MATRIX_LABELS = (("{task} ({name})", "task {task}"), ("{task}", "task {task}"), ("{task}", "{task}"))


def accuracy_table(result: Result, names: Sequence[str] | None, console: Console) -> Table | None:
    """The accuracy matrix of a run; None if it is wider than the console.

    Args:
        result: The finished run.
        names: Names of the tasks, if they are known.
        console: Where the table is to be printed.
    """
    matrix = {after: row for after, row in result.record.accuracy_by_training().items() if after >= 0}
    for row_label, column_label in _MATRIX_LABELS if names else _MATRIX_LABELS[1:]:
        table = _accuracy_table(matrix, names, row_label, column_label)
        # Without a limit: a measurement is clipped to the width of the console.
        if console.measure(table, options=console.options.update(max_width=_UNLIMITED)).maximum <= console.width:
            return table
    return None


def _accuracy_table(
    matrix: Mapping[int, MatrixRow], names: Sequence[str] | None, row_label: str, column_label: str
) -> Table:
    table = _plain_table("test accuracy (%)")
    table.add_column("after task", no_wrap=True)
    num_tasks = max(map(len, matrix.values()))
    for task in range(num_tasks):
        table.add_column(column_label.format(task=task), justify="right", no_wrap=True)
    for after, row in matrix.items():
        label = row_label.format(task=after, name=one_line(names[after]) if names else "")
        if len(matrix) == 1 < num_tasks:  # joint training
            label = "all"
        cells = [Text(format_percent(value), style="" if task <= after else "dim") for task, value in enumerate(row)]
        table.add_row(Text(label), *cells)  # not markup: a name may have brackets
    return table


def metrics_text(result: Result) -> Text:
    """The metrics of the accuracy matrix, one in each line."""
    other = {name for table in result.record.tables.values() for name in table.format.metric_columns}
    metrics = {
        name: value
        for name, value in result.metrics.items()
        if value is not None and name not in other and not name.startswith("parameters")
    }
    width = max(map(len, metrics), default=0)
    lines = [f"{name.replace('_', ' '):<{width}}  {100 * value:6.2f} %" for name, value in metrics.items()]
    return Text("\n".join(lines))


def evaluation_tables(result: Result) -> Iterator[Table]:
    """For each evaluation that gives metrics, a table of their last values, with what they mean."""
    for table in result.record.tables.values():
        if table.format.metric_columns and table.rows:
            yield _evaluation_table(table)


def _evaluation_table(measured: MeasuredTable) -> Table:
    row = measured.rows[-1]
    keys = [_key_text(key, row[key]) for key in measured.format.key_names]
    heading = f"{measured.format.name.replace('_', ' ')} after task {row['after_task']}"
    table = _plain_table(", ".join([heading, *keys]))
    table.add_column("measure", no_wrap=True)
    table.add_column("value", justify="right", no_wrap=True)
    table.add_column("better", no_wrap=True)
    table.add_column("meaning", overflow="fold")
    for column in measured.format.metric_columns.values():
        value = row[column.name]
        unit, size = prefixed_unit(column.unit, 0.0 if value is None else abs(float(value)))
        number = "–" if value is None else f"{display_factor(unit) * float(value) / size:.2f}"
        direction = "" if column.direction == "none" else column.direction
        cells = (name_with_unit(column.name, unit), number, direction, column.meaning)
        table.add_row(*(Text(one_line(cell)) for cell in cells))
    return table


def _key_text(name: str, value: object) -> str:
    """A key and its value: `task 1`, or `all tasks`."""
    return f"all {_PLURALS.get(name, name)}" if value == ALL_TASKS else f"{name} {value}"


def _plain_table(heading: str) -> Table:
    """A table without frame, whose title stands at the left."""
    text = Text(one_line(heading), style="bold")
    return Table(title=text, title_justify="left", box=None, padding=(0, 2, 0, 0), pad_edge=False, header_style="dim")
