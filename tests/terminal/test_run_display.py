"""Output during runs and sweeps, and `gr-report --watch`."""

import csv
import io
import json
import os
import re
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from rich.console import Console

from gr_cli.errors import TrainingError
from gr_cli.report.cli import main
from gr_cli.results.progress import WatchedRun
from gr_cli.strategies.context import TrainingStep
from gr_cli.terminal.run_display import TerminalObserver
from gr_cli.terminal.sweep_progress import SweepProgress
from gr_cli.terminal.watch import WatchTable, watch
from gr_cli.training.stages import ResumePoint
from helpers.processes import start, wait_for_file
from helpers.run_folders import write_run

TINY = ("train.iterations=6", "log.every=3", "strategy=finetune")
WIDTHS = (60, 80, 120)
FOLDER = Path("outputs/split_digits/generative_replay-vae/replay_weight=0.25,lr=0.001-seed3-0123abcd")


def screen(width):
    return Console(file=io.StringIO(), force_terminal=True, width=width, height=24, highlight=False)


def lines_of(console):
    """The output without escape sequences."""
    return re.sub(r"\x1b\[\??[\d;]*[A-Za-z]", "", console.file.getvalue()).replace("\r", "\n").splitlines()


# --- bars of a sweep


@pytest.fixture
def shown(monkeypatch):
    """The last lines of the display of active runs, in the second of five tasks."""
    monkeypatch.setattr("gr_cli.terminal.run_display._UPDATE_SECONDS", -1.0)

    def show(width, progress=None, folders=(FOLDER,)):
        console, settings = screen(width), SimpleNamespace(config={"train": {"batch_size": 64}}, title="a run")
        tasks, device = SimpleNamespace(tasks=range(5)), SimpleNamespace(device="cpu")
        facts = {"settings": settings, "benchmark": tasks, "learner": device, "parameters": {"solver": 3}, "threads": 1}
        terminal = TerminalObserver(console, sweep_progress=progress)
        terminal.started([SimpleNamespace(**facts)] * len(folders), folders, [3000] * 5, ResumePoint(0, 0))
        terminal.stage_started(1, ["T-shirt/top Trouser"] * len(folders))
        losses = {name: torch.ones(len(folders)) for name in ("current", "replayed", "reconstruction", "kl")}
        terminal.stepped(1, TrainingStep(1, 1199, 3000), losses)
        terminal.close()
        return [line.rstrip() for line in lines_of(console) if line.strip()]

    return show


@pytest.mark.parametrize("width", WIDTHS)
def test_the_bars_of_a_sweep_fit_in_the_console(shown, width):
    all_runs, run = shown(width, SweepProgress(total=12, ended=3, failed=1, trained_jobs=2.0))[-2:]
    assert max(len(all_runs), len(run)) <= width
    assert re.search(r"^all runs +1 failed +\S+ +3/12 +\d+:\d\d$", all_runs.replace("╸━", "━━").replace("╺", "━"))
    assert "lr=0.001-seed3" in run and "0123abcd" not in run
    assert "1/5 tasks" in run and "1,200/3,000" in run and "━" in run
    assert ("task 1 (T-shirt/top Trouser)" in run) == (width == 120)


@pytest.mark.parametrize("width", WIDTHS)
def test_the_bar_of_a_single_run_fits_in_the_console(shown, width):
    run = shown(width)[-1]
    assert len(run) <= width and "…" not in run
    assert run.startswith("1/5 tasks") and "1,200/3,000" in run and "━" in run
    assert ("current 1.000" in run) == (width > 120)


def test_losses_are_shown_on_a_wide_console(shown):
    assert "current 1.000  replayed 1.000  reconstruction 1.000  kl 1.000" in shown(180)[-1]


def test_runs_of_one_program_share_a_bar(shown):
    last = shown(80, SweepProgress(total=12, ended=3), [FOLDER, FOLDER, FOLDER])
    assert sum("3 runs as one" in line for line in last[-2:]) == 1
    assert "3/12" in last[-2]


