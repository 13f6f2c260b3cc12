"""Scores of the generative classifier that are kept between evaluations."""

import os
import signal

import pytest
import torch

from gr_cli.cli.compose import compose_settings
from gr_cli.evaluation.base import EvaluationContext
from gr_cli.generators import GaussianMixture
from gr_cli.strategies import score_cache
from gr_cli.strategies.score_cache import ScoreCache
from gr_cli.training.experiment import prepare
from gr_cli.training.observer import RunObserver
from helpers.interruption import csvs, only_run
from helpers.shipped_methods import train

STREAM = ("strategy=generative_classifier", "generator=mixture", "generator.num_components=2", "threads=1")
STREAM += ("generator.latent_dim=8", "train.iterations=1", "evaluate.generated_samples=0")


def matrix_with_losses(experiment, learner, after_task):
    context = EvaluationContext(experiment, learner, 0, after_task, 1, True)
    return [context.classified(task).nll.tolist() for task in experiment.benchmark.tasks[: after_task + 1]]


@pytest.fixture
def scored(monkeypatch):
    """The classes that are scored in each call."""
    calls, plain = [], GaussianMixture.class_log_likelihoods

    def class_log_likelihoods(self, x, classes):
        calls.append(tuple(classes.tolist()))
        return plain(self, x, classes)

    monkeypatch.setattr(GaussianMixture, "class_log_likelihoods", class_log_likelihoods)
    return calls


def test_scores_under_a_class_are_computed_once(scored):
    experiment = prepare(compose_settings([*STREAM]))
    learner, kept = experiment.learner, []
    for task in range(3):
        train([experiment], learner, task)
        kept.append(matrix_with_losses(experiment, learner, task))
    # Of each task's test samples under each task's classes, once.
    assert sorted(scored) == sorted(3 * [(0, 1), (2, 3), (4, 5)])
    # As many numbers, to the last bit, as without any that are kept: a resumed run has none.
    learner.strategy._scores = ScoreCache()
    assert matrix_with_losses(experiment, learner, 2) == kept[2]


def test_scores_beyond_the_memory_limit_are_computed_each_time(scored, monkeypatch):
    monkeypatch.setattr(score_cache, "_MAX_BYTES", 10)
    experiment = prepare(compose_settings([*STREAM]))
    train([experiment], experiment.learner, 0)
    first, second = (matrix_with_losses(experiment, experiment.learner, 0) for _ in range(2))
    assert first == second and scored == [(0, 1), (0, 1)]


def test_kept_scores_are_those_of_a_single_call():
    experiment = prepare(compose_settings([*STREAM, "precision=float64"]))
    learner = experiment.learner
    for task in range(2):
        train([experiment], learner, task)
    x = experiment.benchmark.tasks[0].test.batch(torch.arange(20))[0].double()
    with learner.classifier() as scores:
        torch.testing.assert_close(scores(x, "name", 0), scores(x, None, 0), rtol=1e-10, atol=1e-10)


class StopAfter(RunObserver):
    """Requests a stop, as Ctrl-C does, after the second task: there are no steps in between."""

    def stage_finished(self, stage_index, accuracies):
        if stage_index == 1:
            os.kill(os.getpid(), signal.SIGINT)


def test_a_resumed_run_has_the_same_tables(gr_run, monkeypatch, tmp_path):
    assert gr_run(*STREAM)[0] == 0
    undisturbed = csvs(only_run())
    (tmp_path / "resumed").mkdir()
    monkeypatch.chdir(tmp_path / "resumed")
    with monkeypatch.context() as patch:
        patch.setattr("gr_cli.terminal.run_display.TerminalObserver", lambda **_: StopAfter())
        assert gr_run(*STREAM)[0] == 130
    assert gr_run(f"resume={only_run()}")[0] == 0
    assert csvs(only_run()) == undisturbed
