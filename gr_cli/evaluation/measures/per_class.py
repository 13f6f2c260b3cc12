"""Accuracy of each class, and the confusion matrix."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from gr_cli.evaluation.base import Evaluation, EvaluationContext
from gr_cli.results.tables import AFTER_TASK, COUNT, FRACTION, Column, TableRow

_CLASSES_ARE_UNITS = (
    "Classes are output units: the n-th class of the stream, or where tasks share their units, the n-th of each task."
)


class PerClassAccuracy(Evaluation):
    """Accuracy on the test samples of each class so far."""

    name = "per_class"
    description = f"Accuracy on each class so far, on the test samples of all tasks so far. {_CLASSES_ARE_UNITS}"
    columns = (
        AFTER_TASK,
        Column("class", "true output unit", key=True),
        COUNT,
        Column("accuracy", "samples of the class with this prediction", FRACTION, "higher"),
    )

    def rows(self, context: EvaluationContext) -> Sequence[TableRow]:
        counts = confusion_counts(context)
        totals, right = counts.sum(1).tolist(), counts.diagonal().tolist()
        return [
            {"after_task": context.after_task, "class": unit, "n": n, "accuracy": right[unit] / n}
            for unit, n in enumerate(totals)
            if n
        ]


class ConfusionMatrix(Evaluation):
    """Confusion matrix of the test samples of all tasks so far."""

    name = "confusion"
    description = (
        "Predictions for the test samples of each class of all tasks so far, after each task; pairs without samples "
        f"have no row. {_CLASSES_ARE_UNITS}"
    )
    columns = (
        AFTER_TASK,
        Column("true", "true output unit", key=True),
        Column("predicted", "predicted output unit", key=True),
        Column("n", "samples of class `true` that are predicted as class `predicted`", "samples"),
    )
    layout = "matrix"

    def rows(self, context: EvaluationContext) -> Sequence[TableRow]:
        counts = confusion_counts(context)
        return [
            {"after_task": context.after_task, "true": true, "predicted": predicted, "n": int(counts[true, predicted])}
            for true, predicted in counts.nonzero().tolist()
        ]


def confusion_counts(context: EvaluationContext) -> Tensor:
    """Confusion matrix (U, U) of the test samples of all tasks so far: true units in rows, predicted in columns."""
    size = context.experiment.task_units.shape[1]
    counts = torch.zeros(size * size, dtype=torch.long)
    for task in context.tasks_so_far:
        units = context.competing_units(task.id)
        for logits, y in context.predictions(task):
            predicted = logits.masked_fill(~units, -torch.inf).argmax(1)
            counts += (y * size + predicted).bincount(minlength=size * size).cpu()
    return counts.view(size, size)
