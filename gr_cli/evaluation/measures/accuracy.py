"""Accuracy and loss on each task."""

from __future__ import annotations

from collections.abc import Sequence

from gr_cli.evaluation.base import Evaluation, EvaluationContext
from gr_cli.results.accuracy import ACCURACY, accuracy_row
from gr_cli.results.tables import TableRow


class Accuracy(Evaluation):
    """Accuracy and loss on the evaluated tasks, which may be untrained; the source of the accuracy matrix."""

    name, description, columns = ACCURACY.name, ACCURACY.description, ACCURACY.columns
    phases = frozenset({"before", "within", "after"})

    def rows(self, context: EvaluationContext) -> Sequence[TableRow]:
        rows = []
        for task in context.evaluated_tasks:
            for split in task.evaluation_splits():
                result = context.score(task, split)
                rows.append(
                    accuracy_row(
                        context.after_task, context.iteration, task.id, split, result.accuracy, result.loss,
                        result.num_samples,
                        context.task_finished,
                    )
                )  # fmt: skip
        return rows
