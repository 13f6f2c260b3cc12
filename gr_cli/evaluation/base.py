"""What can be measured of a run after each task, and what a measurement may look at."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from importlib import import_module
from inspect import getmembers, isabstract, isclass
from pkgutil import iter_modules
from typing import ClassVar, Literal, Self

from torch import Tensor

from gr_cli.benchmarks.base import Task
from gr_cli.evaluation import measures
from gr_cli.results.tables import Column, TableFormat, TableLayout, TableRow
from gr_cli.training.experiment import Experiment
from gr_cli.training.learner import Learner
from gr_cli.training.scoring import Predictions

EvaluationPhase = Literal["before", "within", "after"]


@dataclass(frozen=True)
class EvaluationContext:
    """What an evaluation may look at.

    experiment: the run: its settings, benchmark, and what it has found so far.
    learner: solvers and generators as they stand, of all runs that are trained together.
    replica: which of them is this run's.
    after_task: the task that was trained last, or is trained; -1: before any training.
    iteration: iterations of that task so far.
    final: whether its training is over.
    """

    experiment: Experiment
    learner: Learner
    replica: int
    after_task: int
    iteration: int
    task_finished: bool
    _predictions: dict[tuple[int, str], Predictions] = field(default_factory=dict, repr=False)

    @property
    def phase(self) -> EvaluationPhase:
        """Before any training, within a task, or after one."""
        return "before" if self.after_task < 0 else "after" if self.task_finished else "within"

    @property
    def tasks_so_far(self) -> Sequence[Task]:
        """The tasks that were learnt, or are."""
        return self.experiment.benchmark.tasks[: self.after_task + 1]

    def competing_units(self, task: int) -> Tensor:
        """The output units that compete on a test sample of `task`: bool (U,)."""
        return self.learner.scenario.testing_units(self.experiment.task_units, task, self.after_task)

    def predictions(self, task: Task, split: str = "test") -> Predictions:
        """The solver's logits for at most `evaluate.samples` samples of a task, with their labels (output units).

        Computed once, however many evaluations ask.
        """
        key = (task.id, split)
        if key not in self._predictions:
            samples = task.evaluation_splits()[split].subsample(self.experiment.settings.config["evaluate"]["samples"])
            self._predictions[key] = self.learner.predict(samples.batches(), self.replica)
        return self._predictions[key]


class Evaluation(ABC):
    """Something that is measured after each task, and becomes a table of the run's folder.

    A module of `gr_cli/evaluation/measures/` that defines a subclass is all that it takes:

        class Confidence(Evaluation):
            name = "confidence"  # confidence.csv
            description = "How sure the solver is of its answers."
            columns = (AFTER_TASK, TASK, Column("confidence", "mean highest probability", FRACTION))

            def rows(self, context):
                found = []
                for task in context.tasks_so_far:
                    logits = torch.cat([x for x, _ in context.predictions(task)])[:, context.competing_units(task.id)]
                    mean = logits.softmax(1).amax(1).mean().item()
                    found.append({"after_task": context.after_task, "task": task.id, "confidence": mean})
                return found

    Tables, checkpoints, trackers, terminal and report read it by its columns.

    name: of the table's file.
    about: a sentence or two for readers of its numbers.
    columns: those that say what a row is about have `key`; one with `metric` puts its last value into metrics.csv.
    layout: how a report shows it, see `TableFormat`.
    moments: when it is asked: `before` any training, `within` a task every `evaluate.every` iterations, `after` each.
    """

    name: ClassVar[str]
    description: ClassVar[str]
    columns: ClassVar[tuple[Column, ...]]
    layout: ClassVar[TableLayout] = "lines"
    phases: ClassVar[frozenset[EvaluationPhase]] = frozenset({"after"})

    @classmethod
    def prepare(cls, experiment: Experiment) -> Self | None:
        """The evaluation of a run, made once, with all that it needs; None if there is nothing to measure in it."""
        return cls()

    @abstractmethod
    def rows(self, context: EvaluationContext) -> Sequence[TableRow]:
        """The rows of this moment, a value for each column. It must not change random state or training mode."""

    @property
    def table(self) -> TableFormat:
        """What its table is."""
        return TableFormat(self.name, self.description, self.columns, self.layout)


# --- all that there are: whatever the modules of `measures` define


def evaluation_classes() -> list[type[Evaluation]]:
    """The classes of all evaluations, by the names of their modules and their own."""
    found = []
    for module in sorted(info.name for info in iter_modules(measures.__path__, f"{measures.__name__}.")):
        defined = getmembers(import_module(module), isclass)
        own = [item for _, item in defined if issubclass(item, Evaluation) and item.__module__ == module]
        found += [item for item in own if not isabstract(item)]
    return found


def prepare_evaluations(experiment: Experiment) -> list[Evaluation]:
    """The evaluations of a run that have something to measure in it."""
    prepared = (evaluation.prepare(experiment) for evaluation in evaluation_classes())
    return [evaluation for evaluation in prepared if evaluation is not None]


def run_evaluations(evaluations: Iterable[Evaluation], context: EvaluationContext) -> None:
    """Add to the record of a run what those that are due find."""
    for evaluation in evaluations:
        if context.phase in evaluation.phases:
            with context.learner.clock.measure("evaluation"):
                rows = evaluation.rows(context)
            context.experiment.record.add_rows(evaluation.table, rows)
