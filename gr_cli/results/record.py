"""What a run found so far: rows of plain values, from which every table of the run folder is made."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

from gr_cli.results.accuracy import ACCURACY
from gr_cli.results.metrics import all_metrics, average_accuracy, fraction_metrics
from gr_cli.results.tables import MeasuredTable, TableFormat, TableRow

CsvTable = tuple[list[str], list[list[Any]]]


def _accuracy_table_only() -> dict[str, MeasuredTable]:
    return {ACCURACY.name: MeasuredTable(ACCURACY)}


@dataclass
class Record:
    """What was measured, history and timing of a run, in the order in which they came.

    tables: of the evaluations, by name; that of accuracy is always there, others with their first row.
    """

    tables: dict[str, MeasuredTable] = field(default_factory=_accuracy_table_only)
    history: list[dict[str, float]] = field(default_factory=list)
    timing: list[dict[str, float]] = field(default_factory=list)

    def add_rows(self, table: TableFormat, rows: Sequence[TableRow]) -> None:
        """Append rows to a table."""
        if rows:
            self.tables.setdefault(table.name, MeasuredTable(table)).rows.extend(rows)

    @property
    def accuracy_rows(self) -> list[TableRow]:
        """The rows of accuracy."""
        return self.tables[ACCURACY.name].rows

    def accuracy_by_training(self, split: str = "test") -> dict[int, list[float | None]]:
        """The accuracy matrix: for each training that is over (-1: before any), accuracies by task, None for none."""
        cells = {
            (cast(int, row["after_task"]), cast(int, row["task"])): cast(float, row["accuracy"])
            for row in self.accuracy_rows
            if row["task_finished"] and row["split"] == split
        }
        width = max((task + 1 for _, task in cells), default=0)
        return {after: [cells.get((after, task)) for task in range(width)] for after, _ in cells}

    def matrix(self, split: str = "test") -> list[list[float | None]]:
        """Its rows after trainings, without the one before."""
        return [accuracies for after, accuracies in self.accuracy_by_training(split).items() if after >= 0]

    def metrics(self, transfer: bool, parameters: dict[str, int]) -> dict[str, float | None]:
        """All metrics by name. `transfer`: whether accuracies on unseen tasks mean anything."""
        found = all_metrics(self.matrix(), self.accuracy_by_training().get(-1) if transfer else None)
        for table in self.tables.values():
            found |= {name: cast("float | None", value) for name, value in table.last_metrics().items()}
        return found | {f"parameters_{name}": n for name, n in parameters.items()}

    @property
    def fraction_metrics(self) -> frozenset[str]:
        """The metrics that are shown in percent."""
        return fraction_metrics(table.format for table in self.tables.values())

    # --- tables

    def matrix_table(self) -> CsvTable:
        """accuracy_matrix.csv"""
        rows = {after: accuracies for after, accuracies in self.accuracy_by_training().items() if after >= 0}
        width = max((len(accuracies) for accuracies in rows.values()), default=0)
        return ["after_task", *(f"task_{i}" for i in range(width))], [[after, *a] for after, a in rows.items()]

    def history_table(self) -> CsvTable:
        """history.csv: the loss terms are the columns, in the order in which they first came up."""
        return _csv_table(["task", "iteration"], self.history)

    def timing_table(self) -> CsvTable:
        """timing.csv"""
        return _csv_table(["task"], self.timing)

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


def _csv_table(first: list[str], rows: list[dict[str, float]]) -> CsvTable:
    columns = list(dict.fromkeys([*first, *(key for row in rows for key in row)]))
    return columns, [[row.get(column) for column in columns] for row in rows]
