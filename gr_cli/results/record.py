"""The measurements of a run so far, as rows of plain values, from which all tables of its folder are made."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

from gr_cli.results.accuracy import ACCURACY
from gr_cli.results.metrics import all_metrics, average_accuracy, fraction_metrics
from gr_cli.results.tables import MeasuredTable, TableFormat, TableRow

CsvTable = tuple[list[str], list[list[Any]]]  # header, rows


def _accuracy_table_only() -> dict[str, MeasuredTable]:
    return {ACCURACY.name: MeasuredTable(ACCURACY)}


@dataclass
class Record:
    """Evaluation tables, loss history and timing of one run, in the order of measurement."""

    tables: dict[str, MeasuredTable] = field(default_factory=_accuracy_table_only)
    """Tables of evaluations by name. The accuracy table always exists; others do from their first row on."""
    history: list[dict[str, float]] = field(default_factory=list)
    """Rows of history.csv: task, iteration and mean losses."""
    timing: list[dict[str, float]] = field(default_factory=list)
    """Rows of timing.csv: task, seconds per kind of work, throughput and memory."""

    def add_rows(self, table: TableFormat, rows: Sequence[TableRow]) -> None:
        """Append rows to a table."""
        if rows:
            self.tables.setdefault(table.name, MeasuredTable(table)).rows.extend(rows)

    @property
    def accuracy_rows(self) -> list[TableRow]:
        """Rows of the accuracy table."""
        return self.tables[ACCURACY.name].rows

    def accuracy_by_training(self, split: str = "test") -> dict[int, list[float | None]]:
        """The accuracy matrix by row.

        Args:
            split: `test` or `validation`.

        Returns:
            For each task whose training is over (from 0; -1: before any training), accuracies by task; None where a
            task was not evaluated.
        """
        cells = {
            (cast(int, row["after_task"]), cast(int, row["task"])): cast(float, row["accuracy"])
            for row in self.accuracy_rows
            if row["task_finished"] and row["split"] == split
        }
        width = max((task + 1 for _, task in cells), default=0)
        return {after: [cells.get((after, task)) for task in range(width)] for after, _ in cells}

    def matrix(self, split: str = "test") -> list[list[float | None]]:
        """The accuracy matrix: a row per training, a column per task; without the row before any training."""
        return [accuracies for after, accuracies in self.accuracy_by_training(split).items() if after >= 0]

    def metrics(self, transfer: bool, parameters: dict[str, int]) -> dict[str, float | None]:
        """All metrics by name, as in metrics.csv.

        Args:
            transfer: Whether accuracy on tasks that are not learned yet has a meaning (not in class-incremental
                learning).
            parameters: Number of parameters by network.
        """
        metrics = all_metrics(self.matrix(), self.accuracy_by_training().get(-1) if transfer else None)
        for table in self.tables.values():
            metrics |= {name: cast("float | None", value) for name, value in table.last_metrics().items()}
        return metrics | {f"parameters_{name}": n for name, n in parameters.items()}

    @property
    def fraction_metrics(self) -> frozenset[str]:
        """Names of the metrics in [0, 1], which people see in percent."""
        return fraction_metrics(table.format for table in self.tables.values())

    # --- tables

    def matrix_table(self) -> CsvTable:
        """Content of accuracy_matrix.csv."""
        rows = {after: accuracies for after, accuracies in self.accuracy_by_training().items() if after >= 0}
        width = max((len(accuracies) for accuracies in rows.values()), default=0)
        return ["after_task", *(f"task_{i}" for i in range(width))], [[after, *a] for after, a in rows.items()]

    def history_table(self) -> CsvTable:
        """Content of history.csv: a column per loss term, in the order of first appearance."""
        return _csv_table(["task", "iteration"], self.history)

    def timing_table(self) -> CsvTable:
        """Content of timing.csv."""
        return _csv_table(["task"], self.timing)

    # --- for the checkpoint

    def state_dict(self) -> dict[str, Any]:
        """The record as plain lists, dicts and numbers, for a checkpoint."""
        tables = [table.state_dict() for table in self.tables.values()]
        return {"tables": tables, "history": list(self.history), "timing": list(self.timing)}

    @classmethod
    def from_state(cls, state: dict[str, Any]) -> Record:
        """The record whose `state_dict` is `state`."""
        tables = [MeasuredTable.from_state(table) for table in state["tables"]]
        return cls({table.format.name: table for table in tables}, list(state["history"]), list(state["timing"]))


@dataclass(frozen=True)
class Result:
    """Results of a finished run."""

    folder: Path
    """Folder of the run."""
    record: Record
    """Its measurements."""
    metrics: dict[str, float | None]
    """Metrics by name, as in metrics.csv."""

    @property
    def score(self) -> float | None:
        """Mean validation accuracy over tasks after the last training; None without validation samples."""
        return average_accuracy(self.record.matrix("validation"))


def _csv_table(first: list[str], rows: list[dict[str, float]]) -> CsvTable:
    columns = list(dict.fromkeys([*first, *(key for row in rows for key in row)]))
    return columns, [[row.get(column) for column in columns] for row in rows]
