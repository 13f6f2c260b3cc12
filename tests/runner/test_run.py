"""Whole runs, through the functions behind the command line."""

import json
import os
import signal
import time
from itertools import count
from pathlib import Path

import pandas as pd
import pytest
import torch

from gr_cli import load_run
from gr_cli.errors import FolderError
from gr_cli.evaluation.measures.accuracy import Accuracy
from gr_cli.evaluation.measures.sample_quality import SampleQuality
from gr_cli.results.folder import RunFolder
from gr_cli.results.stored_config import stored_settings
from gr_cli.runner import run as runner
from gr_cli.runner.stored_result import stored_result
from gr_cli.system.energy import EnergyMeter
from gr_cli.training.observer import RunObserver
from helpers.interruption import csvs, only_run

SHORT = (
    "train.iterations=12", "log.every=4", "strategy.generator_update_freq=2", "evaluate.generated_samples=0",
    "threads=1",
    "model.hidden_sizes=[16]", "generator.hidden_dims=[16]",
)  # fmt: skip


@pytest.fixture
def run(gr_run, tmp_path, monkeypatch):
    """A function that runs the command line in a new directory and returns the run's folder."""

    def call(directory: str, *words: str) -> Path:
        home = tmp_path / directory
        home.mkdir(exist_ok=True)
        monkeypatch.chdir(home)
        code, _, err = gr_run(*SHORT, *words)
        assert code == 0, err
        return home / only_run()

    return call


@pytest.mark.usefixtures("pictures")
def test_what_a_run_leaves(run):
    folder = run("a", "evaluate.generated_samples=20")
    assert {path.name for path in folder.iterdir()} == {
        *RunFolder(folder).result_files(), "timing.csv", "tables.json", "config.yaml", "status.json", "checkpoint.pt",
        "figures", ".lock",
    }  # fmt: skip
    matrix = pd.read_csv(folder / "accuracy_matrix.csv")
    assert list(matrix) == ["after_task", *(f"task_{i}" for i in range(5))]
    assert matrix["after_task"].tolist() == [0, 1, 2, 3, 4]
    assert (folder / "accuracy_matrix.csv").read_text().splitlines()[1].split(",")[1].count("0") <= 6
    evaluations = pd.read_csv(folder / "evaluations.csv")
    assert sorted(evaluations["after_task"].unique()) == [-1, 0, 1, 2, 3, 4]
    assert len(evaluations) == 6 * 5
    assert evaluations["n"].sum() == 6 * 355
    last = evaluations[evaluations["after_task"] == 4].set_index("task")["accuracy"]
    assert last.tolist() == matrix.iloc[-1, 1:].tolist()
    unseen = evaluations[(evaluations["after_task"] == 0) & (evaluations["task"] > 0)]
    assert (unseen["accuracy"] == 0).all()
    assert unseen["loss"].isna().all()
    history = pd.read_csv(folder / "history.csv")
    assert history["iteration"].tolist() == [4, 8, 12] * 5
    assert history["replay"].notna().tolist() == [False] * 3 + [True] * 12
    metrics = pd.read_csv(folder / "metrics.csv").set_index("metric")["value"]
    assert metrics["average_accuracy"] == pytest.approx(matrix.iloc[-1, 1:].mean(), abs=1e-6)
    assert pd.isna(metrics["forward_transfer"])
    assert metrics["parameters_solver"] == 64 * 16 + 16 + 16 * 10 + 10
    status = json.loads((folder / "status.json").read_text())
    assert status["state"] == "finished"
    assert status["stores_raw_samples"] is False
    assert status["seed"] == 0
    assert status["versions"]["torch"] == torch.__version__
    pictures = {path.name for path in (folder / "figures").iterdir()}
    assert pictures == {
        "accuracy_matrix.png",
        "accuracy_curves.png",
        *(f"samples_task_{i}.png" for i in range(5)),
    }
    assert all((folder / "figures" / name).read_bytes()[:4] == b"\x89PNG" for name in pictures)


