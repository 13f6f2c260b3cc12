"""Expected calibration error and negative log-likelihood, against values counted by hand."""

import math

import pandas as pd
import pytest
import torch

from gr_cli.evaluation.measures.calibration import Calibration, expected_calibration_error
from gr_cli.training.scoring import classify
from helpers.interruption import only_run
from helpers.tracked import SHORT


class StubContext:
    """A context of tasks with given logits."""

    after_task = 1

    def __init__(self, units, *tasks):
        self.tasks_so_far = [type("Task", (), {"id": i}) for i in range(len(tasks))]
        self._units, self._tasks = torch.tensor(units), tasks

    covers_tasks_so_far = True

    def classified(self, task):
        logits, y = self._tasks[task.id]
        return classify(torch.tensor(logits), torch.tensor(y), self._units)


def of(*probabilities):
    return [[math.log(p), math.log(1 - p)] for p in probabilities]


def test_calibration_error_counted_by_hand():
    # Confidences 0.9 (right), 0.9 (wrong), 0.7 (right), 0.6 (wrong): bins of 15 hold {0.9, 0.9}, {0.7} and {0.6}.
    p = torch.tensor([0.9, 0.9, 0.7, 0.6], dtype=torch.float64)
    correct = torch.tensor([True, False, True, False])
    expected = (2 * abs(0.5 - 0.9) + abs(1 - 0.7) + abs(0 - 0.6)) / 4
    assert expected_calibration_error(p, correct) == pytest.approx(expected, abs=1e-12)
    # In one bin positive and negative gaps cancel: mean accuracy 0.5, mean confidence 0.775.
    assert expected_calibration_error(p, correct, num_bins=1) == pytest.approx(0.275, abs=1e-12)


def test_confident_and_correct_solver_has_no_error():
    certain = torch.ones(3, dtype=torch.float64)
    assert expected_calibration_error(certain, torch.ones(3, dtype=torch.bool)) == 0
    assert expected_calibration_error(certain, torch.zeros(3, dtype=torch.bool)) == 1


def test_confidence_on_a_bin_edge_belongs_to_the_lower_bin():
    p = torch.tensor([0.5, 0.75], dtype=torch.float64)
    # Two bins: 0.5 lies in (0, 0.5] and is right, 0.75 in (0.5, 1] and is wrong: (0.5 + 0.75) / 2; one bin: 0.125.
    assert expected_calibration_error(p, torch.tensor([True, False]), num_bins=2) == pytest.approx(0.625)


def test_nan_has_no_calibration_error():
    assert expected_calibration_error(torch.full((2,), math.nan), torch.ones(2, dtype=torch.bool)) is None


def test_rows_per_task_and_pooled():
    one, two = (of(0.9, 0.6), [0, 0]), (of(0.2), [0])
    first, second, both = Calibration().rows(StubContext([True, True], one, two))
    assert first["nll"] == pytest.approx(-(math.log(0.9) + math.log(0.6)) / 2, rel=1e-6)
    assert second["nll"] == pytest.approx(-math.log(0.2), rel=1e-6)
    assert both["nll"] == pytest.approx((2 * first["nll"] + second["nll"]) / 3)
    assert first["ece"] == pytest.approx((0.1 + 0.4) / 2, abs=1e-6)
    assert second["ece"] == pytest.approx(0.8, abs=1e-6)
    assert [(row["task"], row["n"]) for row in (first, second, both)] == [(0, 2), (1, 1), ("all", 3)]
    # Without competitors the remaining unit has probability 1, and a label of another unit has no NLL.
    certain, *_ = Calibration().rows(StubContext([True, False], one))
    assert (certain["ece"], certain["nll"]) == (0, 0)
    assert Calibration().rows(StubContext([True, False], (of(0.9), [1])))[0]["nll"] is None


def test_negative_log_likelihood_of_a_run_is_its_loss(gr_run):
    """Equal to the loss of the tasks so far in evaluations.csv."""
    assert gr_run(*SHORT, "strategy=finetune")[0] == 0
    table = pd.read_csv(only_run() / "calibration.csv", dtype={"task": str})
    assert list(table) == ["after_task", "task", "n", "ece", "nll"]
    assert table["task"].tolist() == ["0", "all", "0", "1", "all"] and table["ece"].between(0, 1).all()
    loss = pd.read_csv(only_run() / "evaluations.csv").query("iteration > 0 and task <= after_task")
    loss = loss[loss["iteration"] == 4]["loss"].tolist()
    assert table[table["task"] != "all"]["nll"].tolist() == pytest.approx(loss, abs=2e-6)
