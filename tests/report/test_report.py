"""gr-report: grouping, statistics, warnings, baselines and output formats."""

import csv
import json
import math
import os
import re
import socket
import subprocess
import sys
from collections.abc import Callable
from datetime import datetime, timezone
from pathlib import Path
from statistics import fmean, stdev

import pytest

from gr_cli.config.settings import result_relevant, short_hash
from gr_cli.results.folder import RunFolder
from gr_cli.system.checksums import checksum
from gr_cli.system.locks import locked
from helpers.run_folders import CONFIG, write_run

Report = Callable[..., tuple[int, str, str]]


@pytest.fixture
def table(gr_report: Report) -> Callable[..., list[dict[str, str]]]:
    """A function that returns the rows of a report's CSV."""

    def call(*words: object) -> list[dict[str, str]]:
        code, out, err = gr_report(*words, "--format", "csv")
        assert code == 0, err
        return list(csv.DictReader(out.splitlines()))

    return call


def metric(path: Path, name: str) -> float:
    with (path / "metrics.csv").open() as file:
        return float({row["metric"]: row["value"] for row in csv.DictReader(file)}[name])


# --- what is averaged


def test_a_row_is_the_mean_over_seeds_and_its_cost(table):
    paths = [write_run(Path("runs"), seed) for seed in range(4)]
    (row,) = table("runs")
    values = [metric(path, "average_accuracy") for path in paths]
    assert float(row["average_accuracy_mean"]) == pytest.approx(fmean(values), abs=1e-6)
    assert float(row["average_accuracy_sem"]) == pytest.approx(stdev(values) / 2, abs=1e-6)
    assert (row["runs"], row["seeds"], row["average_accuracy_n"]) == ("4", "0 1 2 3", "4")
    seconds = []
    for path in paths:
        with (path / "timing.csv").open() as file:
            seconds.append(
                sum(float(r["solver_seconds"]) + float(r["evaluation_seconds"]) for r in csv.DictReader(file))
            )
    assert float(row["seconds_mean"]) == pytest.approx(fmean(seconds), abs=1e-5)
    assert float(row["peak_memory_mib"]) == 502


def test_runs_that_differ_in_anything_are_split_and_the_setting_is_a_column(table):
    for seed in range(2):
        for rate in (0.001, 0.01):
            write_run(Path("runs"), seed, optimizer__lr=rate)
        write_run(Path("runs"), seed, "generative_replay", strategy__batch_size=64)
    rows = table("runs")
    assert [(row["strategy"], row["generator"], row["lr"]) for row in rows] == [
        ("finetune", "", "0.001"),
        ("finetune", "", "0.01"),
        ("generative_replay", "vae", "0.001"),
    ]
    assert all(row["runs"] == "2" for row in rows)
    # Settings that only one of the strategies has are implied by its name.
    assert "replay_weight" not in rows[0]


def test_columns_have_the_shortest_unambiguous_name(table):
    write_run(Path("runs"), 0, "generative_replay")
    write_run(Path("runs"), 0, "generative_replay", strategy__batch_size=64)
    write_run(Path("runs"), 0, "generative_replay", train__iterations=5)
    first, second, third = table("runs")
    assert [row["strategy.batch_size"] for row in (first, second, third)] == ["32", "32", "64"]
    assert [row["iterations"] for row in (first, second, third)] == ["5", "20", "20"]


def test_a_setting_that_depends_on_having_a_generator_is_no_column(table):
    write_run(Path("runs"), 0, evaluate__generated_samples=None)
    write_run(Path("runs"), 0, "generative_replay", evaluate__generated_samples=100)
    assert "generated_samples" not in table("runs")[0]
    write_run(Path("runs"), 0, "generative_replay", evaluate__generated_samples=50)
    assert [row["generated_samples"] for row in table("runs")] == ["null", "50", "100"]


def test_an_overridden_setting_of_one_strategy_is_a_column(table):
    write_run(Path("runs"), 0)
    words = ("strategy.replay_weight=2",)
    write_run(Path("runs"), 0, "generative_replay", overrides=words, strategy__replay_weight=2)
    assert [row["replay_weight"] for row in table("runs")] == ["", "2"]


