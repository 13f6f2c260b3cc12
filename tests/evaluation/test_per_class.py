"""Accuracy of each class and the confusion matrix, for given predictions."""

from pathlib import Path
from types import SimpleNamespace

import pandas as pd
import pytest
import torch

from gr_cli.evaluation.measures.per_class import ConfusionMatrix, PerClassAccuracy
from gr_cli.report.cli import main as report
from gr_cli.results.tables import prefixed_unit
from gr_cli.training.scoring import classify
from helpers.interruption import only_run
from helpers.pages import embedded
from helpers.tracked import SHORT


class StubContext:
    """A context with two tasks of two classes each, and given predictions."""

    after_task = 1

    def __init__(self, task_units, *tasks):
        self.task_units, self._tasks = torch.tensor(task_units), tasks
        self.experiment, self.tasks_so_far = self, [type("Task", (), {"id": i}) for i in range(len(tasks))]

        self.benchmark = SimpleNamespace(tasks=[None] * 3)

    def classified(self, task):
        predicted, y = self._tasks[task.id]
        logits = torch.nn.functional.one_hot(torch.tensor(predicted), self.task_units.shape[1]).double()
        return classify(logits, torch.tensor(y), self.task_units[task.id])


ALL = [[True] * 4] * 2


def test_counts_counted_by_hand():
    context = StubContext(ALL, ([0, 0, 2], [0, 0, 1]), ([2, 2, 0], [2, 2, 3]))
    accuracies = [(row["class"], row["n"], row["accuracy"]) for row in PerClassAccuracy().rows(context)]
    assert accuracies == [(0, 2, 1.0), (1, 1, 0.0), (2, 2, 1.0), (3, 1, 0.0)]
    pairs = [(row["true"], row["predicted"], row["n"]) for row in ConfusionMatrix().rows(context)]
    assert pairs == [(0, 0, 2), (1, 2, 1), (2, 2, 2), (3, 0, 1)]


def test_classes_without_samples_have_no_row():
    context = StubContext(ALL, ([0, 1], [0, 0]))
    assert [(row["class"], row["n"], row["accuracy"]) for row in PerClassAccuracy().rows(context)] == [(0, 2, 0.5)]


def test_only_competing_units_are_predicted():
    own = [[True, True, False, False], [False, False, True, True]]
    context = StubContext(own, ([3], [0]), ([2], [2]))  # unit 3 does not compete in the first task
    assert [(row["true"], row["predicted"]) for row in ConfusionMatrix().rows(context)] == [(0, 0), (2, 2)]


def test_confusion_of_many_classes_is_measured_after_the_last_task(monkeypatch):
    monkeypatch.setattr("gr_cli.evaluation.measures.per_class._MAX_UNITS_AFTER_EVERY_TASK", 3)
    context = StubContext(ALL, ([0, 1], [0, 0]))
    assert ConfusionMatrix().rows(context) == [] and PerClassAccuracy().rows(context)
    context.after_task = 2
    assert [row["predicted"] for row in ConfusionMatrix().rows(context)] == [0, 1]


@pytest.mark.parametrize("scenario", ["class", "task", "domain"])
def test_tables_of_a_run_and_its_report(gr_run, scenario):
    assert gr_run(*SHORT, "strategy=finetune", f"scenario={scenario}")[0] == 0
    per_class, confusion = (pd.read_csv(only_run() / f"{name}.csv") for name in ("per_class", "confusion"))
    units = 5 if scenario == "domain" else 10
    assert per_class.query("after_task == 1")["class"].tolist() == list(range(units))
    assert len(per_class.query("after_task == 0")) == 5
    evaluations = pd.read_csv(only_run() / "evaluations.csv").query("iteration == 4 and task <= after_task")
    for after, rows in evaluations.groupby("after_task"):
        counts = confusion.query(f"after_task == {after}")
        right = counts[counts["true"] == counts["predicted"]]["n"].sum()
        assert counts["n"].sum() == rows["n"].sum() == per_class.query(f"after_task == {after}")["n"].sum()
        assert right == round((rows["accuracy"] * rows["n"]).sum())
    if scenario == "task":  # no prediction is a class of another task
        assert ((confusion["true"] < 5) == (confusion["predicted"] < 5)).all()
    assert report(["outputs", "--html", "page.html"]) == 0
    (shown,) = embedded(Path("page.html").read_text(encoding="utf-8"))["configurations"]
    metrics = pd.read_csv(only_run() / "metrics.csv").set_index("metric")["value"]
    unit, size = prefixed_unit("FLOP", metrics["training_flops"])
    flops = shown["costs"][f"training flops ({unit})"]["statistics"][0]
    assert flops == pytest.approx(metrics["training_flops"] / size, rel=5e-4)
    counts = shown["counts"]["confusion"]
    last = confusion.query("after_task == 1").pivot_table(index="true", columns="predicted", values="n", fill_value=0)
    assert counts["mean"] == last.astype(int).to_numpy().tolist() and len(counts["rows"]) == units
    assert counts["columns"] == [str(name) for name in last.columns]
    for name, values in per_class.groupby("class"):
        curve = shown["curves"]["per_class"]["accuracy"][f"class {name}"]
        assert curve["mean"] == pytest.approx(100 * values["accuracy"], abs=0.00501)