@pytest.mark.usefixtures("pictures")
def test_every_file_of_a_finished_run_reached_the_disk(run, monkeypatch):
    """Tables are flushed at the end: before, checkpoints hold their content."""
    flushed = []
    monkeypatch.setattr(os, "fsync", lambda number: flushed.append(os.fstat(number).st_ino))
    folder = run("a")
    files = {path.stat().st_ino: path.name for path in folder.rglob("*") if path.is_file() and path.name != ".lock"}
    assert {files[number] for number in flushed if number in files} == set(files.values())
    assert len(flushed) < 3 * len(files)  # 5 tasks, and nearly all files are written after each


def test_same_seed_same_bytes_and_another_seed_others(run):
    first, second, other = run("a", "seed=0"), run("b", "seed=0"), run("c", "seed=1")
    assert csvs(first) == csvs(second)
    assert all(csvs(first)[name] != csvs(other)[name] for name in ("evaluations.csv", "history.csv"))


def test_seed_zero_is_a_seed(run, made):
    assert csvs(made(*SHORT)) == csvs(run("b", "seed=0"))


def test_evaluation_does_not_touch_training(run, made):
    plain, watched = made(*SHORT).absolute(), run("b", "evaluate.every=5")
    assert (plain / "accuracy_matrix.csv").read_bytes() == (watched / "accuracy_matrix.csv").read_bytes()
    assert (plain / "history.csv").read_bytes() == (watched / "history.csv").read_bytes()
    within = pd.read_csv(watched / "evaluations.csv")
    assert within[within["after_task"] == 2]["iteration"].unique().tolist() == [5, 10, 12]


@pytest.mark.parametrize("strategy", ["generative_replay", "finetune", "joint"])
@pytest.mark.parametrize("scenario", ["class", "domain", "task"])
def test_every_strategy_in_every_scenario(gr_run, strategy, scenario):
    code, _, err = gr_run(*SHORT[3:5], "train.iterations=5", f"strategy={strategy}", f"scenario={scenario}")
    assert code == 0, err
    matrix = pd.read_csv(only_run() / "accuracy_matrix.csv")
    assert len(matrix) == (1 if strategy == "joint" else 5)
    metrics = pd.read_csv(only_run() / "metrics.csv").set_index("metric")["value"]
    assert pd.isna(metrics["forward_transfer"]) == (scenario == "class" or strategy == "joint")


def test_joint_trains_once_with_the_whole_budget(gr_run):
    gr_run("strategy=joint", "train.iterations=4", "log.every=5")
    history = pd.read_csv(only_run() / "history.csv")
    assert history["iteration"].tolist() == [5, 10, 15, 20]
    assert pd.read_csv(only_run() / "metrics.csv")["metric"].tolist()[-1] == "parameters_solver"


