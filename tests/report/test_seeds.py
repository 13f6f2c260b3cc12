"""Few and many seeds: below three their values, and nothing outside the range of an accuracy in charts and tables."""

import csv
import json
import re
from pathlib import Path

import numpy as np
import pytest

from gr_cli.report import chart_list, series
from gr_cli.report.groups import group_runs
from gr_cli.report.tables import ReportTable, report_table
from gr_cli.results import charts
from gr_cli.results.discovery import discover_runs
from helpers.run_folders import write_run

ACCURACIES = (1.0, 0.55, 1.0, 0.99)  # with three of them, Student's t would reach beyond 150 %
METRICS = ("average_accuracy", "learning_accuracy", "forgetting", "sample_label_agreement")
NUMBERS_OF_SEEDS = pytest.mark.parametrize("n", [1, 2, 3, 30])


def written(n: int) -> ReportTable:
    """A report of two learning rates with n seeds each."""
    for rate in (0.001, 0.01):
        for seed in range(n):
            write_run(Path("runs"), seed, "generative_replay", accuracy=ACCURACIES[seed % 4], optimizer__lr=rate)
    return report_table(group_runs(discover_runs([Path("runs")])), METRICS)


def drawn_values(axes: charts.Axes, axis: int) -> np.ndarray:
    """All values along x (axis 0) or y (axis 1) that lines, bands, dots and intervals have."""
    values = [np.asarray(line.get_xydata(), dtype=float)[:, axis] for line in axes.lines]
    values += [path.vertices[:, axis] for artist in axes.collections for path in artist.get_paths()]
    return np.concatenate(values)


def assert_within(axes: charts.Axes, axis: int, low: float = 0.0) -> None:
    values, limits = drawn_values(axes, axis), (axes.get_xlim(), axes.get_ylim())[axis]
    assert len(values) and values.min() >= low - 1e-9 and values.max() <= 100 + 1e-9
    assert limits[0] >= 1.04 * low - 4 and limits[1] <= 104  # a margin for markers, without ticks


@NUMBERS_OF_SEEDS
def test_no_chart_leaves_the_range(n):
    table = written(n)
    comparisons = chart_list.comparison_charts(table)
    assert [chart.name for chart in comparisons] == list(METRICS)
    for chart in comparisons:
        low = -100.0 if chart.name == "forgetting" else 0.0
        assert_within(chart.draw().axes[0], 0, low)
    for chart in chart_list.sweep_charts(table):
        assert_within(chart.draw().axes[0], 1)
    for row in table.rows:
        matrix, curves, losses = chart_list.group_charts(1, row)
        assert matrix.name.endswith("_matrix") and losses.name.endswith("_losses")
        assert_within(curves.draw().axes[0], 1)
        cells = matrix.draw().axes[0].images[0].get_array()
        assert cells.min() >= 0 and cells.max() <= 100
    (quality,) = series.table_formats(table)
    for chart in chart_list.measured_charts(quality, table):
        for axes in chart.draw().axes:
            if "%" in axes.get_title(loc="left"):
                assert_within(axes, 1)


@NUMBERS_OF_SEEDS
def test_charts_have_dots_instead_of_an_interval_below_three_seeds(n):
    table = written(n)
    axes = chart_list.comparison_charts(table)[0].draw().axes[0]
    assert len(axes.containers) == (2 if n >= 3 else 0)  # intervals
    dots = [line.get_xdata() for line in axes.lines if line.get_marker() == "."]
    assert [sorted(xs) for xs in dots] == 2 * [sorted(100 * ACCURACIES[seed % 4] for seed in range(n))]
    (sweep,) = chart_list.sweep_charts(table)
    axes = sweep.draw().axes[0]
    (band,) = axes.collections[0].get_paths()
    assert (np.ptp(band.vertices[:, 1]) > 0) == (n >= 3)  # both learning rates have the same mean
    assert len([line for line in axes.lines if line.get_marker() == "."]) == (n == 2)


@NUMBERS_OF_SEEDS
def test_no_table_leaves_the_range(n, gr_report):
    written(n)
    _, out, _ = gr_report("runs", "--format", "csv", "--metrics", *METRICS)
    for row in csv.DictReader(out.splitlines()):
        for metric in METRICS:
            low = -1.0 if metric == "forgetting" else 0.0
            ends = [row[f"{metric}_{name}"] for name in ("ci95_low", "mean", "ci95_high")]
            if n < 3:
                assert ends[0] == ends[2] == row[f"{metric}_sem"] == ""
            else:
                numbers = [low, *map(float, ends), 1.0]
                assert numbers == sorted(numbers)
    values = json.loads(gr_report("runs", "--format", "json")[1])["rows"][0]["metrics"]["average_accuracy"]
    assert values["n"] == n and list(values["values"].values()) == [ACCURACIES[seed % 4] for seed in range(n)]
    assert (values["ci95"] is None) == (values["sem"] is None) == (n < 3)
    _, out, _ = gr_report("runs")
    shown = {1: "| 100.00 |", 2: "| 100.00, 55.00 |", 3: r"| 85.00 ± 15.00 | [3.46, 99.89] |"}
    assert n == 30 or shown[n] in re.sub(" +", " ", out)
    assert ("fewer than 3 seeds" in out) == (n < 3) and ("logit scale" in out) == (n >= 3)


@NUMBERS_OF_SEEDS
def test_several_comparisons_are_counted_and_their_p_values_adjusted(n, gr_report):
    for strategy, accuracy in (("finetune", 0.5), ("generative_replay", 0.7), ("joint", 0.71)):
        for seed in range(n):
            write_run(Path("runs"), seed, strategy, accuracy=accuracy + 0.01 * (seed * len(strategy) % 7))
    _, out, _ = gr_report("runs")
    report = json.loads(gr_report("runs", "--format", "json")[1])
    assert report["comparisons"] == (2 if n >= 3 else 0)
    assert ("2 comparisons: the p values are adjusted for them (Holm), the intervals not" in out) == (n >= 3)
    assert ("p (Holm)" in out) == (n >= 3)
    rows = [row["difference"] for row in report["rows"][1:]]
    assert all((difference["p_holm"] is None) == (difference["ci95"] is None) == (n < 3) for difference in rows)
