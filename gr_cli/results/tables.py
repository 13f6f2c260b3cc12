"""Tables of what evaluations measured: which columns they have, and how rows become a CSV file.

A run's folder describes its tables in `tables.json`, so that whoever reads it knows no evaluation by name.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Annotated, Any, Literal

from annotated_types import Len, Predicate

from gr_cli.config.arguments import dataclass_from_dict

CellValue = str | int | float | None  # None: without meaning there; an empty cell
TableRow = dict[str, CellValue]
Direction = Literal["higher", "lower", "none"]  # which values are better
TableLayout = Literal["lines", "matrix"]

FRACTION = "fraction"  # the unit of what is shown in percent
ALL_TASKS = "all"  # in a column `task`: all tasks so far together
TIME_COLUMNS = ("after_task", "iteration")  # columns that say when a row was measured

Name = Annotated[str, Predicate(re.compile(r"\w{1,100}", re.ASCII).fullmatch)]
OneLine = Annotated[str, Predicate(re.compile(r".{0,1000}").fullmatch)]
_FORBID_EXTRA = {"extra": "forbid"}  # of what is read from `tables.json`


def name_with_unit(name: str, unit: str) -> str:
    """A metric or a column with its unit."""
    words = name.replace("_", " ")
    return f"{words} (%)" if unit == FRACTION else f"{words} ({unit})" if unit else words


def display_factor(unit: str) -> float:
    """By what numbers of a unit are multiplied where they are shown: fractions are in percent."""
    return 100.0 if unit == FRACTION else 1.0


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

    __pydantic_config__ = _FORBID_EXTRA

    name: Name
    meaning: OneLine
    unit: OneLine = ""
    direction: Direction = "none"
    key: Literal[True, False] = False  # to pydantic, "yes" is a bool
    metric: Name | Literal[""] = ""


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

    __pydantic_config__ = _FORBID_EXTRA

    name: Name
    description: OneLine
    columns: Annotated[tuple[Column, ...], Len(1, 100)]
    layout: TableLayout = "lines"

    def __post_init__(self) -> None:
        names = [column.name for column in self.columns]
        if AFTER_TASK.name not in names or len(set(names)) < len(names):
            raise ValueError(f"table {self.name} has no column `{AFTER_TASK.name}`, or one twice")

    @property
    def key_names(self) -> tuple[str, ...]:
        """The columns that say what a row is about, besides when it was measured."""
        return tuple(column.name for column in self.columns if column.key and column.name not in TIME_COLUMNS)

    @property
    def value_columns(self) -> tuple[Column, ...]:
        """The columns that hold what was measured."""
        return tuple(column for column in self.columns if not column.key)

    @property
    def metric_columns(self) -> dict[str, Column]:
        """The columns that give a metric, by its name."""
        return {column.metric: column for column in self.columns if column.metric}

    def as_dict(self) -> dict[str, Any]:
        """Plain values, as `tables.json` holds them."""
        return asdict(self) | {"columns": [asdict(column) for column in self.columns]}


@dataclass(frozen=True)
class _TablesFile:
    """What a `tables.json` holds."""

    tables: Annotated[tuple[TableFormat, ...], Len(0, 100)]


def parse_table_formats(described: Mapping[str, Any]) -> dict[str, TableFormat]:
    """The tables that a `tables.json` describes, by name.

    Raises:
        ValueError: it describes none.
    """
    return {table.name: table for table in dataclass_from_dict(_TablesFile, described).tables}


@dataclass
class MeasuredTable:
    """A table with its rows, in the order in which they came. A row may hold more than its columns: that is kept in the
    run's state, and not written."""

    format: TableFormat
    rows: list[TableRow] = field(default_factory=list)

    def csv_rows(self) -> tuple[list[str], list[list[CellValue]]]:
        """Header and rows of the CSV file."""
        names = [column.name for column in self.format.columns]
        return names, [[row[name] for name in names] for row in self.rows]

    def last_metrics(self) -> dict[str, CellValue]:
        """What its last row puts into metrics.csv."""
        return (
            {name: self.rows[-1][column.name] for name, column in self.format.metric_columns.items()}
            if self.rows
            else {}
        )

    def state_dict(self) -> dict[str, Any]:
        """Plain lists, dicts and numbers; the rows by column, which takes less room."""
        names = list(self.rows[0]) if self.rows else []
        return {"format": self.format.as_dict(), "values": {name: [row[name] for row in self.rows] for name in names}}

    @classmethod
    def from_state(cls, state: Mapping[str, Any]) -> MeasuredTable:
        """The table that gave `state`."""
        values = state["values"]
        rows = [dict(zip(values, row, strict=True)) for row in zip(*values.values(), strict=True)]
        return cls(dataclass_from_dict(TableFormat, state["format"]), rows)
