"""Separate networks: each task's network is the one that is trained on this task alone."""

import copy
from pathlib import Path

import pandas as pd
import pytest
import torch

from gr_cli.cli.compose import compose_settings
from gr_cli.errors import Interrupted
from gr_cli.results.folder import RunFolder
from gr_cli.runner import run as runner
from gr_cli.strategies import Finetune, SeparateNetworks
from gr_cli.training.observer import RunObserver
from helpers.interruption import StopAt, csvs
from helpers.small_runs import TASKS, assert_same, data, learner_of, saved, train

SMALL = ("train.iterations=8", "model.hidden_sizes=[8]", "benchmark.classes_per_task=[4,3,3]", "threads=1")


@pytest.mark.parametrize("scenario", ["class", "domain", "task"])
def test_each_network_is_trained_on_its_task_alone(scenario):
    learner = learner_of(SeparateNetworks(), scenario)
    for task in range(TASKS):
        train(learner, task)
    for task in range(TASKS):
        # With the task given, only its own units compete, as in the task-incremental scenario.
        alone = learner_of(Finetune(), "domain" if scenario == "domain" else "task")
        train(alone, task)
        assert_same(learner.strategy.networks[task].state_dict(), alone.solvers.state_dict())
        x, y = data(learner, task, 0)
        units = learner.task_units[task]
        expected = alone.solver(x).masked_fill(~units, -torch.inf).argmax(1)
        score = learner.evaluate([(x, y)], units, task=task)
        assert score.accuracy == (expected == y).double().mean().item()
        assert torch.equal(learner.strategy.testing_units(learner.scenario, learner.task_units, task, 2), units)


def test_later_tasks_are_classified_by_an_untrained_network():
    learner = learner_of(SeparateNetworks(), "task")
    untrained = copy.deepcopy(learner.solver)
    x, _ = data(learner, 2, 0)
    for task in range(2):
        with learner.classifier() as logits:
            torch.testing.assert_close(logits(x, None, 2), untrained(x), rtol=0, atol=0)
        train(learner, task)


def test_replicas_are_those_of_runs_alone():
    group = learner_of(SeparateNetworks(), "class", (0, 1))
    for task in range(TASKS):
        train(group, task)
    for seed in range(2):
        alone = learner_of(SeparateNetworks(), "class", (seed,))
        for task in range(TASKS):
            train(alone, task)
        assert_same(saved(group)[seed], saved(alone)[0], rtol=1e-9, atol=1e-12)
        x, y = data(group, 1, seed)
        units = group.task_units[1]
        scores = [learner.evaluate([(x, y)], units, replica, 1) for learner, replica in ((group, seed), (alone, 0))]
        assert scores[0].accuracy == scores[1].accuracy


def test_resumed_run_is_bit_identical():
    def run(folder, observer=None):
        settings = compose_settings([*SMALL, "strategy=separate", "evaluate.every=3"])
        runner.run(settings, RunFolder(folder), observer or RunObserver())
        return csvs(folder)

    with pytest.raises(Interrupted):
        run(Path("broken"), StopAt(1, 4))
    assert run(Path("broken")) == run(Path("whole"))
    matrix = pd.read_csv("whole/accuracy_matrix.csv").drop(columns="after_task").to_numpy()
    assert all((matrix[task:, task] == matrix[task, task]).all() for task in range(3))
    assert all((matrix[:task, task] == matrix[0, task]).all() for task in range(1, 3))


def test_separate_networks_are_refused_without_boundaries(gr_run):
    code, _, err = gr_run("strategy=separate", "train.task_boundaries=unknown")
    assert code == 2
    assert "separate trains a network of its own for each task" in err
