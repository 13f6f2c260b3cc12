"""What a run found so far: rows of plain values, from which every table of the run folder is made."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

from gr_cli.results.accuracy import ACCURACY
from gr_cli.results.metrics import all_metrics, average_accuracy, fractions
from gr_cli.results.tables import MeasuredTable, Row, TableFormat

Table = tuple[list[str], list[list[Any]]]


def _tables() -> dict[str, MeasuredTable]:
    return {ACCURACY.name: MeasuredTable(ACCURACY)}


@dataclass
class Record:
    """What was measured, history and timing of a run, in the order in which they came.

    tables: of the evaluations, by name; that of accuracy is always there, others with their first row.
    """

    tables: dict[str, MeasuredTable] = field(default_factory=_tables)
    history: list[dict[str, float]] = field(default_factory=list)
    timing: list[dict[str, float]] = field(default_factory=list)

    def add(self, table: TableFormat, rows: Sequence[Row]) -> None:
        """Append rows to a table."""
        if rows:
            self.tables.setdefault(table.name, MeasuredTable(table)).rows.extend(rows)

    @property
    def accuracies(self) -> list[Row]:
        """The rows of accuracy."""
        return self.tables[ACCURACY.name].rows

    def rows(self, split: str = "test") -> dict[int, list[float | None]]:
        """The accuracy matrix: for each training that is over (-1: before any), accuracies by task, None for none."""
        cells = {
            (cast(int, row["after_task"]), cast(int, row["task"])): cast(float, row["accuracy"])
            for row in self.accuracies
            if row["final"] and row["split"] == split
        }
        width = max((task + 1 for _, task in cells), default=0)
        return {after: [cells.get((after, task)) for task in range(width)] for after, _ in cells}

    def matrix(self, split: str = "test") -> list[list[float | None]]:
        """Its rows after trainings, without the one before."""
        return [accuracies for after, accuracies in self.rows(split).items() if after >= 0]

    def metrics(self, transfer: bool, parameters: dict[str, int]) -> dict[str, float | None]:
        """All metrics by name. `transfer`: whether accuracies on unseen tasks mean anything."""
        found = all_metrics(self.matrix(), self.rows().get(-1) if transfer else None)
        for table in self.tables.values():
            found |= {name: cast("float | None", value) for name, value in table.metrics().items()}
        return found | {f"parameters_{name}": n for name, n in parameters.items()}

    @property
    def fractions(self) -> frozenset[str]:
        """The metrics that are shown in percent."""
        return fractions(table.format for table in self.tables.values())

    # --- tables

    def matrix_table(self) -> Table:
        """accuracy_matrix.csv"""
        rows = {after: accuracies for after, accuracies in self.rows().items() if after >= 0}
        width = max((len(accuracies) for accuracies in rows.values()), default=0)
        return ["after_task", *(f"task_{i}" for i in range(width))], [[after, *a] for after, a in rows.items()]

    def history_table(self) -> Table:
        """history.csv: the loss terms are the columns, in the order in which they first came up."""
        return _from_dicts(["task", "iteration"], self.history)

    def timing_table(self) -> Table:
        """timing.csv"""
        return _from_dicts(["task"], self.timing)

    # --- for the checkpoint

    def state_dict(self) -> dict[str, Any]:
        """Plain lists, dicts and numbers."""
        tables = [table.state_dict() for table in self.tables.values()]
        return {"tables": tables, "history": list(self.history), "timing": list(self.timing)}

    @classmethod
    def from_state(cls, state: dict[str, Any]) -> Record:
        """The record that gave `state`."""
        tables = [MeasuredTable.from_state(table) for table in state["tables"]]
        return cls({table.format.name: table for table in tables}, list(state["history"]), list(state["timing"]))


@dataclass(frozen=True)
class Result:
    """What a run found, and where it is."""

    folder: Path
    record: Record
    metrics: dict[str, float | None]

    @property
    def score(self) -> float | None:
        """Mean validation accuracy after the last training; None where nothing was held out."""
        return average_accuracy(self.record.matrix("validation"))


def _from_dicts(first: list[str], rows: list[dict[str, float]]) -> Table:
    columns = list(dict.fromkeys([*first, *(key for row in rows for key in row)]))
    return columns, [[row.get(column) for column in columns] for row in rows]
