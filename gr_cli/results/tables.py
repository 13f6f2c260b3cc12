"""Tables of what evaluations measured: which columns they have, and how rows become a CSV file.

A run's folder describes its tables in `tables.json`, so that whoever reads it knows no evaluation by name.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from typing import Any, Literal, get_args

Value = str | int | float | None  # None: without meaning there; an empty cell
Row = dict[str, Value]
Direction = Literal["higher", "lower", "none"]  # which values are better
Layout = Literal["lines", "matrix"]

FRACTION = "fraction"  # the unit of what is shown in percent
ALL_TASKS = "all"  # in a column `task`: all tasks so far together
MOMENT = ("after_task", "iteration")  # columns that say when a row was measured

_MOST_TABLES, _MOST_COLUMNS, _LONGEST = 100, 100, 1000


@dataclass(frozen=True)
class Column:
    """A column of a table.

    name: as in the header of the CSV file.
    meaning: one line.
    unit: `fraction`, `nats`, `samples`, ...; empty for a number without one.
    direction: which values are better.
    key: whether it says what a row is about (a task, a class), and measures nothing.
    metric: the name under which the value of the last row stands in metrics.csv; empty: it does not.
    """

    name: str
    meaning: str
    unit: str = ""
    direction: Direction = "none"
    key: bool = False
    metric: str = ""


AFTER_TASK = Column("after_task", "the last task that was trained, from 0 on; -1: before any training", key=True)
ITERATION = Column("iteration", "iterations of that task when it was measured", key=True)
TASK = Column("task", f"the task whose samples these are; {ALL_TASKS}: all so far", key=True)
COUNT = Column("n", "number of samples", unit="samples")


@dataclass(frozen=True)
class TableFormat:
    """What a table is.

    name: of the file, without `.csv`.
    about: a sentence or two for readers who see its numbers.
    columns: in their order; `after_task` is among them.
    layout: `lines`: the values of a row's keys over the tasks learnt; `matrix`: the first value by the last two keys.
    """

    name: str
    about: str
    columns: tuple[Column, ...]
    layout: Layout = "lines"

    @property
    def keys(self) -> tuple[str, ...]:
        """The columns that say what a row is about, besides when it was measured."""
        return tuple(column.name for column in self.columns if column.key and column.name not in MOMENT)

    @property
    def values(self) -> tuple[Column, ...]:
        """The columns that hold what was measured."""
        return tuple(column for column in self.columns if not column.key)

    @property
    def metrics(self) -> dict[str, Column]:
        """The columns that give a metric, by its name."""
        return {column.metric: column for column in self.columns if column.metric}

    def as_dict(self) -> dict[str, Any]:
        """Plain values, as `tables.json` holds them."""
        return asdict(self) | {"columns": [asdict(column) for column in self.columns]}

    @classmethod
    def from_dict(cls, state: Mapping[str, Any]) -> TableFormat:
        """The format that gave `state`.

        Raises:
            ValueError: it is none.
        """
        _check_fields(state, cls)
        columns = state["columns"]
        if not isinstance(columns, Sequence) or isinstance(columns, str) or len(columns) > _MOST_COLUMNS:
            raise ValueError("`columns` must be a list")
        found = cls(**{**state, "columns": tuple(_column(column) for column in columns)})
        names = [column.name for column in found.columns]
        if found.layout not in get_args(Layout) or AFTER_TASK.name not in names or len(set(names)) < len(names):
            raise ValueError(f"table {found.name} has no such layout, or no column `{AFTER_TASK.name}`, or one twice")
        return found


def _column(state: object) -> Column:
    _check_fields(state, Column)
    assert isinstance(state, Mapping)
    column = Column(**state)
    if column.direction not in get_args(Direction) or (column.metric and not _is_name(column.metric)):
        raise ValueError(f"column {column.name} must be better higher, lower or none")
    return column


def _check_fields(state: object, kind: type[TableFormat | Column]) -> None:
    """Raise ValueError unless `state` has the fields of `kind`, texts of one line but for flags and columns."""
    names = {item.name for item in fields(kind)}
    if not isinstance(state, Mapping) or set(state) != names or not _is_name(state["name"]):
        raise ValueError("a table or a column has a name that is none, or other fields than it must have")
    for name, value in state.items():
        fits = isinstance(value, bool) if name == "key" else name == "columns" or isinstance(value, str)
        if not fits or (isinstance(value, str) and (len(value) > _LONGEST or "\n" in value)):
            raise ValueError(f"`{name}` of {state['name']} must be a text of one line")


def _is_name(value: object) -> bool:
    return isinstance(value, str) and re.fullmatch(r"\w{1,100}", value, re.ASCII) is not None


def formats_of(described: Mapping[str, Any]) -> dict[str, TableFormat]:
    """The tables that a `tables.json` describes, by name.

    Raises:
        ValueError: it describes none.
    """
    tables = described.get("tables")
    if not isinstance(tables, list) or len(tables) > _MOST_TABLES:
        raise ValueError("`tables` must be a list")
    formats = [TableFormat.from_dict(table) for table in tables]
    return {table.name: table for table in formats}


@dataclass
class MeasuredTable:
    """A table with its rows, in the order in which they came. A row may hold more than its columns: that is kept in the
    run's state, and not written."""

    format: TableFormat
    rows: list[Row] = field(default_factory=list)

    def cells(self) -> tuple[list[str], list[list[Value]]]:
        """Header and rows of the CSV file."""
        names = [column.name for column in self.format.columns]
        return names, [[row[name] for name in names] for row in self.rows]

    def metrics(self) -> dict[str, Value]:
        """What its last row puts into metrics.csv."""
        return {name: self.rows[-1][column.name] for name, column in self.format.metrics.items()} if self.rows else {}

    def state_dict(self) -> dict[str, Any]:
        """Plain lists, dicts and numbers; the rows by column, which takes less room."""
        names = list(self.rows[0]) if self.rows else []
        return {"format": self.format.as_dict(), "values": {name: [row[name] for row in self.rows] for name in names}}

    @classmethod
    def from_state(cls, state: Mapping[str, Any]) -> MeasuredTable:
        """The table that gave `state`."""
        values = state["values"]
        rows = [dict(zip(values, row, strict=True)) for row in zip(*values.values(), strict=True)]
        return cls(TableFormat.from_dict(state["format"]), rows)
