"""The accuracy table (evaluations.csv): one row per task and evaluation; the accuracy matrix is made from it."""

from __future__ import annotations

from gr_cli.results.tables import AFTER_TASK, COUNT, FRACTION, ITERATION, Column, TableFormat, TableRow

ACCURACY = TableFormat(
    "evaluations",
    "Test accuracy and loss of the solver on each task, also on tasks that are not learned yet. Only the output units "
    "that compete under the scenario are compared.",
    (
        AFTER_TASK,
        ITERATION,
        Column("task", "the task whose samples are classified, from 0", key=True),
        Column("split", "test, or validation where samples were held out", key=True),
        Column("accuracy", "share of samples that are classified correctly", FRACTION, "higher"),
        Column("loss", "mean cross-entropy; empty if a label's unit does not compete", "nats", "lower", minimum=0.0),
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
    """One row of the accuracy table.

    Args:
        after_task: Task in training, from 0; -1 before any training.
        iteration: Iterations of `after_task` that are done.
        task: Task whose samples are classified, from 0.
        split: `test` or `validation`.
        accuracy: In [0, 1].
        loss: Mean cross-entropy in nats.
        n: Number of samples.
        task_finished: Whether the training of `after_task` is over. Kept with the row, but not written to the CSV file.
    """
    key: TableRow = {"after_task": after_task, "iteration": iteration, "task": task, "split": split}
    return key | {"accuracy": accuracy, "loss": loss, "n": n, "task_finished": task_finished}
