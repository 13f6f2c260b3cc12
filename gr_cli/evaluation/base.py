"""The interface of evaluations, and what they have access to."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from importlib import import_module
from inspect import getmembers, isabstract, isclass
from pkgutil import iter_modules
from typing import ClassVar, Literal, Self

import torch
from torch import Tensor

from gr_cli.benchmarks.base import Samples, Task
from gr_cli.evaluation import measures
from gr_cli.evaluation.classification import SampleSet, classify_sets, tasks_to_evaluate
from gr_cli.evaluation.evaluated_samples import EvaluatedSamples, SetKey
from gr_cli.results.tables import Column, TableFormat, TableLayout, TableRow
from gr_cli.training.experiment import Experiment
from gr_cli.training.learner import Learner
from gr_cli.training.scoring import ClassifiedSamples, Predictions, Score, scores

EvaluationPhase = Literal["before", "within", "after"]


@dataclass(frozen=True)
class EvaluationContext:
    """State of a run at an evaluation.

    Attributes:
        experiment: Settings, benchmark and record of the run.
        learner: Solvers and generators of all runs of the group.
        replica: Index of this run within the group.
        after_task: Task that was trained last or is being trained; -1 before training.
        iteration: Iterations of that task so far.
        task_finished: Whether the training of that task is over.
    """

    experiment: Experiment
    learner: Learner
    replica: int
    after_task: int
    iteration: int
    task_finished: bool
    _predictions: dict[SetKey, Predictions] = field(default_factory=dict, repr=False)
    _classified: dict[SetKey, ClassifiedSamples] = field(default_factory=dict, repr=False)
    _scores: dict[SetKey, Score] = field(default_factory=dict, repr=False)
    _units: dict[int | None, Tensor] = field(default_factory=dict, repr=False)

    @property
    def phase(self) -> EvaluationPhase:
        """Before training, within a task, or after a task."""
        return "before" if self.after_task < 0 else "after" if self.task_finished else "within"

    @cached_property
    def evaluated_tasks(self) -> Sequence[Task]:
        """The tasks to evaluate, by `evaluate.tasks`, in the order of training."""
        settings, tasks = self.experiment.settings, self.experiment.benchmark.tasks
        choice = settings.config["evaluate"]["tasks"]
        chosen = tasks_to_evaluate(choice, settings.seed, len(tasks), self.after_task, self.task_finished)
        return [tasks[task] for task in chosen]

    @property
    def tasks_so_far(self) -> Sequence[Task]:
        """The tasks to evaluate that were trained, including the current one."""
        return [task for task in self.evaluated_tasks if task.id <= self.after_task]

    @property
    def covers_tasks_so_far(self) -> bool:
        """Whether all tasks that were trained are evaluated."""
        return len(self.tasks_so_far) == self.after_task + 1

    def competing_units(self, task: int) -> Tensor:
        """Output units that compete on test samples of `task`, bool (U,)."""
        task_is_given = self.learner.scenario.task_id_available or self.learner.strategy.needs_task_identity
        key = task if task_is_given else None  # without task labels the same for all tasks
        if key not in self._units:
            strategy, scenario = self.learner.strategy, self.learner.scenario
            self._units[key] = strategy.testing_units(scenario, self.experiment.task_units, task, self.after_task)
        return self._units[key]

    def samples(self, task: Task, split: str = "test") -> Samples:
        """At most `evaluate.samples` samples of a task, at equal intervals."""
        return task.evaluation_splits()[split].subsample(self.experiment.settings.config["evaluate"]["samples"])

    def predictions(self, task: Task, split: str = "test") -> Predictions:
        """Logits and labels (output units) of the samples of a task, in batches.

        Cached: computed once for all evaluations. Where a few numbers per sample suffice, `classified` is faster and
        takes less memory.
        """
        key = (task.id, split)
        if key not in self._predictions:
            self._predictions[key] = self.learner.predict(self.samples(task, split).batches(), self.replica, task.id)
        return self._predictions[key]

    def classified(self, task: Task, split: str = "test") -> ClassifiedSamples:
        """What the solver predicts for the samples of an evaluated task.

        Cached: the first call classifies all evaluated tasks, in batches that span tasks.
        """
        if (task.id, split) not in self._classified:
            keys = [key for key, can in self._can_be_correct.items() if can]
            sets = [SampleSet(key, self._samples.get(*key), self.competing_units(key[0]), key[0]) for key in keys]
            self._classified.update(zip(keys, classify_sets(self.learner, self.replica, sets), strict=True))
        return self._classified[task.id, split]

    def score(self, task: Task, split: str = "test") -> Score:
        """Accuracy and loss on the samples of an evaluated task; computed for all of them at the first call."""
        key = task.id, split
        if not self._can_be_correct[key]:
            return Score(0.0, None, len(self._samples.get(*key)))
        if key not in self._scores:
            self.classified(task, split)
            self._scores.update(zip(self._classified, scores(list(self._classified.values())), strict=True))
        return self._scores[key]

    @cached_property
    def _samples(self) -> EvaluatedSamples:
        return EvaluatedSamples.of(self.experiment)

    @cached_property
    def _can_be_correct(self) -> dict[SetKey, bool]:
        """Whether labels of each set to evaluate are among the units that compete; others need no forward pass."""
        keys = [(task.id, name) for task in self.evaluated_tasks for name in task.evaluation_splits()]
        if not keys:
            return {}
        labels = torch.stack([self._samples.label_units[key] for key in keys])
        competes = (labels & torch.stack([self.competing_units(task) for task, _ in keys])).any(1)
        # A set without samples has no accuracy to be 0.
        return dict(zip(keys, (competes | ~labels.any(1)).tolist(), strict=True))


class Evaluation(ABC):
    """A measurement after each task whose rows form a table in the run's folder.

    A module in `gr_cli/evaluation/measures/` that defines a subclass is all that is needed:

        >>> import torch
        >>> from gr_cli.results.tables import AFTER_TASK, FRACTION, TASK
        >>> class Confidence(Evaluation):
        ...     name = "confidence"  # confidence.csv
        ...     description = "Mean probability of the predicted class."
        ...     columns = (AFTER_TASK, TASK, Column("confidence", "mean of the highest probability", FRACTION))
        ...
        ...     def rows(self, context):
        ...         rows = []
        ...         for task in context.tasks_so_far:
        ...             units = context.competing_units(task.id)
        ...             logits = torch.cat([logits[:, units] for logits, _ in context.predictions(task)])
        ...             confidence = logits.softmax(1).amax(1).mean().item()
        ...             rows.append({"after_task": context.after_task, "task": task.id, "confidence": confidence})
        ...         return rows
        >>> from types import SimpleNamespace as Stub
        >>> context = Stub(tasks_so_far=[Stub(id=0)], after_task=0)
        >>> context.competing_units = lambda task: torch.tensor([True, True, False])
        >>> context.predictions = lambda task: [(torch.tensor([[1.0, 1.0, 9.0]]), torch.tensor([0]))]
        >>> Confidence().rows(context)
        [{'after_task': 0, 'task': 0, 'confidence': 0.5}]

    Tables, checkpoints, trackers, terminal and report read an evaluation by its columns.

    Attributes:
        name: Name of the table's file, without `.csv`.
        description: One or two sentences for readers of the numbers.
        columns: Columns with `key` identify a row; the last value of one with `metric` goes into metrics.csv.
        layout: How a report shows the table, see `TableFormat`.
        phases: When it runs: `before` training, `within` a task every `evaluate.every` iterations, `after` each task.
    """

    name: ClassVar[str]
    description: ClassVar[str]
    columns: ClassVar[tuple[Column, ...]]
    layout: ClassVar[TableLayout] = "lines"
    phases: ClassVar[frozenset[EvaluationPhase]] = frozenset({"after"})

    @classmethod
    def applies_to(cls, experiment: Experiment) -> bool:
        """Whether a run has what is measured. Cheap: `prepare` may compute what the measurement needs."""
        return True

    @classmethod
    def prepare(cls, experiment: Experiment) -> Self | None:
        """Create the evaluation once for a run; None if it does not apply to the run."""
        return cls() if cls.applies_to(experiment) else None

    @abstractmethod
    def rows(self, context: EvaluationContext) -> Sequence[TableRow]:
        """One row per measurement, with a value for each column.

        Must not change random state or training mode.
        """

    @classmethod
    def table(cls) -> TableFormat:
        """Format of the table."""
        return TableFormat(cls.name, cls.description, cls.columns, cls.layout)

    def table_of_run(self) -> TableFormat:
        """Format of the table of the run that the evaluation was prepared for; by default that of every run."""
        return self.table()


# --- discovery and execution


def evaluation_classes() -> list[type[Evaluation]]:
    """All evaluation classes in the modules of `gr_cli.evaluation.measures`, sorted by module and name."""
    classes = []
    for module in sorted(info.name for info in iter_modules(measures.__path__, f"{measures.__name__}.")):
        members = getmembers(import_module(module), isclass)
        definitions = [item for _, item in members if issubclass(item, Evaluation) and item.__module__ == module]
        classes += [item for item in definitions if not isabstract(item)]
    return classes


def prepare_evaluations(experiment: Experiment) -> list[Evaluation]:
    """The evaluations that apply to a run."""
    prepared = (evaluation.prepare(experiment) for evaluation in evaluation_classes())
    return [evaluation for evaluation in prepared if evaluation is not None]


def run_evaluations(evaluations: Iterable[Evaluation], context: EvaluationContext) -> None:
    """Run the evaluations of the context's phase and add their rows to the run's record."""
    for evaluation in evaluations:
        if context.phase in evaluation.phases:
            with context.learner.clock.measure("evaluation"):
                rows = evaluation.rows(context)
            context.experiment.record.add_rows(evaluation.table_of_run(), rows)
