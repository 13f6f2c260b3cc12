"""The accuracy table (evaluations.csv): one row per task and evaluation; the accuracy matrix is made from it."""

from __future__ import annotations

from pathlib import Path

from gr_cli.results.metrics import accuracy_so_far
from gr_cli.results.tables import AFTER_TASK, COUNT, FRACTION, ITERATION, Column, TableFormat, TableRow
from gr_cli.system.reading import read_table

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


def read_accuracy_so_far(folder: Path) -> list[float]:
    """Average accuracy on the tasks so far after each task, from evaluations.csv; on validation samples if any.

    Raises:
        OSError, ValueError, LookupError: The file can't be read.
    """
    cells: dict[str, dict[int, dict[int, float]]] = {}
    for row in read_table(folder / f"{ACCURACY.name}.csv"):
        # Later rows of the same task are those after its last iteration.
        by_task = cells.setdefault(row["split"], {}).setdefault(int(row["after_task"]), {})
        by_task[int(row["task"])] = float(row["accuracy"])
    rows = cells.get("validation") or cells.get("test", {})
    values = (accuracy_so_far([row.get(j) for j in range(max(row) + 1)], i) for i, row in rows.items() if i >= 0)
    return [value for value in values if value is not None]
