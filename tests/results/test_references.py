"""Random chance, and metrics against reference runs, by hand."""

import json
from pathlib import Path

import pandas as pd
import pytest

from gr_cli.cli.main import main
from gr_cli.report.chance import chance_rows
from gr_cli.report.cli import main as report
from gr_cli.report.groups import group_runs
from gr_cli.report.selection import select_runs
from gr_cli.report.tables import DEFAULT_METRICS, report_table
from gr_cli.results.discovery import discover_runs
from gr_cli.results.metrics import forward_transfer, forward_transfer_to_separate, intransigence, metric_directions
from helpers.run_folders import write_run

R = [[0.9, 0.3, 0.2], [0.6, 0.8, 0.4], [0.5, 0.7, 1.0]]
S = [[0.9, 0.5, 0.5], [0.9, 0.7, 0.5], [0.9, 0.7, 0.8]]
C = [[0.9, 0.1, 0.1], [0.9, 0.9, 0.1], [0.9, 0.9, 0.95]]
SMALL = ["train.iterations=4", "model.hidden_sizes=[8]", "benchmark.classes_per_task=[4,3,3]", "threads=1",
         "evaluate.generated_samples=0"]  # fmt: skip

RUNS = {name: f"strategy={name}" for name in ("finetune", "separate", "cumulative")}
RUNS["other"] = "strategy=finetune seed=1"


def test_metrics_by_hand():
    assert forward_transfer(R, [0.3, 0.25, 0.1]) == pytest.approx(((0.3 - 0.25) + (0.4 - 0.1)) / 2)
    assert forward_transfer_to_separate(R, S) == pytest.approx(((0.8 - 0.7) + (1.0 - 0.8)) / 2)
    assert intransigence(R, C) == pytest.approx(((0.9 - 0.9) + (0.9 - 0.8) + (0.95 - 1.0)) / 3)
    for metric in (forward_transfer_to_separate, intransigence):
        assert metric(R[2:], S) is metric(R, S[2:]) is metric([], []) is metric(R, S[:2]) is None
    directions = metric_directions([], [])
    assert (directions["forward_transfer_to_separate"], directions["intransigence"]) == ("higher", "lower")
    assert "validation_intransigence" not in directions


@pytest.mark.parametrize(
    ("scenario", "expected"),
    [("class", [1 / 4, 1 / 7, 1 / 10]), ("task", [1 / 4, (1 / 4 + 1 / 3) / 2, (1 / 4 + 1 / 3 + 1 / 3) / 3])],
)
def test_chance_of_each_scenario(gr_run, scenario, expected):
    assert gr_run(*SMALL, "strategy=finetune", f"scenario={scenario}", "hydra.run.dir=here")[0] == 0
    assert pd.read_csv("here/chance.csv")["accuracy"].tolist() == pytest.approx(expected, abs=1e-6)
    metrics = pd.read_csv("here/metrics.csv", index_col="metric")["value"]
    assert metrics["chance_accuracy"] == pytest.approx(expected[-1], abs=1e-6)


@pytest.fixture
def runs(monkeypatch, tmp_path):
    """Runs of three strategies, and one of a seed without references."""
    monkeypatch.chdir(tmp_path)
    for folder, words in RUNS.items():
        assert main([*SMALL, *words.split(), f"hydra.run.dir={folder}"]) == 0
    return tmp_path


def diagonal(folder):
    matrix = pd.read_csv(f"{folder}/accuracy_matrix.csv").drop(columns="after_task").to_numpy()
    return [float(matrix[i, i]) for i in range(3)]


def test_reports_compare_with_references(runs, capsys):
    own, separate, cumulative = (diagonal(name) for name in ("finetune", "separate", "cumulative"))
    by_seed = {(run.choices["strategy"], run.seed): run.metrics for run in discover_runs([runs]).runs}
    assert by_seed["finetune", 0]["forward_transfer_to_separate"] == pytest.approx(
        sum(own[j] - separate[j] for j in (1, 2)) / 2
    )
    assert by_seed["finetune", 0]["intransigence"] == pytest.approx(sum(cumulative[j] - own[j] for j in range(3)) / 3)
    assert "forward_transfer_to_separate" not in by_seed["separate", 0]
    assert "intransigence" not in by_seed["finetune", 1]
    capsys.readouterr()
    assert report([".", "--metrics", "average_accuracy", "intransigence", "--format", "json"]) == 0
    rows = {row["configuration"]: row for row in json.loads(capsys.readouterr().out)["rows"]}
    assert list(rows["finetune"]["metrics"]["intransigence"]["values"]) == ["0"]
    assert report(["."]) == 0
    (chance,) = [line for line in capsys.readouterr().out.splitlines() if "random chance" in line]
    assert [cell.strip() for cell in chance.strip("|").split("|")][:6] == ["random chance", "–", "–", "–", "–", "10.00"]
    assert report([".", "--format", "table"]) == 0
    assert "random chance" in capsys.readouterr().out
    assert report([".", "--metrics", "forgetting"]) == 0
    assert "random chance" not in capsys.readouterr().out


def test_chances_of_one_benchmark_are_distinguished_by_the_setting_that_changes_them():
    """In task-incremental learning by the classes of a task; the learning rate has more values."""
    for classes, rates in ((2, (0.1, 0.2)), (5, (0.3,))):
        for rate in rates:
            write_run(Path("runs"), optimizer__lr=rate, benchmark__classes_per_task=classes, scenario="task")
    discovered = discover_runs([Path("runs")])
    for run in discovered.runs:
        run.metrics["chance_accuracy"] = 1 / run.settings["benchmark.classes_per_task"]

    def chances(*words):
        table = report_table(group_runs(select_runs(discovered, words)), DEFAULT_METRICS)
        return [(row.label, row.accuracy) for row in chance_rows(table)]

    assert chances() == [("random chance · classes_per_task=2", 0.5), ("random chance · classes_per_task=5", 0.2)]
    assert chances("classes_per_task=2") == [("random chance", 0.5)]


def test_a_reference_differs_in_the_method_only(runs, capsys):
    Path("separate").rename("elsewhere")
    assert main([*SMALL, "strategy=separate", "train.iterations=5", "hydra.run.dir=longer"]) == 0
    Path("elsewhere/status.json").unlink()
    capsys.readouterr()
    assert report([".", "--metrics", "forward_transfer_to_separate"]) == 2
    assert "needs a run of strategy=separate" in capsys.readouterr().err
