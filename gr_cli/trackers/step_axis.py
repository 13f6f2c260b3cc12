"""The tables of a run, as rows by step for a tracker."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from itertools import groupby
from typing import Any

from gr_cli.results.tables import TableFormat

TableRows = Sequence[Mapping[str, Any]]
MetricsByStep = dict[int, dict[str, float]]


class StepAxis:
    """Where on one axis things lie that are counted by task: each task begins where the one before ended.

    ends: where each task ended. last: where the last one did.
    """

    def __init__(self, history: TableRows, evaluations: TableRows, finished_tasks: Sequence[int]) -> None:
        lengths: dict[int, int] = {}
        for rows, column in ((history, "task"), (evaluations, "after_task")):
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
        """The losses after the first `known` rows, by step."""
        return {
            self._task_starts[row["task"]] + row["iteration"]: {
                f"loss/{name}": value for name, value in row.items() if name not in ("task", "iteration")
            }
            for row in history[skip:]
        }

    def table_metrics(self, table: TableFormat, rows: TableRows, skip: int) -> MetricsByStep:
        """The values of what an evaluation measured after the first `known` rows, by step; each by the names of table
        and column, and by what its row is about."""
        found: MetricsByStep = {}
        for row in rows[skip:]:
            after = row["after_task"]
            step = self._task_starts[after] + row["iteration"] if "iteration" in row else self.task_ends[after]
            about = ["_".join(f"{key}_{row[key]}" for key in table.key_names)] if table.key_names else []
            for column in table.value_columns:
                if row[column.name] is not None:
                    name = "/".join([table.name, column.name, *about])
                    found.setdefault(step, {})[re.sub(r"[^\w./ -]", "_", name)] = float(row[column.name])
        return dict(sorted(found.items()))

    def accuracy_metrics(self, evaluations: TableRows, skip: int) -> MetricsByStep:
        """The accuracies after the first `known` rows, by step; `mean`: of the tasks so far."""
        groups = [
            (key, list(rows)) for key, rows in groupby(evaluations, lambda row: (row["after_task"], row["iteration"]))
        ]
        # What was looked at last, after a training that is over, was at its end, in whatever iterations that counts.
        last = {after: i for i, ((after, _), _) in enumerate(groups) if after in self._finished_tasks}
        found: MetricsByStep = {}
        for i, ((after, iteration), rows) in enumerate(groups):
            fresh, skip = skip <= 0, skip - len(rows)
            if fresh:
                step = self.task_ends[after] if last.get(after) == i else self._task_starts[after] + iteration
                found = merge(found, {step: _accuracy_values(rows, after)})
        return found


def _accuracy_values(rows: TableRows, after: int) -> dict[str, float]:
    found: dict[str, float] = {}
    for split in dict.fromkeys(row["split"] for row in rows):
        name = "accuracy" if split == "test" else f"{split}_accuracy"
        values = {row["task"]: float(row["accuracy"]) for row in rows if row["split"] == split}
        found |= {f"{name}/task_{task}": value for task, value in values.items()}
        so_far = [value for task, value in values.items() if task <= after]
        if so_far:
            found[f"{name}/mean"] = sum(so_far) / len(so_far)
    return found


def merge(first: MetricsByStep, second: MetricsByStep) -> MetricsByStep:
    """The values of both, steps ascending."""
    return {step: {**first.get(step, {}), **second.get(step, {})} for step in sorted({**first, **second})}
