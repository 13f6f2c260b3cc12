"""Accuracy and loss on each task."""

from __future__ import annotations

from collections.abc import Sequence

from gr_cli.evaluation.base import Evaluation, EvaluationContext
from gr_cli.results.accuracy import ACCURACY, accuracy_row
from gr_cli.results.tables import TableRow
from gr_cli.training.scoring import score


class Accuracy(Evaluation):
    """Accuracy and loss on all tasks, including untrained ones; the source of the accuracy matrix."""

    name, description, columns = ACCURACY.name, ACCURACY.description, ACCURACY.columns
    phases = frozenset({"before", "within", "after"})

    def rows(self, context: EvaluationContext) -> Sequence[TableRow]:
        rows = []
        for task in context.experiment.benchmark.tasks:
            for split in task.evaluation_splits():
                result = score(context.predictions(task, split), context.competing_units(task.id))
                rows.append(
                    accuracy_row(
                        context.after_task, context.iteration, task.id, split, result.accuracy, result.loss,
                        result.num_samples,
                        context.task_finished,
                    )
                )  # fmt: skip
        return rows
