"""Tables of evaluations: formats, columns, and rows as a CSV file.

A run's folder describes its tables in tables.json, so that readers treat all evaluations alike:

    >>> calibration = TableFormat(
    ...     "calibration",
    ...     "Expected calibration error of the solver.",
    ...     (AFTER_TASK, TASK, Column("error", "calibration error", FRACTION, "lower", metric="calibration"), COUNT),
    ... )
    >>> table = MeasuredTable(calibration, [{"after_task": 0, "task": 0, "error": 0.125, "n": 100}])
    >>> table.csv_text()
    'after_task,task,error,n\\n0,0,0.125000,100\\n'
    >>> table.last_metrics()
    {'calibration': 0.125}
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Annotated, Any, Literal

from annotated_types import Len, Predicate

from gr_cli.config.arguments import dataclass_from_dict
from gr_cli.results.growing_text import GrowingText, json_columns, rows_from_json
from gr_cli.results.statistics import UNIT_INTERVAL, Bounds
from gr_cli.system.files import csv_lines

CellValue = str | int | float | None  # None: undefined, an empty cell
TableRow = dict[str, CellValue]  # by column
Direction = Literal["higher", "lower", "none"]  # which values are better
TableLayout = Literal["lines", "matrix"]

FRACTION = "fraction"  # unit of values in [0, 1] that people see in percent
ALL_TASKS = "all"  # value of a column `task`: all tasks so far together
TIME_COLUMNS = ("after_task", "iteration")  # columns that say when a row was measured

Name = Annotated[str, Predicate(re.compile(r"\w{1,100}", re.ASCII).fullmatch)]
OneLine = Annotated[str, Predicate(re.compile(r".{0,1000}").fullmatch)]
_FORBID_EXTRA = {"extra": "forbid"}  # unknown keys in tables.json are an error


def name_with_unit(name: str, unit: str) -> str:
    """A metric's or column's name for people, with its unit: `average accuracy (%)`."""
    plain_name = name.replace("_", " ")
    return f"{plain_name} (%)" if unit == FRACTION else f"{plain_name} ({unit})" if unit else plain_name


# Larger units of numbers that can be large, and how many of the unit they are.
_PREFIXED = {
    "FLOP": {"PFLOP": 1e15, "TFLOP": 1e12, "GFLOP": 1e9, "MFLOP": 1e6, "kFLOP": 1e3},
    "bytes": {"TiB": 2.0**40, "GiB": 2.0**30, "MiB": 2.0**20, "KiB": 2.0**10},
}


def prefixed_unit(unit: str, largest: float) -> tuple[str, float]:
    """The largest unit in which a value is at least 1, and how many of `unit` it is.

    >>> prefixed_unit("FLOP", 5_180_620_800), prefixed_unit("bytes", 12), prefixed_unit("nats", 1e9)
    (('GFLOP', 1000000000.0), ('bytes', 1.0), ('nats', 1.0))
    """
    return next(((name, size) for name, size in _PREFIXED.get(unit, {}).items() if largest >= size), (unit, 1.0))


def unit_sizes(unit: str) -> dict[str, float]:
    """The units in which people may give a value of `unit`, and how many of it each is.

    >>> unit_sizes("FLOP")["GFLOP"], unit_sizes("fraction"), unit_sizes("nats")
    (1000000000.0, {'%': 0.01}, {'nats': 1.0})
    """
    if unit == FRACTION:
        return {"%": 0.01}
    return {**_PREFIXED.get(unit, {}), unit: 1.0} if unit else {}


def parse_quantity(text: str, unit: str) -> float | None:
    """A number of `unit`, also with one of its `unit_sizes` behind it; None for any other text.

    >>> parse_quantity("80%", "fraction"), parse_quantity("5 GFLOP", "FLOP"), parse_quantity("3", "bytes")
    (0.8, 5000000000.0, 3.0)
    """
    # The longest name first: FLOP is the end of GFLOP.
    for name, size in sorted(unit_sizes(unit).items(), key=lambda pair: -len(pair[0])):
        if text.endswith(name):
            number = _number(text.removesuffix(name))
            # Divided, because 80 * 0.01 is not 0.8.
            return None if number is None else number / 100 if name == "%" else number * size
    return _number(text)


def _number(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:
        return None


def display_factor(unit: str) -> float:
    """Factor by which values of a unit are multiplied for display: 100 for fractions, which people see in percent."""
    return 100.0 if unit == FRACTION else 1.0


@dataclass(frozen=True)
class Column:
    """A column of a table.

    Attributes:
        name: Name in the header of the CSV file.
        meaning: One line for readers.
        unit: `fraction`, `nats`, `samples`, ...; empty for a number without a unit.
        direction: Which values are better.
        key: Whether the column identifies what a row is about (a task, a class), and is not a measurement.
        metric: Name in metrics.csv for the value of the last row; empty if it is not a metric.
        minimum: Least possible value, if there is one; of a fraction it is 0.
    """

    __pydantic_config__ = _FORBID_EXTRA

    name: Name
    meaning: OneLine
    unit: OneLine = ""
    direction: Direction = "none"
    key: Literal[True, False] = False  # to pydantic, "yes" is a bool
    metric: Name | Literal[""] = ""
    minimum: float | None = None

    @property
    def bounds(self) -> Bounds:
        """Range of possible values."""
        return UNIT_INTERVAL if self.unit == FRACTION else Bounds(self.minimum)


AFTER_TASK = Column("after_task", "the task in training or trained last, from 0; -1: before any training", key=True)
ITERATION = Column("iteration", "iterations of that task at the time of measurement", key=True)
TASK = Column("task", f"the task whose samples are used, from 0; {ALL_TASKS}: all tasks so far", key=True)
COUNT = Column("n", "number of samples", unit="samples")


@dataclass(frozen=True)
class TableFormat:
    """Name, description and columns of a table.

    Attributes:
        name: Name of the CSV file without `.csv`.
        description: One or two sentences for readers of the report.
        columns: Columns in order; `after_task` is required.
        layout: How the report shows it. `lines`: a curve over tasks for each combination of keys. `matrix`: the first
            value column by the last two keys.

    Raises:
        ValueError: A column name occurs twice, or there is no column `after_task`.
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
        """Names of the key columns except the time of measurement."""
        return tuple(column.name for column in self.columns if column.key and column.name not in TIME_COLUMNS)

    @property
    def value_columns(self) -> tuple[Column, ...]:
        """Columns that are measurements."""
        return tuple(column for column in self.columns if not column.key)

    @property
    def metric_columns(self) -> dict[str, Column]:
        """Columns whose last value is a metric, by name of the metric."""
        return {column.metric: column for column in self.columns if column.metric}

    def as_dict(self) -> dict[str, Any]:
        """The format as plain values, as in tables.json."""
        return asdict(self) | {"columns": [asdict(column) for column in self.columns]}


