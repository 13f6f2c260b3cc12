"""Accuracy of a solver on the test samples of each task."""

from __future__ import annotations

from gr_cli.results.record import EvaluationRow
from gr_cli.training.experiment import Experiment
from gr_cli.training.learner import Learner


def evaluate(
    experiment: Experiment, learner: Learner, replica: int, after_task: int, iteration: int, final: bool
) -> None:
    """Evaluate a run's solver, a replica of `learner`, on all tasks and note it down; `after_task` -1 is before any
    training."""
    most = experiment.settings.config["evaluate"]["samples"]
    for task in experiment.benchmark.tasks:
        units = learner.scenario.testing_units(experiment.heads, task.id, after_task)
        for split, samples in task.splits().items():
            found = learner.evaluate(samples.thinned(most).batches(), units, replica)
            experiment.record.evaluations.append(
                EvaluationRow(after_task, iteration, task.id, split, found.accuracy, found.loss, found.n, final)
            )
