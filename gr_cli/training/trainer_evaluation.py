"""Evaluation of a `ContinualTrainer` on its validation loaders after each task."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import cast

from torch import Tensor

from gr_cli.errors import DataError, GrError, one_line
from gr_cli.nn.random_streams import StreamNames, seeded
from gr_cli.results.accuracy import ACCURACY, accuracy_row
from gr_cli.results.record import Record
from gr_cli.results.tables import TableRow
from gr_cli.system.devices import thread_limit
from gr_cli.system.messages import print_status
from gr_cli.training.learner import Learner
from gr_cli.training.loaders import BatchFormat, Loader


@dataclass(frozen=True)
class TrainerTask:
    """A task that a trainer was trained on.

    Attributes:
        task_id: The caller's id.
        name: Name for tables and messages.
        validation_loader: Its validation loader, if there is one.
        classes: bool (U,), the labels in its training batches so far.
    """

    task_id: int
    name: str
    validation_loader: Loader | None
    classes: Tensor


class ValidationEvaluator:
    """Evaluates a learner on the validation loaders of all tasks so far. Loaders that fail leave the task trained."""

    def __init__(self, seed: int) -> None:
        self._seed = seed
        self._failed_tasks: set[int] = set()  # tasks whose loader failed when it was last used

    def evaluate(
        self, learner: Learner, tasks: Sequence[TrainerTask], batch_format: BatchFormat, record: Record, threads: int
    ) -> tuple[dict[int, float], dict[int, Exception]]:
        """Evaluate and add rows to `record`.

        Returns:
            Accuracies by task id, and the errors of loaders that failed, by index of the task.
        """
        accuracies: dict[int, float] = {}
        errors: dict[int, Exception] = {}
        for index, task in enumerate(tasks):
            if task.validation_loader is not None:
                try:
                    with thread_limit(threads):
                        row = self._evaluate_task(learner, tasks, index, task.validation_loader, batch_format)
                except Exception as error:
                    errors[index] = error
                else:
                    record.add_rows(ACCURACY, [row])
                    accuracies[task.task_id] = cast(float, row["accuracy"])
        return accuracies, errors

    def _evaluate_task(
        self, learner: Learner, tasks: Sequence[TrainerTask], task: int, loader: Loader, batch_format: BatchFormat
    ) -> TableRow:
        last, name = len(tasks) - 1, f"val_loader of task {tasks[task].task_id}"
        units, labels = (
            learner.strategy.testing_units(learner.scenario, learner.task_units, task, last),
            tasks[task].classes.clone(),
        )
        # The loader may draw from torch's global stream, which is restored afterwards.
        with seeded(self._seed, StreamNames.TRAINER_EVALUATION, last, task):
            score = learner.evaluate((batch_format.read(batch, name, labels) for batch in loader), units, task=task)
        if score.num_samples == 0:
            raise DataError(f"{name}: has no batch")
        unknown = (labels & ~tasks[task].classes).nonzero().squeeze(1).tolist()
        if unknown and task == last:
            print_status(f"{name}: labels {unknown[:9]} are in no training batch of this task")
        return accuracy_row(last, 0, task, "test", score.accuracy, score.loss, score.num_samples, task_finished=True)

    def report_errors(self, tasks: Sequence[TrainerTask], errors: Mapping[int, Exception]) -> None:
        """Raise the first error of a loader that worked before, and print the others."""
        new = next((task for task in errors if task not in self._failed_tasks), None)
        self._failed_tasks = set(errors)
        outcome = f"task {tasks[-1].task_id} is trained, and recorded without this accuracy"
        for task, error in errors.items():
            if task != new:
                source = "" if isinstance(error, GrError) else f"val_loader of task {tasks[task].task_id}: "
                print_status(f"{source}{one_line(error)}; {outcome}")
        if new is None:
            return
        if isinstance(errors[new], GrError):
            raise DataError(f"{errors[new]}; {outcome}") from errors[new]
        errors[new].add_note(f"val_loader of task {tasks[new].task_id}: {outcome}")
        raise errors[new]
