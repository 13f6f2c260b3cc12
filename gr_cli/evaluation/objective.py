"""The objective of a search: checked before training, with the direction in which its values are better."""

from __future__ import annotations

from gr_cli.errors import ConfigError, suggestion
from gr_cli.evaluation.base import evaluation_classes
from gr_cli.evaluation.classification import tasks_to_evaluate
from gr_cli.results.metrics import VALIDATION, VALIDATION_METRICS, all_metrics, metric_directions
from gr_cli.results.tables import Direction
from gr_cli.training.experiment import Experiment

_NETWORKS = ("solver", "generator")


def objective_direction(objective: str) -> Direction:
    """Which values of a metric are better; `none` if that depends on the purpose.

    Raises:
        ConfigError: There is no such metric.
    """
    directions = metric_directions([evaluation.table() for evaluation in evaluation_classes()], _NETWORKS)
    if objective not in directions:
        hint = suggestion(objective, directions)
        there_are = "" if hint else f"; there are {', '.join(directions)}"
        raise ConfigError("objective", objective, f"no such metric{there_are}", hint)
    return directions[objective]


def uses_test_samples(objective: str) -> bool:
    """Whether a metric is measured on test samples."""
    return objective not in VALIDATION_METRICS and not objective.startswith("parameters_")


def check_objective(experiment: Experiment) -> None:
    """Check that a run will have a value of its objective.

    Raises:
        ConfigError: It will not, or there is no such metric.
    """
    objective = experiment.settings.config["objective"]
    objective_direction(objective)
    tasks = experiment.benchmark.tasks
    if objective in VALIDATION_METRICS and any(task.validation is None for task in tasks):
        remedy = "hold out training samples: benchmark.validation_share=0.2"
        raise ConfigError("objective", objective, "is measured on validation samples, and there are none", remedy)
    available = _available_metrics(experiment)
    if objective.removeprefix(VALIDATION) not in available:
        config, choices = experiment.settings.config, experiment.settings.choices
        settings = {
            "strategy": choices.get("strategy"),
            "scenario": config["scenario"],
            "evaluate.tasks": config["evaluate"]["tasks"],
            "evaluate.generated_samples": config["evaluate"]["generated_samples"],
        }
        given = " ".join(f"{name}={'null' if value is None else value}" for name, value in settings.items())
        of_tasks = f"{len(tasks)} {'task' if len(tasks) == 1 else 'tasks'}"
        remedy = f"change one of these, or choose one that has: {', '.join(available)}"
        raise ConfigError("objective", objective, f"has no value with {given} and {of_tasks}", remedy)


def _available_metrics(experiment: Experiment) -> list[str]:
    """Names of the metrics that a run will have, as far as its settings tell."""
    matrix, untrained = _evaluated_cells(experiment)
    metrics = [name for name, value in all_metrics(matrix, untrained).items() if value is not None]
    for evaluation in evaluation_classes():
        if evaluation.applies_to(experiment):
            metrics += evaluation.table().metric_columns
    return [*metrics, *(f"parameters_{network}" for network in experiment.parameters)]


def _evaluated_cells(experiment: Experiment) -> tuple[list[list[float | None]], list[float | None] | None]:
    """An accuracy matrix, and the row before any training, with 0 in the cells that will be measured."""
    settings, num_tasks = experiment.settings, len(experiment.benchmark.tasks)

    def row(after_task: int) -> list[float | None]:
        choice = settings.config["evaluate"]["tasks"]
        tasks = tasks_to_evaluate(choice, settings.seed, num_tasks, after_task, task_finished=True)
        return [0.0 if task in tasks else None for task in range(num_tasks)]

    matrix = [row(stage.task) for stage in experiment.stages]
    return matrix, row(-1) if experiment.learner.scenario.defined_on_unseen_tasks else None
