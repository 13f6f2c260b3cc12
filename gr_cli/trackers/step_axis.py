"""Conversion of a run's tables to the metrics of a tracker: values by step and name."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from itertools import groupby
from typing import Any

from gr_cli.results.tables import TableFormat

TableRows = Sequence[Mapping[str, Any]]
MetricsByStep = dict[int, dict[str, float]]


class StepAxis:
    """Steps over all tasks: a task's first iteration follows the last one of the task before.

    Args:
        history: Rows of history.csv, with `task` and `iteration`.
        accuracies: Rows of evaluations.csv, with `after_task` and `iteration`.
        finished_tasks: Tasks whose training has ended.

    Attributes:
        task_ends: Last step of each task so far; of task -1, before any training, 0.
        last_step: Last step of the last task so far.
    """

    def __init__(self, history: TableRows, accuracies: TableRows, finished_tasks: Sequence[int]) -> None:
        lengths: dict[int, int] = {}
        for rows, column in ((history, "task"), (accuracies, "after_task")):
            for row in rows:
                task = row[column]
                lengths[task] = max(lengths.get(task, 0), row["iteration"])
        self.task_ends, self._finished_tasks, self.last_step = {-1: 0}, set(finished_tasks), 0
        self._task_starts: dict[int, int] = {-1: 0}
        for task in sorted(lengths):
            self._task_starts[task] = self.last_step
            self.last_step += lengths[task]
            self.task_ends[task] = self.last_step

    def loss_metrics(self, history: TableRows, skip: int) -> MetricsByStep:
        """The losses `loss/<term>` of `history`, without its first `skip` rows."""
        return {
            self._task_starts[row["task"]] + row["iteration"]: {
                f"loss/{name}": value for name, value in row.items() if name not in ("task", "iteration")
            }
            for row in history[skip:]
        }

    def table_metrics(self, table: TableFormat, rows: TableRows, skip: int) -> MetricsByStep:
        """The values of an evaluation's table, without its first `skip` rows.

        A value is named `<table>/<column>`, followed by the row's keys, as in `sample_quality/recall/task_2`.
        """
        metrics: MetricsByStep = {}
        for row in rows[skip:]:
            after = row["after_task"]
            step = self._task_starts[after] + row["iteration"] if "iteration" in row else self.task_ends[after]
            keys = ["_".join(f"{key}_{row[key]}" for key in table.key_names)] if table.key_names else []
            for column in table.value_columns:
                if row[column.name] is not None:
                    name = "/".join([table.name, column.name, *keys])
                    metrics.setdefault(step, {})[re.sub(r"[^\w./ -]", "_", name)] = float(row[column.name])
        return dict(sorted(metrics.items()))

    def accuracy_metrics(self, accuracies: TableRows, skip: int) -> MetricsByStep:
        """Accuracies `accuracy/task_<id>` and `accuracy/mean` (tasks so far), without the first `skip` rows."""
        groups = [
            (key, list(rows)) for key, rows in groupby(accuracies, lambda row: (row["after_task"], row["iteration"]))
        ]
        # The last evaluation of a finished task belongs to the task's end, even if no step was trained.
        last = {after: i for i, ((after, _), _) in enumerate(groups) if after in self._finished_tasks}
        metrics: MetricsByStep = {}
        for i, ((after, iteration), rows) in enumerate(groups):
            is_new, skip = skip <= 0, skip - len(rows)
            if is_new:
                step = self.task_ends[after] if last.get(after) == i else self._task_starts[after] + iteration
                metrics = merge(metrics, {step: _accuracy_values(rows, after)})
        return metrics


def _accuracy_values(rows: TableRows, after: int) -> dict[str, float]:
    """The accuracies of one evaluation by name."""
    accuracies: dict[str, float] = {}
    for split in dict.fromkeys(row["split"] for row in rows):
        name = "accuracy" if split == "test" else f"{split}_accuracy"
        values = {row["task"]: float(row["accuracy"]) for row in rows if row["split"] == split}
        accuracies |= {f"{name}/task_{task}": value for task, value in values.items()}
        so_far = [value for task, value in values.items() if task <= after]
        if so_far:
            accuracies[f"{name}/mean"] = sum(so_far) / len(so_far)
    return accuracies


def merge(first: MetricsByStep, second: MetricsByStep) -> MetricsByStep:
    """The values of both, in ascending order of the steps."""
    return {step: {**first.get(step, {}), **second.get(step, {})} for step in sorted({**first, **second})}
