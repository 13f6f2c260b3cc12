"""The accuracies of all tasks: the one table that every run has, from which its accuracy matrix is made."""

from __future__ import annotations

from gr_cli.results.tables import AFTER_TASK, COUNT, FRACTION, ITERATION, Column, TableFormat, TableRow

ACCURACY = TableFormat(
    "evaluations",
    "Accuracy and loss of the solver on each task, learnt or not, among the units that compete when it is tested.",
    (
        AFTER_TASK,
        ITERATION,
        Column("task", "the task whose samples these are", key=True),
        Column("split", "test, or validation where some samples were held out", key=True),
        Column("accuracy", "samples whose class is found", FRACTION, "higher"),
        Column("loss", "mean cross-entropy; empty where a label is of no unit that competes", "nats", "lower"),
        COUNT,
    ),
)


def accuracy_row(
    after_task: int,
    iteration: int,
    task: int,
    split: str,
    accuracy: float,
    loss: float | None,
    n: int,
    task_finished: bool,
) -> TableRow:
    """One row of it. `final`: the training of `after_task` was over; it is no column."""
    moment: TableRow = {"after_task": after_task, "iteration": iteration, "task": task, "split": split}
    return moment | {"accuracy": accuracy, "loss": loss, "n": n, "task_finished": task_finished}
