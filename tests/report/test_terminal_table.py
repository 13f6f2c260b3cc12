"""The table of gr-report on a terminal fits its width, and names what it leaves out."""

import io
import re
from pathlib import Path

import pytest
from rich.console import Console

from gr_cli.report.cli import main
from gr_cli.report.groups import group_runs
from gr_cli.report.overview import overview, run_overview
from gr_cli.report.run_table import run_table
from gr_cli.report.tables import DEFAULT_METRICS, report_table
from gr_cli.results.discovery import discover_runs
from gr_cli.terminal.fitted_table import FittedColumn, FittedTable, layout_for, print_fitted
from helpers.run_folders import write_run

STRATEGIES = {"finetune": 0.19, "generative_replay": 0.87, "joint": 0.97}


def three_strategies() -> None:
    for strategy, accuracy in STRATEGIES.items():
        for seed in range(5):
            write_run(Path("runs"), seed, strategy, accuracy=accuracy + 0.004 * (seed * len(strategy) % 7))


def fifty_configurations() -> None:
    for rate in (0.0001, 0.0003, 0.001, 0.003, 0.01):
        for size in (16, 32, 64, 128, 256):
            for strategy in ("finetune", "generative_replay"):
                write_run(Path("runs"), 0, strategy, optimizer__lr=rate, train__batch_size=size)


def uneven_seeds() -> None:
    for seed in range(4):
        write_run(Path("runs"), seed)
    for seed in (1, 2, 3):
        write_run(Path("runs"), seed, "generative_replay")
    write_run(Path("runs"), 3, "joint")
    write_run(Path("runs"), 0, "joint", state="failed", status={"reason": "out of memory"})


def no_finished_run() -> None:
    write_run(Path("runs"), state="failed", status={"reason": "loss `total` is nan in task 2"})


FOLDERS = [three_strategies, fifty_configurations, uneven_seeds, no_finished_run]


def shown(width: int, runs: bool = False, encoding: str = "utf-8", metrics: tuple[str, ...] = DEFAULT_METRICS) -> str:
    grouping = group_runs(discover_runs([Path("runs")]))
    table = report_table(grouping, metrics)
    file = io.TextIOWrapper(io.BytesIO(), encoding=encoding)
    fitted = run_overview(run_table(table, grouping)) if runs else overview(table)
    print_fitted(fitted, Console(file=file, width=width, highlight=False, force_terminal=True, no_color=True))
    file.flush()
    return re.sub(r"\x1b\[[0-9;]*m", "", file.buffer.getvalue().decode(encoding))


@pytest.mark.parametrize("width", [40, 60, 80, 120, 160, 250])
@pytest.mark.parametrize("write", FOLDERS)
@pytest.mark.parametrize("encoding", ["utf-8", "ascii"])
def test_no_line_is_wider_than_the_terminal(write, width, encoding):
    write()
    for runs in (False, True):
        text = shown(width, runs, encoding)
        assert max(map(len, text.splitlines())) <= width
        assert "accuracy" in text


def test_three_strategies_with_five_seeds_fit_80_columns():
    three_strategies()
    text = shown(80)
    heading, constants, *_ = text.splitlines()
    assert heading == "3 configurations · 15 runs · seeds 0–4 each"
    assert constants == "generator=vae · benchmark=split_digits · scenario=class"
    rows = [line for line in text.splitlines() if line.startswith(tuple(STRATEGIES))]
    assert [row.split()[0] for row in rows] == list(STRATEGIES)
    assert re.fullmatch(r"finetune +\d+\.\d\d ± \d\.\d\d +−?\d+\.\d\d ± \d+\.\d\d +baseline +–", rows[0].rstrip())
    assert re.search(r"\+6\d\.\d\d \[\+6\d\.\d\d, \+6\d\.\d\d\]  <0\.001$", rows[1].rstrip())
    assert "no room for: 95 % interval, seconds, peak MiB" in text


def test_a_wide_terminal_shows_everything():
    three_strategies()
    text = shown(160)
    assert "no room for" not in text and "95 % interval" in text and "seconds" in text


def test_a_sweep_has_a_column_per_setting_or_short_labels():
    fifty_configurations()
    assert re.search(r"^generative_replay +0\.01 +256 ", shown(120), re.M)
    assert "train.batch_size=256" in shown(40).replace("\n", " ")


def test_different_seeds_are_one_line():
    uneven_seeds()
    text = shown(120)
    assert "no run of seeds that others have: row 2 (generative_replay) seed 0; row 3 (joint) seeds 1–2\n" in text
    assert "8 of 9 runs finished" in text and re.search(r"^3 +joint .* 1 of 2 ", text, re.M)
    assert "row 3 (joint): seed 0 failed: out of memory\n" in text


def test_no_finished_run():
    no_finished_run()
    text = shown(80)
    assert "0 of 1 run finished" in text and "no finished run\n" in text and "seconds" not in text
    assert "seed 0 failed: loss `total` is nan in task 2" in text


def test_a_row_per_run():
    uneven_seeds()
    text = shown(160, runs=True)
    assert text.startswith("9 runs · 8 finished · 1 failed\n")
    rows = [line.split() for line in text.splitlines() if line.startswith(tuple(STRATEGIES))]
    assert [(row[0], row[1]) for row in rows][-3:] == [("generative_replay", "3"), ("joint", "0"), ("joint", "3")]
    assert all(row[-1].startswith("runs/seed") for row in rows)
    assert re.search(r"^joint +0 +– +failed *$", shown(50, runs=True), re.M)


def test_p_values_are_not_shown_without_differences():
    three_strategies()
    for width in range(30, 90):
        text = shown(width)
        table = text[: text.index("no room for")]
        assert "baseline" in table or "(Holm)" not in table, text


def column(header: str, *cells: str, short: tuple[str, ...] = (), is_text: bool = False) -> FittedColumn:
    return FittedColumn(header, cells, short, is_text)


def test_columns_are_left_out_from_the_least_important_on():
    name, first, second = column("name", "a" * 10, is_text=True), column("x", "1" * 6), column("y", "2" * 6)
    third, fourth = column("z", "3" * 20), column("w", "4" * 4)
    table = FittedTable([], [[name]], [first, second], [third, fourth])
    kept = {width: layout_for(table, width) for width in (54, 53, 32, 26, 18)}
    assert [len(layout.columns) for layout in kept.values()] == [4, 3, 3, 2, 1]
    assert kept[53].left_out == ["w"] and kept[18].left_out == ["y", "z", "w"]
    assert kept[32].columns == [first, second, fourth]


def test_numbers_are_shortened_before_columns_are_left_out():
    name, first = column("name", "a", is_text=True), column("x", "1.234", short=("1.2",))
    table = FittedTable([], [[name]], [first], [])
    assert not layout_for(table, 11).short and layout_for(table, 10).short


def test_a_terminal_gets_the_table_and_a_pipe_markdown(capsys, monkeypatch):
    three_strategies()
    assert main(["runs"]) == 0 and capsys.readouterr().out.startswith("| strategy ")
    monkeypatch.setenv("COLUMNS", "80")
    assert main(["runs", "--format", "table"]) == 0
    table = capsys.readouterr().out
    assert table.startswith("3 configurations") and "\x1b" not in table
    monkeypatch.setattr("sys.stdout.isatty", lambda: True, raising=False)
    assert main(["runs"]) == 0 and capsys.readouterr().out.startswith(("3 configurations", "\x1b"))