def test_paths_logging_and_how_a_number_is_written_do_not_split(table):
    write_run(Path("runs"), 0, data_root="/here", log__every=3, optimizer__lr=1)
    write_run(Path("runs"), 1, optimizer__lr=1.0)
    (row,) = table("runs")
    assert row["runs"] == "2"


# --- what is missing


def test_unfinished_runs_are_listed_and_not_averaged(gr_report, table):
    write_run(Path("runs"), 0, accuracy=0.5)
    write_run(Path("runs"), 1, state="failed", status={"reason": "loss `total` is nan in task 2"})
    write_run(Path("runs"), 2, state="interrupted")
    write_run(Path("runs"), 3, state="running")
    write_run(Path("runs"), 4, state="running", status={"host": socket.gethostname()})  # nobody holds its lock
    (row,) = table("runs")
    assert float(row["average_accuracy_mean"]) == 0.5
    assert (row["runs"], row["seeds"], row["unfinished_seeds"]) == ("1", "0", "1 2 3 4")
    _, out, _ = gr_report("runs")
    assert "| 1 of 5 |" in out
    for line in ("seed 1 failed: loss `total` is nan in task 2", "seed 2 interrupted", "seeds 3–4 killed"):
        assert line in out


def test_a_run_of_another_host_with_a_recent_heartbeat_is_running(gr_report):
    write_run(Path("runs"), 0, state="running", status={"updated": datetime.now(timezone.utc).isoformat()})
    code, out, _ = gr_report("runs")
    assert code == 0 and "seed 0 running" in out and "| 0 of 1 |" in out


def test_seeds_that_only_other_rows_have_are_listed_as_missing(gr_report):
    for seed in range(5):
        write_run(Path("runs"), seed)
    write_run(Path("runs"), 1, "joint")
    assert "no run of seeds that others have: row 2 (joint) seeds 0, 2–4" in gr_report("runs")[1]


def test_a_repeated_run_counts_once_with_a_warning(gr_report, table):
    write_run(Path("runs"), 0, accuracy=0.2)
    write_run(Path("runs"), 0, accuracy=0.4, name="again", status={"updated": "2026-02-01T00:00:00+00:00"})
    write_run(Path("runs"), 0, state="failed", name="third", status={"updated": "2026-03-01T00:00:00+00:00"})
    (row,) = table("runs", "runs", "runs/again")
    assert (row["runs"], row["average_accuracy_mean"]) == ("1", "0.400000")
    assert "seed 0 has 3 runs; again counts, the newest that finished" in gr_report("runs")[1]


def test_nan_is_shown_and_a_metric_without_meaning_is_left_out(gr_report, table):
    broken = write_run(Path("runs"), 0)
    empty = write_run(Path("runs"), 1)
    write_run(Path("runs"), 2)
    for path, value in ((broken, "nan"), (empty, "")):
        lines = (path / "metrics.csv").read_text().splitlines()
        lines = [f"forgetting,{value}" if line.startswith("forgetting") else line for line in lines]
        folder = RunFolder(path)
        status = folder.status()
        (path / "metrics.csv").write_text("\n".join(lines))
        status["checksums"]["metrics.csv"] = checksum((path / "metrics.csv").read_bytes())
        folder.write_status(status)
    (row,) = table("runs")
    assert (row["forgetting_mean"], row["forgetting_n"], row["average_accuracy_n"]) == ("nan", "2", "3")
    _, out, _ = gr_report("runs")
    assert "NaN, " in out
    assert "forgetting of seed 0 is NaN" in out and "forgetting of seed 1 has no value, and is left out" in out


