"""The tables of a run, as rows by step for a tracker."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from itertools import groupby
from typing import Any

from gr_cli.results.tables import TableFormat

Table = Sequence[Mapping[str, Any]]
Rows = dict[int, dict[str, float]]


class StepAxis:
    """Where on one axis things lie that are counted by task: each task begins where the one before ended.

    ends: where each task ended. last: where the last one did.
    """

    def __init__(self, history: Table, evaluations: Table, over: Sequence[int]) -> None:
        lengths: dict[int, int] = {}
        for rows, column in ((history, "task"), (evaluations, "after_task")):
            for row in rows:
                task = row[column]
                lengths[task] = max(lengths.get(task, 0), row["iteration"])
        self.ends, self._over, self.last = {-1: 0}, set(over), 0
        self._begins: dict[int, int] = {-1: 0}
        for task in sorted(lengths):
            self._begins[task] = self.last
            self.last += lengths[task]
            self.ends[task] = self.last

    def of_losses(self, history: Table, known: int) -> Rows:
        """The losses after the first `known` rows, by step."""
        return {
            self._begins[row["task"]] + row["iteration"]: {
                f"loss/{name}": value for name, value in row.items() if name not in ("task", "iteration")
            }
            for row in history[known:]
        }

    def of_table(self, table: TableFormat, rows: Table, known: int) -> Rows:
        """The values of what an evaluation measured after the first `known` rows, by step; each by the names of table
        and column, and by what its row is about."""
        found: Rows = {}
        for row in rows[known:]:
            after = row["after_task"]
            step = self._begins[after] + row["iteration"] if "iteration" in row else self.ends[after]
            about = ["_".join(f"{key}_{row[key]}" for key in table.keys)] if table.keys else []
            for column in table.values:
                if row[column.name] is not None:
                    name = "/".join([table.name, column.name, *about])
                    found.setdefault(step, {})[re.sub(r"[^\w./ -]", "_", name)] = float(row[column.name])
        return dict(sorted(found.items()))

    def of_accuracies(self, evaluations: Table, known: int) -> Rows:
        """The accuracies after the first `known` rows, by step; `mean`: of the tasks so far."""
        groups = [
            (key, list(rows)) for key, rows in groupby(evaluations, lambda row: (row["after_task"], row["iteration"]))
        ]
        # What was looked at last, after a training that is over, was at its end, in whatever iterations that counts.
        last = {after: i for i, ((after, _), _) in enumerate(groups) if after in self._over}
        found: Rows = {}
        for i, ((after, iteration), rows) in enumerate(groups):
            fresh, known = known <= 0, known - len(rows)
            if fresh:
                step = self.ends[after] if last.get(after) == i else self._begins[after] + iteration
                found = merged(found, {step: _accuracies(rows, after)})
        return found


def _accuracies(rows: Table, after: int) -> dict[str, float]:
    found: dict[str, float] = {}
    for split in dict.fromkeys(row["split"] for row in rows):
        name = "accuracy" if split == "test" else f"{split}_accuracy"
        values = {row["task"]: float(row["accuracy"]) for row in rows if row["split"] == split}
        found |= {f"{name}/task_{task}": value for task, value in values.items()}
        so_far = [value for task, value in values.items() if task <= after]
        if so_far:
            found[f"{name}/mean"] = sum(so_far) / len(so_far)
    return found


def merged(one: Rows, other: Rows) -> Rows:
    """The values of both, steps ascending."""
    return {step: {**one.get(step, {}), **other.get(step, {})} for step in sorted({**one, **other})}
