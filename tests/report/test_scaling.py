"""Costs in tables for people have units with prefixes; CSV and JSON have the numbers of the files."""

import csv
import json
from pathlib import Path

import pytest
from matplotlib.figure import Figure

from gr_cli.evaluation.measures.costs import Costs
from gr_cli.report.cli import main
from gr_cli.results import charts
from gr_cli.results.statistics import summarize
from gr_cli.results.tables import TableFormat
from helpers import run_folders
from helpers.pages import embedded

COSTS = TableFormat(Costs.name, Costs.description, Costs.columns)
FLOPS = (5_000_000_000, 5_500_000_000, 6_600_000_000)


@pytest.fixture
def runs(monkeypatch, tmp_path) -> Path:
    """Three seeds of joint training and of finetuning, with costs."""
    monkeypatch.chdir(tmp_path)
    record_of = run_folders.record_of
    for strategy, factor in (("finetune", 1), ("joint", 2)):
        for seed, flops in enumerate(FLOPS):
            row = dict.fromkeys((column.name for column in COSTS.columns), 0)
            row |= {"training_flops": factor * flops, "stored_bytes": 3 * 2**19}

            def with_costs(*arguments: object, row: dict[str, int] = row):
                record = record_of(*arguments)
                record.add_rows(COSTS, [row])
                return record

            monkeypatch.setattr(run_folders, "record_of", with_costs)
            run_folders.write_run(Path("runs"), seed, strategy)
    return Path("runs")


def test_tables_for_people_have_prefixes(runs, gr_report):
    _, out, _ = gr_report(runs, "--metrics", "training_flops", "stored_bytes")
    header, _, first, second, *_ = out.splitlines()
    assert "| training flops (GFLOP) |" in header and "| stored bytes (MiB) |" in header
    assert "| paired difference in training flops (GFLOP) |" in header
    assert " 5.70 ± 0.47 |" in first and " 1.50 ± 0.00 |" in first
    assert " 11.40 ± 0.95 |" in second and " +5.70 [+3.67, +7.73] (3) |" in second


def test_runs_have_prefixes(runs, gr_report):
    _, out, _ = gr_report(runs, "--runs", "--metrics", "training_flops")
    assert "| training flops (GFLOP) |" in out and " 5.50 |" in out and " 13.20 |" in out


def test_files_have_the_numbers_of_the_runs(runs, gr_report):
    _, out, _ = gr_report(runs, "--metrics", "training_flops", "--format", "csv")
    assert float(next(csv.DictReader(out.splitlines()))["training_flops_mean"]) == pytest.approx(5.7e9)
    report = json.loads(gr_report(runs, "--metrics", "training_flops", "--format", "json")[1])
    assert report["metrics"] == {"training_flops": {"unit": "FLOP"}}
    assert report["rows"][0]["metrics"]["training_flops"]["values"]["1"] == FLOPS[1]
    singles = json.loads(gr_report(runs, "--runs", "--metrics", "training_flops", "--format", "json")[1])
    assert singles["runs"][0]["metrics"] == {"training_flops": FLOPS[0]}


def test_costs_of_the_page_have_prefixes(runs):
    assert main([str(runs), "--html", "page.html"]) == 0
    costs = embedded(Path("page.html").read_text(encoding="utf-8"))["configurations"][0]["costs"]
    assert costs["training flops (GFLOP)"]["statistics"][0] == 5.7
    assert costs["stored bytes (MiB)"]["seeds"] == {"0": 1.5, "1": 1.5, "2": 1.5}


def test_statistics_scale_with_their_values():
    values = [1.0, 2.5, 4.0]
    for factor in (-1.0, 0.5):
        expected, scaled = summarize([factor * value for value in values]), summarize(values).scaled(factor)
        assert (scaled.mean, scaled.sem) == pytest.approx((expected.mean, expected.sem))
        assert scaled.interval == pytest.approx(expected.interval) and scaled.values == expected.values


def test_a_metric_of_the_page_has_a_prefix_in_all_its_parts(runs):
    assert main([str(runs), "--html", "page.html", "--metrics", "training_flops"]) == 0
    data = embedded(Path("page.html").read_text(encoding="utf-8"))
    metric = data["metrics"][0]
    assert (metric["label"], metric["unit"], metric["low"]) == ("training flops (GFLOP)", "GFLOP", None)
    _, joint = data["configurations"]
    assert joint["metrics"]["training_flops"]["statistics"][0] == 11.4
    assert joint["difference"] == {"text": "+5.70 [+3.67, +7.73] (3)", "value": 5.7, "p": "0.007"}
    assert data["verdicts"][0][0].startswith(
        "finetune has training flops 5.70\u00a0±\u00a00.47\u00a0GFLOP, the better of 2; "
        "next is joint with 11.40\u00a0GFLOP. 5.70\u00a0GFLOP apart over 3 common seeds"
    )


def test_figures_have_prefixes(runs, monkeypatch):
    labels, panels = [], []
    monkeypatch.setattr(charts, "comparison_chart", lambda named, label, *_: labels.append((label, named)) or Figure())
    monkeypatch.setattr(charts, "measure_panels", lambda drawn, limits: panels.append((drawn, limits)) or Figure())
    monkeypatch.setattr(charts, "save_for_paper", lambda figure, path: None)
    assert main([str(runs), "--figures", "figures", "--metrics", "training_flops"]) == 0
    ((label, named),) = labels
    assert label == "training flops (GFLOP)" and named[0][1].mean == pytest.approx(5.7)
    drawn, limits = panels[0]
    (column,) = (column for column in drawn if column.name == "training_flops")
    assert column.unit == "GFLOP" and drawn[column][0].points[1.0].mean == pytest.approx(5.7)
    assert limits[column] == pytest.approx(11.4 + 0.945, abs=1e-3)  # mean and standard error of joint training