def test_jobs_of_a_sweep_that_have_not_started(gr_report):
    path = write_run(Path("outputs/split_digits/finetune"), 0, name="x")
    path = path.rename(path.with_name(f"seed0-{short_hash(result_relevant(CONFIG))}"))
    other = path.with_name(path.name.replace("seed0", "seed7"))
    sweep = Path("outputs/sweeps/0a73b11d")
    sweep.mkdir(parents=True)
    ungrouped = "outputs/split_digits/joint/seed0-00000000"
    identity = short_hash(result_relevant(CONFIG))
    jobs = {str(path): (0, identity), str(other): (7, identity), ungrouped: (0, "00000000")}
    entries = {
        os.path.relpath(name, sweep): {"seed": seed, "config_hash": identity, "overrides": ["a=1"]}
        for name, (seed, identity) in jobs.items()
    }
    (sweep / "sweep.json").write_text(json.dumps({"jobs": entries}))
    for folder in (sweep, "outputs"):
        code, out, _ = gr_report(folder)
        assert code == 0 and "| 1 of 2 |" in out
        assert "seed 7 not run" in out and "not run: 1 job of 1 configuration" in out
        assert out.count(ungrouped) == 1
    with locked(sweep):  # while its command runs
        out = gr_report("outputs")[1]
    assert "seed 7 not started" in out and "not started: 1 job of 1 configuration" in out


def test_runs_of_different_modes_get_a_warning(gr_report):
    write_run(Path("runs"), 0, status={"mode": "alone"})
    write_run(Path("runs"), 1, status={"mode": "batched"})
    assert "mode differs: alone, batched" in gr_report("runs")[1]


# --- comparison


def test_differences_are_of_common_seeds_with_the_baseline(table):
    plain = [write_run(Path("runs"), seed) for seed in range(4)]
    replay = [write_run(Path("runs"), seed, "generative_replay") for seed in (1, 2, 3, 9)]
    first, second = table("runs")
    accuracy = [metric(path, "average_accuracy") for path in plain], [metric(p, "average_accuracy") for p in replay]
    gains = [value - baseline for value, baseline in zip(accuracy[1][:3], accuracy[0][1:], strict=True)]
    assert float(second["difference_mean"]) == pytest.approx(fmean(gains), abs=1e-6)
    half = 4.302653 * stdev(gains) / math.sqrt(3)
    assert float(second["difference_ci95_high"]) == pytest.approx(fmean(gains) + half, abs=1e-5)
    assert (first["difference_n"], second["difference_n"]) == ("0", "3")
    assert second["baseline"] == "strategy=finetune benchmark=split_digits scenario=class"
    first, second = table("runs", "--baseline", "strategy=generative_replay")
    assert float(first["difference_mean"]) == pytest.approx(-fmean(gains), abs=1e-6)


def test_the_baseline_is_the_one_that_agrees_most(table):
    for scenario in ("class", "domain"):
        for iterations in (5, 20):
            write_run(Path("runs"), 0, scenario=scenario, train__iterations=iterations)
        write_run(Path("runs"), 0, "joint", scenario=scenario)
        write_run(Path("runs"), 0, "joint", scenario=scenario, train__iterations=99)
    rows = {
        (r["strategy"], r["scenario"], r["iterations"]): r for r in table("runs", "--baseline", "strategy=finetune")
    }
    assert "scenario=domain iterations=20" in rows["joint", "domain", "20"]["baseline"]
    assert rows["joint", "domain", "99"]["baseline"] == ""  # two are as near


def test_metrics_and_formats(gr_report, table):
    write_run(Path("runs"), 0, "generative_replay", strategy__batch_size=64)
    write_run(Path("runs"), 1, "generative_replay")
    assert "learning_accuracy_mean" in table("runs", "--metrics", "learning_accuracy")[0]
    _, out, _ = gr_report("runs", "--format", "latex")
    assert r"generative\_replay & vae & split\_digits & class & 32 & 1 &" in out and r"\toprule" in out
    assert gr_report("runs", "--output", "a.csv") == gr_report("runs", "--output", "a.tex") == (0, "", "")
    assert len(list(csv.DictReader(Path("a.csv").read_text().splitlines()))) == 2
    assert out == Path("a.tex").read_text()