def test_no_color_is_respected(monkeypatch):
    monkeypatch.setenv("NO_COLOR", "1")
    console = screen(80)
    with WatchTable(console) as board:
        board.show("1 failed", [WatchedRun(FOLDER, "failed", {}, name="a run")])
    assert not re.search(r"\x1b\[3\d", console.file.getvalue())


def test_the_time_left_is_estimated_from_the_trained_jobs(monkeypatch):
    clock = iter([100.0, 130.0])
    monkeypatch.setattr("gr_cli.terminal.sweep_progress.monotonic", lambda: next(clock))
    progress = SweepProgress(total=10)
    assert progress.seconds_left(0.0) is None
    progress.count([0.5, 0.5])  # finished before the sweep: they took no time
    progress.start_timing()
    progress.trained_jobs = 2.0
    progress.count([0.5])
    assert progress.seconds_left(1.0) == 30.0 / 2 * 6


# --- sweeps without a terminal


def test_without_a_terminal_each_run_of_a_sweep_has_a_line(gr_run):
    argv = ("-m", *TINY, "optimizer=sgd", "optimizer.lr=0.1,1e30")
    code, out, err = gr_run(*argv)
    assert code == 1 and "\x1b" not in out
    assert re.findall(r"^(\d of \d): finetune", out, re.MULTILINE) == ["1 of 2", "2 of 2"]
    assert len(re.findall(r"^finished, +[\d.]+ %: outputs/", out, re.MULTILINE)) == 1
    assert "average accuracy" not in out and "results:" not in out
    assert ": loss `current` is nan" in err.splitlines()[0]
    code, out, _ = gr_run(*argv)
    assert out.splitlines()[0].startswith("finished before, ") and "after task" not in out


def test_a_matrix_wider_than_the_console_is_left_out(gr_run):
    argv = ("benchmark=permuted_digits", "benchmark.tasks=21", "strategy=finetune", "train.iterations=1", "threads=1")
    code, out, _ = gr_run(*argv, "model.hidden_sizes=[4]", "evaluate.samples=10")
    assert code == 0
    (status,) = Path("outputs").glob("*/*/*/status.json")
    with (status.parent / "accuracy_matrix.csv").open(newline="") as file:
        *_, last = ([float(value) for value in row[1:]] for row in list(csv.reader(file))[1:])
    mean = 100 * sum(last) / 21
    line = f"after task 20 (permutation 20): {100 * last[-1]:.1f} %, mean of tasks 0 to 20: {mean:.1f} %"
    assert line in out.splitlines()
    assert "task 19" not in out.rpartition(line)[2] and "average accuracy" in out  # the matrix is too wide


def test_a_failure_in_a_program_is_printed_once_with_its_folder(gr_run):
    argv = ("train.iterations=40", "log.every=5", "optimizer=sgd", "optimizer.lr=0.01,1e30,0.02")
    code, out, err = gr_run("-m", *argv, "hydra/launcher=batched", "hydra.launcher.width=3")
    assert code == 1
    assert "1 to 3 of 3: 3 runs as one program" in out
    failures = [line for line in err.splitlines() if "is nan" in line or "is inf" in line]
    assert len(failures) == 1 and "lr=1e+30-seed0-" in failures[0]
    assert len(re.findall(r"^finished, +[\d.]+ %: outputs/", out, re.MULTILINE)) == 2


def test_a_failure_is_printed_at_once(capsys):
    TerminalObserver(screen(80), sweep_progress=SweepProgress(total=2)).failed(FOLDER, TrainingError("loss is nan"))
    assert capsys.readouterr().err == f"gr-run: {FOLDER}: loss is nan\n"


def test_a_run_names_its_folder_and_a_verification_does_not_name_its_temporary_one(gr_run):
    lines = gr_run(*TINY)[1].splitlines()
    (status,) = Path("outputs").glob("*/*/*/status.json")
    assert lines[-3:] == ["results:", str(status.parent), "compare runs: gr-report outputs/split_digits"]
    code, out, _ = gr_run(f"verify={status.parent}")
    assert code == 0 and "average accuracy" in out
    assert "results:" not in out and "gr-verify" not in out


