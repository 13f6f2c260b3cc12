"""Tables that fit the width of a terminal: columns are left out, numbers shortened, long names wrapped."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from textwrap import wrap

from rich.cells import cell_len
from rich.console import Console
from rich.table import Table
from rich.text import Text

from gr_cli.errors import one_line
from gr_cli.system.output import encodable

_GAP = 2  # between columns
_HEADER_LINES = 3  # into which the name of a column may be broken
_MIN_NAME_WIDTH = 14  # of a column of names that is wrapped
_MAX_WARNINGS = 12  # lines below the table


@dataclass(frozen=True)
class FittedColumn:
    """A column of a table.

    Attributes:
        header: Its name.
        cells: A text per row.
        short_cells: Shorter texts, for a narrow terminal; empty: the same.
        is_text: Whether the cells are aligned at the left.
    """

    header: str
    cells: tuple[str, ...]
    short_cells: tuple[str, ...] = ()
    is_text: bool = False

    def texts(self, short: bool) -> tuple[str, ...]:
        """The cells, or the shorter ones."""
        return self.short_cells if short and self.short_cells else self.cells

    def mapped(self, function: Callable[[str], str]) -> FittedColumn:
        """The column with `function` applied to all texts."""
        cells, short_cells = (tuple(map(function, texts)) for texts in (self.cells, self.short_cells))
        return replace(self, header=function(self.header), cells=cells, short_cells=short_cells)

    def width(self, short: bool) -> int:
        """Least width that shows the cells unbroken, and the header in a few lines."""
        width = max(map(cell_len, [*self.texts(short), *_breakable(self.header).split()]), default=1)
        while len(wrap(_breakable(self.header), width, break_long_words=False)) > _HEADER_LINES:
            width += 1
        return width

    def header_lines(self, width: int) -> str:
        """The header, broken into lines of `width`."""
        return "\n".join(wrap(_breakable(self.header), width)).replace(". ", ".")


def _breakable(header: str) -> str:
    """A header with a space after dots, where it may be broken: `train.batch_size`."""
    return header.replace(".", ". ")


@dataclass(frozen=True)
class FittedTable:
    """A table with the texts around it.

    Attributes:
        heading: Lines above the table.
        names: Columns that name the rows, in several ways; the first that leaves room for the required columns is used.
        required: Columns that should not be left out, the most important one first.
        optional: Columns that are shown where there is room, the most important one first.
        notes: Lines below the table.
        column_notes: Lines below these, by the header of the column that they explain; shown where the column is.
        warnings: Lines below these.
    """

    heading: list[str]
    names: list[list[FittedColumn]]
    required: list[FittedColumn]
    optional: list[FittedColumn]
    notes: list[str] = field(default_factory=list)
    column_notes: dict[str, str] = field(default_factory=dict)
    warnings: list[str] = field(default_factory=list)

    def mapped(self, function: Callable[[str], str]) -> FittedTable:
        """The table with `function` applied to all texts."""

        def columns(some: list[FittedColumn]) -> list[FittedColumn]:
            return [column.mapped(function) for column in some]

        return FittedTable(
            list(map(function, self.heading)),
            list(map(columns, self.names)),
            columns(self.required),
            columns(self.optional),
            list(map(function, self.notes)),
            {function(header): function(note) for header, note in self.column_notes.items()},
            list(map(function, self.warnings)),
        )


@dataclass(frozen=True)
class Layout:
    """The columns that are shown, and how.

    Attributes:
        names: Columns that name the rows.
        columns: The others.
        left_out: Headers of columns without room.
        short: Whether cells are shortened.
    """

    names: list[FittedColumn]
    columns: list[FittedColumn]
    left_out: list[str]
    short: bool


def layout_for(table: FittedTable, width: int) -> Layout:
    """The columns that fit into `width`: all of them if that is possible, else all required ones, else the first ones.

    Where the required ones don't fit, rows are named in the way that leaves room for most of them; the last way of
    naming is wrapped if it is too wide.
    """
    columns = [*table.required, *table.optional]
    for wanted in (columns, table.required):
        for short in (False, True):
            for names in table.names:
                if _width([*names, *wanted], short) <= width:
                    return _filled(names, table, width, short)
    first = table.required[0].width(short=True)
    ways = [names for names in table.names[:-1] if _width(names, short=True) + _GAP + first <= width]
    layouts = [_filled(names, table, width, short=True) for names in (*ways, table.names[-1])]
    return max(layouts, key=lambda layout: len(layout.columns))


def _filled(names: list[FittedColumn], table: FittedTable, width: int, short: bool) -> Layout:
    """A layout with as many columns as there is room for; the first one is always there.

    After a required column without room no other is shown: p values belong to differences.
    """
    room = width - _GAP - min(_width(names, short), max(_MIN_NAME_WIDTH, width - _GAP - table.required[0].width(short)))
    shown = table.required[:1]
    for column in table.required[1:]:
        if _width([*shown, column], short) > room:
            break
        shown = [*shown, column]
    for column in table.optional if len(shown) == len(table.required) else ():
        if _width([*shown, column], short) <= room:
            shown = [*shown, column]
    left_out = [column.header for column in (*table.required, *table.optional) if column not in shown]
    return Layout(names, shown, left_out, short)


def _width(columns: Sequence[FittedColumn], short: bool) -> int:
    return sum(column.width(short) for column in columns) + _GAP * (len(columns) - 1)


def print_fitted(table: FittedTable, console: Console | None = None) -> None:
    """Print a table in the width of the terminal."""
    console = console or Console(highlight=False)
    # Before the layout, because a replacement may be longer than its character.
    table = table.mapped(lambda text: encodable(one_line(text), console.encoding))
    layout = layout_for(table, console.width)
    for i, line in enumerate(table.heading):
        _print_line(console, line, "" if i == 0 else "dim")
    console.print()
    console.print(_as_rich(layout, console.width))
    console.print()
    if layout.left_out:
        left_out = ", ".join(layout.left_out)
        _print_line(console, f"no room for: {left_out} (a wider terminal or --format csv shows them)", "dim")
    headers = {column.header for column in layout.columns}
    for line in [*table.notes, *(note for header, note in table.column_notes.items() if header in headers)]:
        _print_line(console, line, "dim")
    for line in table.warnings[:_MAX_WARNINGS]:
        _print_line(console, line, "yellow")
    if (more := len(table.warnings) - _MAX_WARNINGS) > 0:
        _print_line(console, f"and {more} more lines; --format markdown shows all", "yellow")


def _as_rich(layout: Layout, width: int) -> Table:
    columns = [*layout.names, *layout.columns]
    excess = max(0, _width(columns, layout.short) - width)
    widest = max(layout.names, key=lambda column: column.width(layout.short))
    rich_table = Table(box=None, padding=(0, _GAP, 0, 0), pad_edge=False, header_style="dim", collapse_padding=True)
    for column in columns:
        column_width = column.width(layout.short) - (excess if column is widest else 0)
        rich_table.add_column(
            Text(column.header_lines(max(1, column_width))),
            justify="left" if column.is_text else "right",
            width=max(1, column_width),
            overflow="fold",
        )
    for cells in zip(*(column.texts(layout.short) for column in columns), strict=True):
        rich_table.add_row(*map(Text, cells))
    return rich_table


def _print_line(console: Console, line: str, style: str) -> None:
    for part in wrap(line, console.width, subsequent_indent="  ", break_on_hyphens=False):
        console.print(Text(part, style=style), overflow="ignore", no_wrap=True, crop=False)
