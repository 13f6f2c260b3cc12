"""The validation loaders of a `ContinualTrainer`: accuracies after each task, and loaders that fail."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import cast

from torch import Tensor

from gr_cli.errors import DataError, GrError, one_line
from gr_cli.nn.random_streams import seeded
from gr_cli.results.accuracy import ACCURACY, accuracy_row
from gr_cli.results.record import Record
from gr_cli.results.tables import Row
from gr_cli.system.devices import thread_limit
from gr_cli.system.messages import tell
from gr_cli.training.learner import Learner
from gr_cli.training.loaders import BatchFormat, Loader


@dataclass(frozen=True)
class TrainerTask:
    """A task that a trainer was given.

    number: its id.
    name: for people.
    loader: its validation loader, if it has one.
    classes: bool (U,), the labels that its training batches had so far.
    """

    number: int
    name: str
    loader: Loader | None
    classes: Tensor


class Validation:
    """Evaluates a learner on the validation loaders of all tasks so far. A loader that fails does not undo a task."""

    def __init__(self, seed: int) -> None:
        self._seed = seed
        self._failed: set[int] = set()  # tasks whose loader failed when it was last used

    def evaluate(
        self, learner: Learner, tasks: Sequence[TrainerTask], form: BatchFormat, record: Record, threads: int
    ) -> tuple[dict[int, float], dict[int, Exception]]:
        """Accuracies by task id, added to `record`; and errors, by task, of loaders that failed."""
        accuracies: dict[int, float] = {}
        errors: dict[int, Exception] = {}
        for task, each in enumerate(tasks):
            if each.loader is not None:
                try:
                    with thread_limit(threads):
                        row = self._row(learner, tasks, task, each.loader, form)
                except Exception as error:
                    errors[task] = error
                else:
                    record.add(ACCURACY, [row])
                    accuracies[each.number] = cast(float, row["accuracy"])
        return accuracies, errors

    def _row(self, learner: Learner, tasks: Sequence[TrainerTask], task: int, loader: Loader, form: BatchFormat) -> Row:
        learnt, name = len(tasks) - 1, f"val_loader of task {tasks[task].number}"
        units, seen = learner.scenario.testing_units(learner.heads, task, learnt), tasks[task].classes.clone()
        # The loader may draw from torch's global stream, which shall not move for it.
        with seeded(self._seed, "evaluation", learnt, task):
            result = learner.evaluate((form.read(pair, name, seen) for pair in loader), units)
        if result.n == 0:
            raise DataError(f"{name}: has no batch")
        unknown = (seen & ~tasks[task].classes).nonzero().squeeze(1).tolist()
        if unknown and task == learnt:
            tell(f"{name}: labels {unknown[:9]} came in no training batch of this task")
        return accuracy_row(learnt, 0, task, "test", result.accuracy, result.loss, result.n, final=True)

    def report(self, tasks: Sequence[TrainerTask], errors: Mapping[int, Exception]) -> None:
        """Raise the first error of a loader that did not fail before, and print the others."""
        new = next((task for task in errors if task not in self._failed), None)
        self._failed = set(errors)
        outcome = f"task {tasks[-1].number} is trained, and recorded without this accuracy"
        for task, error in errors.items():
            if task != new:
                source = "" if isinstance(error, GrError) else f"val_loader of task {tasks[task].number}: "
                tell(f"{source}{one_line(error)}; {outcome}")
        if new is None:
            return
        if isinstance(errors[new], GrError):
            raise DataError(f"{errors[new]}; {outcome}") from errors[new]
        errors[new].add_note(f"val_loader of task {tasks[new].number}: {outcome}")
        raise errors[new]