# --- runs of other processes


class Record:
    """A display that records what it is shown."""

    def __init__(self):
        self.seen = []

    def show(self, summary, runs):
        self.seen.append((summary, runs))


def test_a_sweep_is_watched_to_its_end():
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    sweep = start("-m", "strategy=finetune", "train.iterations=150", "seed=0,1", **quiet)
    record = Record()
    code = watch([wait_for_file("outputs/sweeps/*/sweep.json", sweep)[0].parent], record, poll_seconds=0.05)
    assert sweep.wait() == 0 and code == 0
    states = [[run.state for run in runs] for _, runs in record.seen]
    assert ["running", "waiting"] in states and ["running", "finished"] in states
    assert states[-1] == ["finished", "finished"] and record.seen[-1][0] == "2 finished"
    running = [run for _, runs in record.seen for run in runs if run.state == "running" and run.progress]
    tasks = [run.progress["tasks_learned"] for run in running if run.name.endswith("seed0")]
    assert tasks == sorted(tasks) and len(set(tasks)) > 1  # updated at each task, not only with each heartbeat
    assert any(run.seconds_left is not None for run in running)
    for run in record.seen[-1][1]:
        at = run.progress
        assert (at["tasks_learned"], at["tasks"], at["iteration"], at["done"], at["total"]) == (5, 5, 150, 750, 750)
        assert run.accuracy is not None and 0 < run.accuracy < 1 and run.seconds > 0 and run.seconds_left is None


def test_a_running_state_without_a_lock_is_a_killed_run(made, capsys):
    """Its status is `running`, and no process has locked its folder."""
    path = made(*TINY, at=(0, 1)) / "status.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"state": "running", "reason": None}))
    assert main(["--watch", "outputs"]) == 1
    first, killed = capsys.readouterr().out.splitlines()
    assert first == "1 killed" and killed.startswith("killed, 0/5 tasks: outputs/split_digits/finetune/")


def test_jobs_of_an_ended_sweep_without_a_folder_are_not_started(capsys):
    path = write_run(Path("outputs/split_digits/finetune"))
    home = Path("outputs/sweeps/0123abcd")
    home.mkdir(parents=True)
    folders = (path, path.with_name("seed1-89abcdef"))
    jobs = {
        os.path.relpath(folder, home): {"seed": seed, "config_hash": "89abcdef", "overrides": [f"seed={seed}"]}
        for seed, folder in enumerate(folders)
    }
    (home / "sweep.json").write_text(json.dumps({"jobs": jobs}))
    assert main(["--watch", "outputs"]) == 1
    assert capsys.readouterr().out == "1 finished · 1 not started\n"


@pytest.mark.parametrize(("state", "code"), [("finished", 0), ("failed", 1), ("interrupted", 1)])
def test_the_exit_code_is_0_if_all_runs_are_finished(state, code, capsys):
    write_run(Path("outputs"), seed=0)
    path = write_run(Path("outputs"), seed=1, state=state, status={"reason": "it\nbroke"})
    assert main(["--watch"]) == code
    assert (f"{state}, (it broke): {path}" in capsys.readouterr().out) == (state != "finished")


