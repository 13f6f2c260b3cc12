"""Options of gr-report that select, sort and write: --where, --sort, --runs, --metrics, --format, --output."""

import csv
import json
import math
import re
from collections.abc import Callable
from pathlib import Path

import pytest

from gr_cli.errors import ConfigError
from gr_cli.report.selection import Condition
from gr_cli.results.statistics import UNIT_INTERVAL
from helpers.pages import embedded
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


@pytest.mark.parametrize(
    ("condition", "value", "holds"),
    [
        ("average_accuracy>0.8", 0.8, False),
        ("average_accuracy>=80%", 0.8, True),
        ("average_accuracy=0.8,0.9", 0.9, True),
        ("average_accuracy!=80%", 0.8, False),
        ("average_accuracy!=80%", None, True),
        ("average_accuracy<1", None, False),
        ("average_accuracy<1", math.nan, False),
    ],
)
def test_conditions_on_a_fraction(condition, value, holds):
    assert Condition(condition).holds_for(value, "fraction", UNIT_INTERVAL) is holds


@pytest.mark.parametrize(
    ("condition", "message"),
    [
        ("average_accuracy>80", "between 0 and 1; write average_accuracy>0.8 or 80%"),
        ("average_accuracy>-0.5", "between 0 and 1; such as average_accuracy>0.5"),
        ("average_accuracy>900", "between 0 and 1; such as average_accuracy>0.5"),
    ],
)
def test_a_limit_that_is_no_fraction_is_refused(condition, message):
    with pytest.raises(ConfigError, match=re.escape(f"--where={condition}: must be a fraction {message}")):
        Condition(condition).holds_for(0.5, "fraction", UNIT_INTERVAL)


def test_conditions_on_a_cost_have_its_units():
    for text, holds in {"4GFLOP": True, "6e9": False, "5.5 GFLOP": False, "900MFLOP": True, "5e9FLOP": False}.items():
        assert Condition(f"training_flops>{text}").holds_for(5e9, "FLOP") is holds


def test_metrics_select_configurations_by_their_mean_and_keep_their_seeds(rows, gr_report):
    # Seeds 0 and 1 of finetune at 0.1 are 0.6 and 0.7: the mean is 0.65.
    kept = rows("--where", "average_accuracy<0.66", "average_accuracy>0.64")
    assert [(row["configuration"], row["seeds"]) for row in kept] == [("finetune", "0 1")]
    assert float(kept[0]["average_accuracy_mean"]) == pytest.approx(0.65)
    single = rows("--runs", "--where", "average_accuracy>64%", "strategy=finetune")
    assert [(row["seed"], row["average_accuracy"]) for row in single] == [("1", "0.700000")]
    code, _, err = gr_report("runs", "--where", "average_accuracy>0.99")
    assert code == 2 and "no such run; average_accuracy is between 0.551 and 0.799" in err


def test_a_page_of_runs_selected_by_a_metric_has_all_seeds_of_its_configurations(rows, gr_report):
    words = (
        "--runs",
        "--where",
        "average_accuracy>0.64",
        "strategy=finetune",
        "--html",
        "page.html",
        "--format",
        "csv",
    )
    code, out, err = gr_report("runs", *words)
    assert code == 0, err
    assert len(out.splitlines()) == 2  # a run
    (one,) = embedded(Path("page.html").read_text(encoding="utf-8"))["configurations"]
    assert one["metrics"]["average_accuracy"]["seeds"] == {"0": 60.0, "1": 70.0}


def test_costs_and_cells_select(rows):
    assert len(rows("--where", "seconds>=0")) == 6  # joint has no finished run
    assert rows("--where", "seconds<1e9", "lr=0.1", "strategy=finetune")
    kept = rows("--where", "sample_quality.recall>=0")
    assert {row["strategy"] for row in kept} == {"generative_replay"}
    assert len(rows("--where", "sample_quality.recall!=0.5")) == 7  # a run without the table fulfils only !=


def test_metrics_may_be_columns_of_tables(rows, gr_report):
    def mean_of(table: str, column: str, folder: str, **keys: str) -> float:
        table_rows = csv.DictReader((Path(folder) / f"{table}.csv").read_text(encoding="utf-8").splitlines())
        values = [float(row[column]) for row in table_rows if all(row[key] == value for key, value in keys.items())]
        return sum(values) / len(values)

    names = ("evaluations.accuracy", "sample_quality.label_agreement", "evaluations.accuracy@task=1")
    runs = rows("--runs", "--metrics", *names, "--where", "strategy=generative_replay", "lr=0.1")
    assert len(runs) == 2
    for run in runs:
        assert float(run[names[0]]) == pytest.approx(mean_of("evaluations", "accuracy", run["folder"], after_task="2"))
        assert float(run[names[2]]) == pytest.approx(
            mean_of("evaluations", "accuracy", run["folder"], after_task="2", task="1")
        )
        if run["seed"] == "0":
            expected = mean_of("sample_quality", "label_agreement", run["folder"], after_task="2", task="all")
            assert float(run[names[1]]) == pytest.approx(expected)
    _, out, _ = gr_report("runs", "--metrics", names[1], "--format", "markdown")
    assert "| sample quality.label agreement (%) |" in out
    code, _, err = gr_report("runs", "--metrics", "beauty")
    assert code == 2 and "and after the last task the columns evaluations.accuracy, evaluations.loss, sample_" in err


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


def test_the_baseline_is_the_first_configuration_with_the_most_seeds(gr_report):
    write_run(Path("runs"), 0)
    for seed in range(3):
        write_run(Path("runs"), seed, "generative_replay", accuracy=0.2 + seed / 10)
        write_run(Path("runs"), seed, "joint", accuracy=0.5 + seed / 10 + seed**2 / 1000)
    _, out, _ = gr_report("runs", "--format", "csv")
    single, baseline, joint = csv.DictReader(out.splitlines())
    assert single["runs"] == "1" and baseline["difference_n"] == "0"
    assert joint["baseline"].startswith("strategy=generative_replay ")
    assert float(joint["difference_mean"]) == pytest.approx(0.3 + 5 / 3000, abs=1e-6)
    assert float(joint["difference_p_holm"]) < 0.05  # with the single seed as baseline there were none
    text = gr_report("runs")[1]
    assert "paired differences from row 2 (generative_replay), which has the most seeds: over common" in text
    text = gr_report("runs", "--baseline", "strategy=joint")[1]
    assert "paired differences from row 3 (joint): over common" in text


def test_the_baseline_has_values_of_the_metric(gr_report):
    for seed in range(3):
        write_run(Path("runs"), seed, "finetune")
        write_run(Path("runs"), seed, "generative_replay")
    _, out, _ = gr_report("runs", "--metrics", "sample_quality.recall", "--format", "csv")
    first, second = csv.DictReader(out.splitlines())
    assert first["sample_quality.recall_n"] == "0" and second["baseline"].startswith("strategy=generative_replay")


def test_jobs_that_have_not_started_are_one_line(gr_report):
    write_run(Path("runs"), 0)
    sweep = Path("runs/sweeps/0a73b11d")
    sweep.mkdir(parents=True)
    entries = {f"../../x/{i}": {"seed": i % 5, "config_hash": f"{i // 5:08}", "overrides": []} for i in range(50)}
    (sweep / "sweep.json").write_text(json.dumps({"jobs": entries}), encoding="utf-8")
    for words in ((), ("--runs",)):
        lines = [line for line in gr_report("runs", *words)[1].splitlines() if "without a run" in line]
        assert len(lines) == 1 and "not run: 50 jobs of 10 configurations without a run, first " in lines[0]