def test_epochs_become_iterations_of_a_task_of_mean_size(gr_run):
    gr_run("strategy=finetune", "train.iterations=null", "train.epochs=2", "log.every=1")
    history = pd.read_csv(only_run() / "history.csv")
    per_task = -(-2 * (1442 / 5) // 32)
    assert history.groupby("task")["iteration"].max().tolist() == [per_task] * 5


def test_a_validation_share_gives_a_score_that_is_not_the_test_accuracy(run):
    folder = run("a", "benchmark.validation_share=0.2")
    evaluations = pd.read_csv(folder / "evaluations.csv")
    assert set(evaluations["split"]) == {"test", "validation"}
    result = stored_result(stored_settings(folder), RunFolder(folder))
    last = evaluations[(evaluations["after_task"] == 4) & (evaluations["split"] == "validation")]
    assert result.value("validation_average_accuracy") == pytest.approx(last["accuracy"].mean(), abs=1e-6)
    other = run("b")
    assert stored_result(stored_settings(other), RunFolder(other)).value("validation_average_accuracy") is None


STOPS = [
    *(((stage, step), word) for stage, step in [(0, 4), (2, 0), (2, 7), (3, 11), (4, 11)]
      for word in ("log.every=4", "log.every=5")),  # 5 leaves a row open at the end of each task
    ((1, 14), "strategy.generator_training=after"),  # the solver has its 12 steps, the generator is at its third
    ((3, 17), "strategy.generator_training=after"),
    ((2, 7), "strategy.task_balanced=false"),
]  # fmt: skip


@pytest.mark.parametrize(("at", "word"), STOPS)
def test_an_interrupted_run_resumes_to_the_same_bytes(made, gr_run, interrupted, monkeypatch, at, word):
    short = (*SHORT, word)
    expected = csvs(made(*short))
    Path("broken").mkdir()
    monkeypatch.chdir("broken")
    assert "resume=" in interrupted(*short, at=at)
    assert json.loads((only_run() / "status.json").read_text())["state"] == "interrupted"
    code, out, _ = gr_run(f"resume={only_run()}") if at[0] % 2 else gr_run(*short)
    assert code == 0
    assert "resumed after" in out
    assert csvs(only_run()) == expected


@pytest.mark.parametrize(
    ("where", "look", "turn"),
    [
        (Accuracy, "rows", 0),
        (Accuracy, "rows", 3),
        (Accuracy, "rows", 4),
        (SampleQuality, "rows", 1),
        (runner, "draw_samples", 1),
    ],
)
def test_a_long_evaluation_is_aborted_and_repeated(made, gr_run, monkeypatch, where, look, turn):
    """Before training, within a task, at its end: a stop request comes during an endless evaluation."""
    words = ("evaluate.every=8", "benchmark.classes_per_task=5", "evaluate.generated_samples=10")
    expected = csvs(made(*SHORT, *words))
    Path("broken").mkdir()
    monkeypatch.chdir("broken")
    original, calls = getattr(where, look), count()

    def endless(*args, **kwargs):
        if next(calls) == turn:
            os.kill(os.getpid(), signal.SIGINT)
            while True:
                time.sleep(0.01)
        return original(*args, **kwargs)

    with monkeypatch.context() as patch:
        patch.setattr("gr_cli.runner.step_monitor.GRACE_SECONDS", 0.1)
        patch.setattr(where, look, endless)
        assert gr_run(*SHORT, *words)[0] == 130
    assert json.loads((only_run() / "status.json").read_text())["state"] == "interrupted"
    code, _, err = gr_run(f"resume={only_run()}")
    assert code == 0, err
    assert csvs(only_run()) == expected


def test_checkpoints_are_saved_by_time_and_a_killed_run_resumes_from_the_last(made, gr_run, monkeypatch):
    expected = csvs(made(*SHORT))
    home = Path.cwd() / "killed"
    home.mkdir()
    monkeypatch.chdir(home)

    class Killed(BaseException):
        """A BaseException, which is not handled as a failure of an observer."""

    class Kill(RunObserver):
        def stepped(self, number, position, losses):
            if (number, position.iteration) == (2, 8):
                raise Killed

    monkeypatch.setattr("gr_cli.terminal.run_display.TerminalObserver", lambda **_: Kill())
    monkeypatch.setattr("gr_cli.runner.step_monitor._MIN_TRAINING_PER_SAVING", 0)
    with pytest.raises(Killed):
        gr_run(*SHORT, "checkpoint.every_seconds=1e-9")
    saved = RunFolder(only_run()).load_checkpoint()
    assert (saved["stage"], saved["iteration"]) == (2, 8)
    monkeypatch.undo()
    monkeypatch.chdir(home)
    assert gr_run(*SHORT)[0] == 0
    assert csvs(only_run()) == expected


def test_a_finished_run_is_shown_and_not_repeated(made, gr_run):
    folder = made(*SHORT)
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*")}
    code, out, _ = gr_run(*SHORT)
    assert code == 0
    assert "finished before" in out
    assert {path: path.stat().st_mtime_ns for path in folder.rglob("*")} == before
    # The same configuration with other overrides is the same run.
    assert "finished before" in gr_run(*SHORT, "strategy.replay_weight=1.0")[1]
    gr_run(*SHORT, "fresh=true")
    assert {path.name for path in folder.parent.iterdir()} == {folder.name, f"{folder.name}-2"}


def test_a_folder_in_use_is_refused(made, gr_run):
    folder = made(*SHORT)
    (folder / "status.json").unlink()
    (folder / "checkpoint.pt").unlink()
    with RunFolder(folder).locked():
        code, _, err = gr_run(*SHORT)
    assert code == 2
    assert "another process" in err


def test_a_loss_that_is_not_a_number_fails_the_run(gr_run):
    code, _, err = gr_run("optimizer=sgd", "optimizer.lr=1e30", "strategy=finetune", "train.iterations=50")
    assert code == 1
    assert "loss `current` is" in err
    assert "try a lower optimizer.lr" in err
    assert err.count("\n") == 1
    status = json.loads((only_run() / "status.json").read_text())
    assert status["state"] == "failed"
    assert "optimizer.lr" in status["reason"]


def test_a_run_that_diverges_between_rows_of_the_history_fails(gr_run):
    words = ("optimizer=sgd", "optimizer.lr=1e30", "strategy=finetune", "train.iterations=5", "log.every=1000")
    code, _, err = gr_run(*words)
    assert code == 1
    assert "loss `current` is" in err


def test_a_run_that_runs_out_of_memory_fails_in_one_line(gr_run, monkeypatch):
    def step(*_):
        raise RuntimeError("[enforce fail at x.cpp:1] DefaultCPUAllocator: can't allocate memory: you tried to ...")

    monkeypatch.setattr("gr_cli.training.learner.Learner.step", step)
    code, _, err = gr_run(*SHORT)
    assert code == 1
    assert err.startswith("gr-run: out of memory (can't allocate memory: you tried to ...)")
    assert err.count("\n") == 1
    assert json.loads((only_run() / "status.json").read_text())["state"] == "failed"


def test_temporary_files_of_a_killed_process_are_removed(made, gr_run):
    folder = made(*SHORT)
    (folder / "status.json").unlink()
    (folder / ".checkpoint.pt.123.tmp").write_bytes(b"raw samples")
    assert gr_run(*SHORT)[0] == 0
    assert not list(folder.glob(".*.tmp"))


def test_numbers_that_are_equal_are_the_same_run(run, gr_run):
    run("a", "strategy.replay_weight=2")
    assert "finished before" in gr_run(*SHORT, "strategy.replay_weight=2.0")[1]


def test_a_disk_that_is_full_fails_the_run_and_damages_nothing(made, gr_run, monkeypatch):
    expected = csvs(made(*SHORT))
    home = Path.cwd() / "full"
    home.mkdir()
    monkeypatch.chdir(home)
    import os as system

    written, real = [], system.replace

    def replace(source, target):
        written.append(target)
        if len(written) > 25:
            raise OSError(28, "No space left on device")
        return real(source, target)

    monkeypatch.setattr("gr_cli.system.files.os.replace", replace)
    code, _, err = gr_run(*SHORT)
    assert code == 1
    assert "No space left on device" in err
    assert err.count("\n") == 1
    assert not list(only_run().glob(".*.tmp"))
    monkeypatch.setattr("gr_cli.system.files.os.replace", real)
    assert gr_run(*SHORT)[0] == 0
    assert csvs(only_run()) == expected


def test_load_run_gives_the_networks_back(gr_run):
    words = ("model=cnn", "model.channels=[4,4]", "generator=conv_vae", "generator.hidden_dims=[4,8]")
    assert gr_run(*SHORT[:-2], *words)[0] == 0
    folder = only_run()
    loaded = load_run(folder)
    assert loaded.generator.generate(3).shape == (3, 1, 8, 8)
    expected = pd.read_csv(folder / "accuracy_matrix.csv").iloc[:, 1:].to_numpy().tolist()
    assert loaded.matrix.to_numpy().tolist() == expected
    assert loaded.config["model"]["channels"] == [4, 4]
    from gr_cli.benchmarks import Digits

    x, y = Digits().load().test.batch(torch.arange(len(Digits().load().test)))
    accuracy = (loaded.solver(x).argmax(1) == y).float().mean().item()
    evaluations = pd.read_csv(folder / "evaluations.csv")
    last = evaluations[evaluations["after_task"] == 4]
    assert accuracy == pytest.approx((last["accuracy"] * last["n"]).sum() / last["n"].sum(), abs=1e-4)
    with pytest.raises(FolderError, match="is not the folder of a run"):
        load_run("nowhere")


def test_a_task_that_was_continued_has_no_energy(gr_run, interrupted, monkeypatch):
    monkeypatch.setattr(EnergyMeter, "read", lambda self: {"cpu_energy_joules": 6.0})
    interrupted(*SHORT, at=(1, 4))
    assert gr_run(f"resume={only_run()}")[0] == 0
    energy = pd.read_csv(only_run() / "timing.csv")["cpu_energy_joules"]
    assert energy.isna().tolist() == [False, True, False, False, False] and (energy.dropna() == 6).all()
