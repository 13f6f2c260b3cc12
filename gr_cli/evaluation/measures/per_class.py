"""Accuracy of each class, and the confusion matrix."""

from __future__ import annotations

from collections.abc import Sequence

from gr_cli.evaluation.base import Evaluation, EvaluationContext
from gr_cli.results.tables import AFTER_TASK, COUNT, FRACTION, Column, TableRow
from gr_cli.training.scoring import ClassifiedSamples

_CLASSES_ARE_UNITS = (
    "Classes are output units: the n-th class of the stream, or where tasks share their units, the n-th of each task."
)


# With more output units the confusion matrix, which may have as many rows as there are samples, is measured at the end.
_MAX_UNITS_AFTER_EVERY_TASK = 100


class PerClassAccuracy(Evaluation):
    """Accuracy on the test samples of each class so far."""

    name = "per_class"
    description = (
        f"Accuracy on each class so far, on the test samples of the evaluated tasks so far. {_CLASSES_ARE_UNITS}"
    )
    columns = (
        AFTER_TASK,
        Column("class", "true output unit", key=True),
        COUNT,
        Column("accuracy", "samples of the class with this prediction", FRACTION, "higher"),
    )

    def rows(self, context: EvaluationContext) -> Sequence[TableRow]:
        samples, size = _classified_so_far(context), context.experiment.task_units.shape[1]
        totals = samples.labels.bincount(minlength=size).tolist()
        right = samples.labels[samples.is_correct].bincount(minlength=size).tolist()
        return [
            {"after_task": context.after_task, "class": unit, "n": n, "accuracy": right[unit] / n}
            for unit, n in enumerate(totals)
            if n
        ]


class ConfusionMatrix(Evaluation):
    """Confusion matrix of the test samples of the evaluated tasks so far."""

    name = "confusion"
    description = (
        "Predictions for the test samples of each class of the evaluated tasks so far, after each task; with more than "
        f"{_MAX_UNITS_AFTER_EVERY_TASK} output units after the last task only. Pairs without samples have no row. "
        f"{_CLASSES_ARE_UNITS}"
    )
    columns = (
        AFTER_TASK,
        Column("true", "true output unit", key=True),
        Column("predicted", "predicted output unit", key=True),
        Column("n", "samples of class `true` that are predicted as class `predicted`", "samples"),
    )
    layout = "matrix"

    def rows(self, context: EvaluationContext) -> Sequence[TableRow]:
        size, last_task = context.experiment.task_units.shape[1], len(context.experiment.benchmark.tasks) - 1
        if size > _MAX_UNITS_AFTER_EVERY_TASK and context.after_task < last_task:
            return []
        samples = _classified_so_far(context)
        pairs, counts = (samples.labels * size + samples.predicted).unique(return_counts=True)
        return [
            {"after_task": context.after_task, "true": pair // size, "predicted": pair % size, "n": n}
            for pair, n in zip(pairs.tolist(), counts.tolist(), strict=True)
        ]


def _classified_so_far(context: EvaluationContext) -> ClassifiedSamples:
    """The classified test samples of all tasks so far that are evaluated."""
    return ClassifiedSamples.concatenate([context.classified(task) for task in context.tasks_so_far])