def test_values_cannot_break_the_table(gr_report):
    write_run(Path("runs"), 0, model__hidden_sizes="a|b")
    write_run(Path("runs"), 0, model__hidden_sizes="a&b")
    assert r"a\|b" in gr_report("runs")[1]
    assert r"a\&b" in gr_report("runs", "--format", "latex")[1]


# --- mistakes


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (["nowhere"], "nowhere: is not a folder"),
        (["empty"], "empty: no run here"),
        (["runs", "--metrics", "forgeting"], "--metrics=forgeting: no such metric; did you mean 'forgetting'"),
        (["runs", "--baseline", "strategi=x"], "must be <column>=<value> .*did you mean 'strategy'"),
        (["runs", "--baseline", "strategy=x"], "--baseline=strategy=x: no such run; strategy is one of finetune"),
        (["runs", "--foo"], "unrecognized arguments: --foo"),
        (["runs", "--html", "-"], "--html=-: must be a name, not standard output"),
        (["runs", "--runs", "--sort", "x", "--html", "empty/a.html"], "--sort=x: rows can't be sorted by it"),
        (["runs", "--output", "nowhere/a.csv"], "nowhere/a.csv: can't be written, there is no folder nowhere"),
        ([], "outputs: is not a folder"),
    ],
)
def test_a_mistake_gets_one_line(gr_report, words, line):
    write_run(Path("runs"))
    Path("empty").mkdir()
    code, out, err = gr_report(*words)
    assert code == 2 and out == ""
    assert re.search(line, err) and err.count("\n") == 1
    assert not list(Path("empty").iterdir()) and not Path("-").exists()


def test_unreadable_runs_are_named_and_left_out(gr_report):
    write_run(Path("runs"), 0)
    spoilt = [write_run(Path("runs"), seed) for seed in range(1, 6)]
    (spoilt[0] / "status.json").write_text("{")
    (spoilt[1] / "config.yaml").write_text("a: [")
    (spoilt[2] / "metrics.csv").unlink()
    (spoilt[3] / "metrics.csv").write_text("metric,value\naverage_accuracy,x\n")
    (spoilt[4] / "config.yaml").write_text("seed: 3\n")
    code, out, err = gr_report("runs")
    assert code == 1 and "| 1 |" in out
    assert len(err.splitlines()) == 5 and all(f"{path}: can't be read (" in err for path in spoilt)


@pytest.mark.parametrize("name", ["config.yaml", "metrics.csv", "timing.csv", "status.json"])
def test_a_run_with_a_changed_digit_is_named_and_left_out(gr_report, name):
    write_run(Path("runs"), 0)
    path = write_run(Path("runs"), 1) / name
    old = {"config.yaml": "lr: 0.001", "metrics.csv": ",0.", "timing.csv": ",500.", "status.json": "seed=1"}[name]
    assert old in path.read_text()
    path.write_text(path.read_text().replace(old, f"{old[:-1]}{'2' if old[-1].isdigit() else '1.'}"))
    code, out, err = gr_report("runs")
    assert code == 1 and "| 1 |" in out
    assert f"{name}: was damaged or changed since the run wrote it" in err


def test_a_history_that_was_changed_is_left_out_of_the_page(gr_report):
    path = write_run(Path("runs"), 0) / "history.csv"
    path.write_text(path.read_text().replace("0.", "1.", 1))
    code, _, err = gr_report("runs", "--html", "page.html")
    assert code == 1 and "history.csv: was damaged or changed since the run wrote it" in err


def test_help_and_reports_import_nothing_heavy():
    heavy = "{'torch', 'matplotlib', 'pandas', 'omegaconf', 'hydra'}"
    write_run(Path("runs"))
    for words, allowed in ((["--help"], "set()"), (["runs"], "{'omegaconf'}")):
        script = (
            f"import sys; sys.argv = ['gr-report', *{words}]; import atexit\n"
            f"atexit.register(lambda: print('heavy:', set(sys.modules) & {heavy} - {allowed}))\n"
            "from gr_cli.report.cli import entry; entry()"
        )
        done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
        assert "heavy: set()" in done.stdout
