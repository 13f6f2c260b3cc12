"""Accuracy of a solver on the test samples of each task."""

from __future__ import annotations

from collections.abc import Sequence

from gr_cli.evaluation.base import Context, Evaluation
from gr_cli.results.accuracy import ACCURACY, accuracy_row
from gr_cli.results.tables import Row
from gr_cli.training.scoring import score


class Accuracy(Evaluation):
    """Accuracy and loss on all tasks, learnt or not: what the accuracy matrix is made of."""

    name, about, columns = ACCURACY.name, ACCURACY.about, ACCURACY.columns
    moments = frozenset({"before", "within", "after"})

    def rows(self, context: Context) -> Sequence[Row]:
        found = []
        for task in context.experiment.benchmark.tasks:
            for split in task.splits():
                result = score(context.answers(task, split), context.units(task.id))
                found.append(
                    accuracy_row(
                        context.after_task, context.iteration, task.id, split, result.accuracy, result.loss, result.n,
                        context.final,
                    )
                )  # fmt: skip
        return found
