"""The measurements of a run so far, as rows of plain values, from which all tables of its folder are made."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

from gr_cli.results.accuracy import ACCURACY
from gr_cli.results.growing_text import GrowingText, json_columns, rows_from_json
from gr_cli.results.metrics import VALIDATION, accuracy_so_far, all_metrics, fraction_metrics
from gr_cli.results.tables import MeasuredTable, TableFormat, TableRow
from gr_cli.system.files import csv_lines, csv_text

AccuraciesByTask = dict[int, float]
LossRow = dict[str, float]


def _accuracy_table_only() -> dict[str, MeasuredTable]:
    return {ACCURACY.name: MeasuredTable(ACCURACY)}


@dataclass
class Record:
    """Evaluation tables, loss history and timing of one run, in the order of measurement."""

    tables: dict[str, MeasuredTable] = field(default_factory=_accuracy_table_only)
    """Tables of evaluations by name. The accuracy table always exists; others do from their first row on."""
    history: list[LossRow] = field(default_factory=list)
    """Rows of history.csv: task, iteration and mean losses."""
    timing: list[LossRow] = field(default_factory=list)
    """Rows of timing.csv: task, seconds per kind of work, throughput and memory."""

    def __post_init__(self) -> None:
        self._history_text, self._timing_text = _LossTable(["task", "iteration"]), _LossTable(["task"])
        # Accuracies of finished tasks by split, task trained last, and task; and the number of rows that are in it.
        self._finished: dict[str, dict[int, AccuraciesByTask]] = {}
        self._num_finished_rows = 0

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
        for row in self.accuracy_rows[self._num_finished_rows :]:
            if row["task_finished"]:
                by_training = self._finished.setdefault(cast(str, row["split"]), {})
                accuracies = by_training.setdefault(cast(int, row["after_task"]), {})
                accuracies[cast(int, row["task"])] = cast(float, row["accuracy"])
        self._num_finished_rows = len(self.accuracy_rows)
        rows = self._finished.get(split, {})
        width = max((task + 1 for accuracies in rows.values() for task in accuracies), default=0)
        return {after: [accuracies.get(task) for task in range(width)] for after, accuracies in rows.items()}

    def matrix(self, split: str = "test") -> list[list[float | None]]:
        """The accuracy matrix: a row per training, a column per task; without the row before any training."""
        return [accuracies for after, accuracies in self.accuracy_by_training(split).items() if after >= 0]

    def accuracy_so_far(self) -> dict[int, float | None]:
        """Average accuracy on the tasks so far after each task, on validation samples if there are any."""
        by_training = self.accuracy_by_training("validation") or self.accuracy_by_training()
        return {task: accuracy_so_far(row, task) for task, row in by_training.items() if task >= 0}

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

    def csv_texts(self) -> dict[str, str]:
        """Content of the CSV files by name without `.csv`: matrix, history, timing, and evaluations."""
        by_training = self.accuracy_by_training()
        rows = [[after, *accuracies] for after, accuracies in by_training.items() if after >= 0]
        width = max((len(row) - 1 for row in rows), default=0)
        texts = {
            "accuracy_matrix": csv_text(["after_task", *(f"task_{i}" for i in range(width))], rows),
            "history": self._history_text.text(self.history),
            "timing": self._timing_text.text(self.timing),
        }
        return texts | {name: table.csv_text() for name, table in self.tables.items()}

    # --- for the checkpoint

    def state_dict(self) -> dict[str, Any]:
        """The record as lists and dicts of text, for a checkpoint."""
        return {
            "tables": [table.state_dict() for table in self.tables.values()],
            "history": self._history_text.state(self.history),
            "timing": self._timing_text.state(self.timing),
        }

    @classmethod
    def from_state(cls, state: dict[str, Any]) -> Record:
        """The record whose `state_dict` is `state`."""
        tables = [MeasuredTable.from_state(table) for table in state["tables"]]
        history, timing = rows_from_json(state["history"]), rows_from_json(state["timing"])
        return cls({table.format.name: table for table in tables}, history, timing)


@dataclass(frozen=True)
class Result:
    """Results of a finished run."""

    folder: Path
    """Folder of the run."""
    record: Record
    """Its measurements."""
    metrics: dict[str, float | None]
    """Metrics by name, as in metrics.csv."""

    def value(self, metric: str) -> float | None:
        """A metric by name, `validation_<metric>` on validation samples; None if it has no value in this run."""
        if metric.startswith(VALIDATION):
            return all_metrics(self.record.matrix("validation"), None).get(metric.removeprefix(VALIDATION))
        return self.metrics.get(metric)


class _LossTable:
    """Text of a table whose columns are in the order of first appearance; a loss may appear in a later task.

    Args:
        first: The first columns.
    """

    def __init__(self, first: list[str]) -> None:
        self._first, self._columns = first, list(first)
        self._csv, self._json = GrowingText(self._lines), GrowingText(json_columns)

    def _lines(self, rows: Sequence[LossRow]) -> str:
        return csv_lines([row.get(column) for column in self._columns] for row in rows)

    def text(self, rows: Sequence[LossRow]) -> str:
        """Content of the CSV file."""
        columns = list(dict.fromkeys([*self._first, *(name for row in rows for name in row)]))
        if columns != self._columns:
            self._columns, self._csv = columns, GrowingText(self._lines)
        return csv_lines([columns]) + "".join(self._csv.blocks(rows))

    def state(self, rows: Sequence[LossRow]) -> list[str]:
        """The rows as text, for a checkpoint."""
        return self._json.blocks(rows)
