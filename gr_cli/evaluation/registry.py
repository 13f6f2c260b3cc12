"""All evaluations: whatever the modules of `measures` define."""

from __future__ import annotations

from collections.abc import Iterable
from importlib import import_module
from inspect import getmembers, isabstract, isclass
from pkgutil import iter_modules

from gr_cli.evaluation import measures
from gr_cli.evaluation.base import Context, Evaluation
from gr_cli.training.experiment import Experiment


def evaluations() -> list[type[Evaluation]]:
    """The classes of all evaluations, by the names of their modules and their own."""
    found = []
    for module in sorted(info.name for info in iter_modules(measures.__path__, f"{measures.__name__}.")):
        defined = getmembers(import_module(module), isclass)
        own = [item for _, item in defined if issubclass(item, Evaluation) and item.__module__ == module]
        found += [item for item in own if not isabstract(item)]
    return found


def prepare(experiment: Experiment) -> list[Evaluation]:
    """The evaluations of a run that have something to measure in it."""
    prepared = (evaluation.prepare(experiment) for evaluation in evaluations())
    return [evaluation for evaluation in prepared if evaluation is not None]


def measure(evaluations: Iterable[Evaluation], context: Context) -> None:
    """Add to the record of a run what those that are due find."""
    for evaluation in evaluations:
        if context.moment in evaluation.moments:
            with context.learner.clock.measure("evaluation"):
                rows = evaluation.rows(context)
            context.experiment.record.add(evaluation.table, rows)