@dataclass(frozen=True)
class _TablesFile:
    """Content of tables.json."""

    tables: Annotated[tuple[TableFormat, ...], Len(0, 100)]


def parse_table_formats(described: Mapping[str, Any]) -> dict[str, TableFormat]:
    """Table formats by name from the content of a tables.json.

    Raises:
        ValueError: It is malformed.
    """
    return {table.name: table for table in dataclass_from_dict(_TablesFile, described).tables}


@dataclass
class MeasuredTable:
    """A table with its rows in the order of measurement. Rows are appended, and don't change afterwards."""

    format: TableFormat
    """Name and columns."""
    rows: list[TableRow] = field(default_factory=list)
    """Rows. Values other than the format's columns are saved in checkpoints, but not written to the CSV file."""

    def __post_init__(self) -> None:
        names = [column.name for column in self.format.columns]
        self._header = csv_lines([names])
        self._csv = GrowingText(lambda rows: csv_lines([row[name] for name in names] for row in rows))
        self._json = GrowingText(json_columns)
        self._format_as_dict = self.format.as_dict()

    def csv_text(self) -> str:
        """Content of the CSV file."""
        return self._header + "".join(self._csv.blocks(self.rows))

    def last_metrics(self) -> dict[str, CellValue]:
        """Metrics by name, from the last row; empty without rows."""
        return (
            {name: self.rows[-1][column.name] for name, column in self.format.metric_columns.items()}
            if self.rows
            else {}
        )

    def state_dict(self) -> dict[str, Any]:
        """The table as text, for a checkpoint. Numbers are restored exactly."""
        return {"format": self._format_as_dict, "rows": self._json.blocks(self.rows)}

    @classmethod
    def from_state(cls, state: Mapping[str, Any]) -> MeasuredTable:
        """The table whose `state_dict` is `state`."""
        return cls(dataclass_from_dict(TableFormat, state["format"]), rows_from_json(state["rows"]))
