"""The objective of a search: which metrics a run will have is known before it is trained."""

from pathlib import Path

import pytest

from gr_cli.cli.compose import compose_settings
from gr_cli.errors import ConfigError
from gr_cli.evaluation.objective import check_objective, objective_direction
from gr_cli.results.folder import RunFolder
from gr_cli.results.metrics import VALIDATION_METRICS
from gr_cli.runner.run import run
from gr_cli.training.experiment import prepare
from gr_cli.training.observer import RunObserver
from helpers.situations import TINY

MANY = ("benchmark.classes_per_task=1", "benchmark.repetitions=2", "train.iterations=1", "log.every=1")  # 20 tasks


@pytest.mark.parametrize(
    "words",
    [
        (),
        ("strategy=joint",),
        ("scenario=domain",),
        ("scenario=task", "evaluate.tasks=seen"),
        ("benchmark.classes_per_task=10",),
        ("strategy=generative_replay", "evaluate.generated_samples=20"),
        ("strategy=generative_replay", "evaluate.generated_samples=0"),
        (*MANY, "evaluate.tasks=sampled", "benchmark.validation_share=0"),
        ("train.tasks=1",),
    ],
    ids=" ".join,
)
def test_the_metrics_that_a_run_will_have_are_known_before(words):
    settings = compose_settings([*TINY, "benchmark.validation_share=0.2", *words])
    result = run(settings, RunFolder(Path("there")), RunObserver())
    experiment = prepare(settings)
    for name in sorted({*result.metrics, *VALIDATION_METRICS, "sample_recall"}):
        experiment.settings.config["objective"] = name
        if result.value(name) is None:
            with pytest.raises(ConfigError, match=f"objective={name}: "):
                check_objective(experiment)
        else:
            check_objective(experiment)


def test_directions_of_metrics():
    directions = {"average_accuracy": "higher", "forgetting": "lower", "backward_transfer": "higher",
                  "validation_forgetting": "lower", "sample_frechet": "lower", "sample_recall": "higher",
                  "sample_class_share": "none", "parameters_solver": "lower"}  # fmt: skip
    assert {name: objective_direction(name) for name in directions} == directions
