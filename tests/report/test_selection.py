"""Options of gr-report that select, sort and write: --where, --sort, --runs, --metrics, --format, --output."""

import csv
import json
import math
from collections.abc import Callable
from pathlib import Path

import pytest

from gr_cli.report.selection import Condition
from helpers.run_folders import write_run

Report = Callable[..., tuple[int, str, str]]


@pytest.fixture
def rows(gr_report: Report) -> Callable[..., list[dict[str, str]]]:
    """A function that returns the rows of a report's CSV."""
    for rate in (0.001, 0.01, 0.1):
        for seed in range(2):
            write_run(Path("runs"), seed, accuracy=0.5 + rate + 0.1 * seed, optimizer__lr=rate)
            write_run(Path("runs"), seed, "generative_replay", accuracy=0.8 - rate, optimizer__lr=rate)
    write_run(Path("runs"), 2, "joint", state="failed", status={"reason": "out of memory"})

    def call(*words: object) -> list[dict[str, str]]:
        code, out, err = gr_report("runs", *words, "--format", "csv")
        assert code == 0, err
        return list(csv.DictReader(out.splitlines()))

    return call


@pytest.mark.parametrize(
    ("condition", "value", "holds"),
    [
        ("lr=0.1", "0.1", True),
        ("lr=1e-1", "0.1", True),
        ("lr!=0.1", "0.1", False),
        ("lr!=0.1", None, True),
        ("lr=0.1", None, False),
        ("lr<0.1", "0.1", False),
        ("lr<=0.1", "0.1", True),
        ("lr>0.01", "0.1", True),
        ("lr>=1", "0.1", False),
        ("lr<1", None, False),
        ("lr<1", "auto", False),
        ("strategy=ewc,si", "si", True),
        ("strategy!=ewc,si", "si", False),
        ("model.hidden_sizes=[256, 128]", "[256, 128]", True),
        ("strategy/regularizer=ewc", "ewc", True),
    ],
)
def test_conditions(condition, value, holds):
    assert Condition(condition).holds(value) is holds


@pytest.mark.parametrize(
    ("conditions", "expected"),
    [
        (["strategy=finetune", "lr<0.1"], [("finetune", "0.001"), ("finetune", "0.01")]),
        (["optimizer.lr>=0.01", "strategy!=finetune"], [("generative_replay", "0.01"), ("generative_replay", "0.1")]),
        (["strategy=joint,finetune", "lr=0.001"], [("finetune", "0.001"), ("joint", "0.001")]),
        (["generator=vae", "lr=0.1"], [("generative_replay", "0.1")]),
        (["state=failed"], [("joint", "0.001")]),
    ],
)
def test_runs_are_selected(rows, gr_report, conditions, expected):
    selected = rows("--where", *conditions)
    assert [(row["strategy"], row.get("lr", expected[0][1])) for row in selected] == expected
    if len({rate for _, rate in expected}) == 1:
        assert "lr" not in selected[0]  # a setting with one value is no column


def test_seeds_are_selected(rows):
    assert {row["seeds"] for row in rows("--where", "seed=1")} == {"1"}


def test_rows_are_sorted_and_the_baseline_stays(rows):
    names = [row["configuration"] for row in rows()]
    by_accuracy = rows("--sort", "-average_accuracy")
    means = [float(row["average_accuracy_mean"]) for row in by_accuracy[:-1]]
    assert means == sorted(means, reverse=True) and by_accuracy[-1]["configuration"] == "joint"  # without a value
    assert sorted(row["configuration"] for row in by_accuracy) == sorted(names)
    assert {row["baseline"] for row in by_accuracy} == {row["baseline"] for row in rows()}
    by_two = [(row["lr"], row["strategy"]) for row in rows("--sort", "-lr", "--sort", "strategy")]
    assert by_two == sorted(by_two, key=lambda pair: (-float(pair[0]), pair[1]))
    assert rows("--sort", "learning_accuracy")  # a metric that is not shown
    forgetting = [float(row["forgetting_mean"]) for row in rows("--sort", "forgetting")[:-1]]
    assert forgetting == sorted(forgetting)


def test_a_row_per_run(rows, gr_report):
    runs = rows("--runs", "--sort", "-average_accuracy", "--metrics", "average_accuracy", "learning_accuracy")
    assert len(runs) == 13 and runs[-1]["state"] == "failed" and runs[-1]["reason"] == "out of memory"
    values = [float(row["average_accuracy"]) for row in runs[:-1]]
    assert values == sorted(values, reverse=True) and runs[0]["learning_accuracy"]
    assert all((Path(row["folder"]) / "status.json").is_file() for row in runs)
    report = json.loads(gr_report("runs", "--runs", "--format", "json")[1])
    assert len(report["runs"]) == 13 and report["runs"][0]["settings"]["optimizer.lr"] == 0.001
    _, out, _ = gr_report("runs", "--runs", "--where", "seed=2")
    assert out.startswith("| strategy |") and out.endswith("out of memory\n")
    assert r"\toprule" in gr_report("runs", "--runs", "--format", "latex")[1]


def test_metrics_of_evaluations_by_name(rows):
    names = ("sample_label_agreement", "forgetting", "sample_frechet")
    shown = rows("--metrics", *names, "--where", "strategy=generative_replay")
    assert all(float(row[f"{name}_mean"]) >= 0 for row in shown for name in names if name != "forgetting")
    assert "average_accuracy_mean" not in shown[0]


def test_files_have_the_format_of_their_ending(rows, gr_report):
    for name, start in {"a.csv": "configuration,", "a.json": "{", "a.md": "| strategy", "a.tex": "% needs"}.items():
        assert gr_report("runs", "--output", name) == (0, "", "")
        assert Path(name).read_text(encoding="utf-8").startswith(start)
    assert gr_report("runs", "--output", "a.txt", "--format", "markdown")[0] == 0
    assert Path("a.txt").read_bytes() == Path("a.md").read_bytes()


def test_json_has_no_nan(gr_report):
    write_run(Path("runs"), 0, accuracy=math.nan)
    code, out, err = gr_report("runs", "--format", "json")
    assert code == 0, err
    (row,) = json.loads(out)["rows"]
    assert row["metrics"]["average_accuracy"]["mean"] is None
    assert row["warnings"][0] == "average_accuracy of seed 0 is NaN"


def test_the_baseline_is_the_first_configuration_with_a_finished_run(gr_report):
    write_run(Path("runs"), 0, state="interrupted")
    for seed in range(3):
        write_run(Path("runs"), seed, "generative_replay", accuracy=0.2 + seed / 10)
        write_run(Path("runs"), seed, "joint", accuracy=0.5 + seed / 10)
    _, out, _ = gr_report("runs", "--format", "csv")
    unfinished, baseline, joint = csv.DictReader(out.splitlines())
    assert unfinished["runs"] == "0" and baseline["difference_n"] == "0"
    assert joint["baseline"].startswith("strategy=generative_replay ")
    assert float(joint["difference_mean"]) == pytest.approx(0.3)