def test_each_change_is_a_line(capsys, monkeypatch):
    """A run of another machine, whose status.json is recent, changes between two polls."""
    path = write_run(Path("outputs"), state="running")
    (path / "metrics.csv").write_text("metric,value\n")
    status = json.loads((path / "status.json").read_text())
    states = iter([("running", 1), ("running", 1), ("running", 2), ("finished", 3)])

    def go_on(_):
        state, task = next(states)
        at = {"tasks_learned": task, "tasks": 3, "iteration": 0, "iterations": 9, "done": 9 * task, "total": 27}
        now = time.strftime("%Y-%m-%dT%H:%M:%S+00:00", time.gmtime())
        (path / "status.json").write_text(
            json.dumps({**status, "state": state, "progress": at, "updated": now, "seconds": 5.0})
        )

    go_on(None)
    monkeypatch.setattr("gr_cli.terminal.watch.time.sleep", go_on)
    assert main(["--watch"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines == ["1 running", f"running, 1/3 tasks: {path}", f"running, 2/3 tasks: {path}", f"finished: {path}"]


def test_ctrl_c_while_watching_has_exit_code_0(monkeypatch):
    def leave(_):
        raise KeyboardInterrupt

    monkeypatch.setattr("gr_cli.results.progress.RunFolder.state", lambda _: "running")
    monkeypatch.setattr("gr_cli.terminal.watch.time.sleep", leave)
    write_run(Path("outputs"), state="running")
    assert main(["--watch"]) == 0


def test_missing_folders_are_waited_for(capsys, monkeypatch):
    """First there is no folder, then an empty one, then a run in it, then a run in a second folder."""
    steps = iter(
        [
            lambda: None,
            lambda: Path("later").mkdir(),
            lambda: write_run(Path("later")),
            lambda: write_run(Path("typo"), name="a-run", accuracy=0.5),
        ]
    )
    monkeypatch.setattr("gr_cli.terminal.watch.time.sleep", lambda _: next(steps)())
    assert main(["--watch", "later"]) == 0
    out, err = capsys.readouterr()
    assert out == "1 finished\n"
    assert err.splitlines() == [
        "gr-report: waiting for later: no such folder yet",
        "gr-report: waiting for later: no run there yet",
    ]
    assert main(["--watch", "later", "typo"]) == 0
    out, err = capsys.readouterr()
    assert (
        out == "1 finished\nfinished, 50.0 %: typo/a-run\n"
        and err == "gr-report: waiting for typo: no such folder yet\n"
    )


def test_ctrl_c_before_there_is_a_run_has_exit_code_130(capsys, monkeypatch):
    def leave(_):
        raise KeyboardInterrupt

    monkeypatch.setattr("gr_cli.terminal.watch.time.sleep", leave)
    assert main(["--watch", "typo"]) == 130
    lines = ["gr-report: waiting for typo: no such folder yet", "gr-report: interrupted"]
    assert capsys.readouterr().err.splitlines() == lines


def test_watch_refuses_other_options(capsys):
    write_run(Path("outputs"))
    assert main(["--watch", "--format", "csv"]) == 2
    assert capsys.readouterr().err == (
        "gr-report: --watch=outputs: can't be combined with other options: remove --format; "
        "make the report when the runs are over\n"
    )


@pytest.mark.parametrize("width", WIDTHS)
def test_the_watch_table_fits_in_the_console(width):
    console = screen(width)
    at = {"tasks_learned": 12, "tasks": 20, "iteration": 1200, "iterations": 3000, "done": 1200, "total": 15000}
    runs = [
        WatchedRun(FOLDER, "running", at, 0.5, 100.0, 1150.0, name=f"generative_replay-vae/lr=0.00{i}-seed{i}")
        for i in range(40)
    ]
    runs.append(WatchedRun(FOLDER, "failed", at, reason="loss is nan " * 20, name="seed7"))
    with WatchTable(console) as board:
        board.show("40 running · 1 failed", runs)
    lines = [line.rstrip() for line in lines_of(console) if line.strip()]
    lines = lines[-lines[::-1].index("40 running · 1 failed") - 1 :]  # the last frame
    assert max(map(len, lines)) <= width and len(lines) < 24
    assert lines[1].startswith("run")
    assert all(part in lines[2] for part in ("lr=0.000-seed0", "running", "50.0 %", "19:10"))
    assert ("1,200/3,000" in lines[2]) == (width > 60)
    assert lines[-2].startswith("and ") and lines[-1].startswith("seed7: loss is nan")


def test_watching_does_not_import_torch():
    modules = "gr_cli.terminal.run_display, gr_cli.terminal.watch, gr_cli.report.cli"
    script = f"import sys, {modules}; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", script], check=True)
