"""Searches with `hydra/sweeper=optuna`: trials, resuming, pruning, failures, results."""

import csv
import json
import shlex
import shutil
import signal
from pathlib import Path
from statistics import fmean

import pytest
import yaml

import gr_cli
from gr_cli.results.discovery import discover_runs
from gr_cli.results.folder import RunFolder
from gr_cli.results.manifest import read_manifest
from helpers.extras import needs_optuna
from helpers.processes import start, wait_for
from helpers.situations import TINY

pytestmark = needs_optuna
SEARCH = ("-m", "hydra/sweeper=optuna", *TINY, "benchmark.validation_share=0.2")
LR = "optimizer.lr=tag(log,interval(1e-4,1e-1))"


def sweep_folder():
    (folder,) = Path("outputs/sweeps").iterdir()
    return folder


def trials():
    with (sweep_folder() / "trials.csv").open(encoding="utf-8") as file:
        return list(csv.DictReader(file))


def validation_accuracy(folder):
    """The mean validation accuracy over tasks after the last training, from evaluations.csv."""
    with (Path(folder) / "evaluations.csv").open(encoding="utf-8") as file:
        rows = [row for row in csv.DictReader(file) if row["split"] == "validation"]
    last = [float(row["accuracy"]) for row in rows if row["after_task"] == rows[-1]["after_task"]]
    return sum(last) / len(last)


def test_a_search_tells_the_objective_and_repeats_its_best_trial(gr_run):
    code, out, err = gr_run(*SEARCH, LR, "hydra.sweeper.n_trials=4")
    assert (code, err) == (0, "")
    rows = trials()
    assert [row["trial"] for row in rows] == ["0", "1", "2", "3"] and {row["state"] for row in rows} == {"finished"}
    values = [float(row["validation_average_accuracy"]) for row in rows]
    assert values == pytest.approx([validation_accuracy(row["runs"]) for row in rows], abs=2e-6)
    best = yaml.safe_load((sweep_folder() / "best.yaml").read_text(encoding="utf-8"))
    assert best["value"] == pytest.approx(max(values), abs=1e-6) and best["trial"] == values.index(max(values))
    assert best["settings"] == {"optimizer.lr": float(rows[best["trial"]]["optimizer.lr"])}
    assert best["command"] in out and best["final"] in out
    assert [str(job.path) for job in read_manifest(sweep_folder())] == [row["runs"] for row in rows]
    code, out, _ = gr_run(*shlex.split(best["command"])[1:])
    assert code == 0 and "finished before" in out
    assert "benchmark.validation_share" not in best["final"] and "seed=range(1,6)" in best["final"]


def test_the_same_command_repeats_nothing_and_more_trials_continue(gr_run):
    words = (*SEARCH, LR, "hydra.sweeper.startup_trials=2")
    assert gr_run(*words, "hydra.sweeper.n_trials=5")[0] == 0
    five = trials()
    shutil.rmtree("outputs")
    assert gr_run(*words, "hydra.sweeper.n_trials=3")[0] == 0
    code, out, _ = gr_run(*words, "hydra.sweeper.n_trials=5")
    assert code == 0 and "3 of 5 trials have ended before" in out
    assert trials() == five
    code, out, _ = gr_run(*words, "hydra.sweeper.n_trials=5")
    assert code == 0 and "finished" in out and "task 0" not in out


@pytest.mark.parametrize("sampler", ["tpe", "random", "cmaes", "grid"])
def test_a_killed_search_continues_with_the_same_trials(gr_run, monkeypatch, sampler):
    space = ("train.batch_size=range(16,33,8)", "optimizer.lr=range(0.01,0.05,0.01)")
    words = (*SEARCH, *space, f"hydra.sweeper.sampler={sampler}", "hydra.sweeper.n_trials=6",
             "hydra.sweeper.n_jobs=3", "hydra.sweeper.startup_trials=2")  # fmt: skip
    assert gr_run(*words)[0] == 0
    undisturbed = trials()
    shutil.rmtree("outputs")
    from gr_cli.cli.sweepers.study import SearchStudy

    tell, ended = SearchStudy.tell, []

    def killed(study, trial, runs):
        if len(ended) == 4:
            raise KeyboardInterrupt
        ended.append(trial.number)
        tell(study, trial, runs)

    with monkeypatch.context() as patch:
        patch.setattr(SearchStudy, "tell", killed)
        assert gr_run(*words)[0] == 130
    assert [row["state"] for row in trials()] == ["finished"] * 4 + ["unfinished"] * 2
    journal = sweep_folder() / "study.journal"
    with journal.open("ab") as file:
        file.write(b'{"op_code":')  # a line that was not written to its end
    journal.with_name("study.journal.lock").touch()
    assert gr_run(*words)[0] == 0
    assert trials() == undisturbed


def test_a_search_that_is_killed_while_it_asks_continues(gr_run, monkeypatch):
    """No trial is stored without its values."""
    from optuna.trial import Trial

    words = (*SEARCH, LR, "train.batch_size=16,32", "hydra.sweeper.n_trials=3")
    assert gr_run(*words)[0] == 0
    undisturbed = trials()
    shutil.rmtree("outputs")
    suggest, names = Trial._suggest, []

    def killed(trial, name, distribution):
        names.append(name)
        if len(names) == 4:  # the second value of the second trial
            raise KeyboardInterrupt
        return suggest(trial, name, distribution)

    with monkeypatch.context() as patch:
        patch.setattr(Trial, "_suggest", killed)
        assert gr_run(*words)[0] == 130
    assert gr_run(*words)[0] == 0
    assert trials() == undisturbed


def test_a_pruned_run_stays_pruned_if_its_batch_is_launched_again(gr_run, monkeypatch):
    """A run that learns nothing in task 0 is above a lower limit after task 1."""
    words = (*SEARCH, *PRUNED, "hydra.sweeper.n_jobs=2")
    assert gr_run(*words)[0] == 0
    undisturbed = trials()
    shutil.rmtree("outputs")
    from gr_cli.cli.sweepers.study import SearchStudy

    tell = SearchStudy.tell

    def killed(study, trial, runs):
        if trial.number == 2:
            raise KeyboardInterrupt
        tell(study, trial, runs)

    with monkeypatch.context() as patch:
        patch.setattr(SearchStudy, "tell", killed)
        assert gr_run(*words)[0] == 130
    code, _, err = gr_run(*words)
    assert code == 0 and "pruned after task 0" in err
    assert trials() == undisturbed
    assert RunFolder(Path(trials()[2]["runs"])).status()["progress"]["tasks_learned"] == 1


@pytest.mark.parametrize(
    "change", ["log.every=5", "train.iterations=4", "objective=validation_learning_accuracy", "seed=1"]
)
def test_a_folder_is_not_continued_with_other_runs(gr_run, change):
    words = (*SEARCH, LR, "hydra.sweeper.n_trials=1", "hydra.sweep.dir=search")
    assert gr_run(*words)[0] == 0
    code, _, err = gr_run(*words, change)
    assert code == (0 if "log" in change else 2) and err.count("has a search with another value of") == (code == 2)


def test_the_commands_of_a_search_by_a_preset_run(gr_run):
    Path("own/preset").mkdir(parents=True)
    Path("own/preset/mine.yaml").write_text(
        "# @package _global_\nhydra:\n  sweeper:\n    params: {optimizer.lr: 'interval(0.1,1)', seed: '0,1'}\n",
        encoding="utf-8",
    )
    assert gr_run("--config-dir", "own", *SEARCH, "preset=mine", "hydra.sweeper.n_trials=1")[0] == 0
    best = yaml.safe_load((sweep_folder() / "best.yaml").read_text(encoding="utf-8"))
    code, out, err = gr_run(*shlex.split(best["command"])[1:])
    assert (code, err) == (0, "") and out.count("finished before") == 2
    code, out, err = gr_run(*shlex.split(best["final"])[1:])
    assert (code, err) == (0, "") and "5 of 5" in out


def test_ctrl_c_saves_the_run_and_the_same_command_continues(gr_run):
    words = ("-m", "hydra/sweeper=optuna", "strategy=finetune", "model.hidden_sizes=[8]", "threads=1",
             "benchmark.validation_share=0.2", "train.iterations=60", LR, "hydra.sweeper.n_trials=2")  # fmt: skip
    search = start(*words)
    wait_for(lambda: list(Path("outputs").glob("*/*/*/checkpoint.pt")), search)
    search.send_signal(signal.SIGINT)
    _, err = search.communicate()
    assert search.returncode == 130 and "Traceback" not in err
    code, _, err = gr_run(*words)
    assert code == 0, err
    assert [row["state"] for row in trials()] == ["finished"] * 2


@pytest.mark.parametrize("launcher", [(), ("hydra/launcher=batched",)], ids=["basic", "batched"])
def test_a_failed_trial_is_no_end_of_the_search(gr_run, launcher):
    words = (*SEARCH, "optimizer=sgd", "optimizer.lr=1e30,0.1", "hydra.sweeper.sampler=grid", *launcher,
             "hydra.sweeper.n_jobs=2")  # fmt: skip
    for _ in range(2):  # once more: nothing is trained
        code, out, _ = gr_run(*words)
        assert code == 1 and "best of 2 trials (1 failed, 1 finished)" in out
    assert [row["state"] for row in trials()] == ["failed", "finished"]


def test_settings_that_do_not_fit_together_fail_their_trial(gr_run):
    """Ends of ranges are checked one by one; only some trials combine values that don't fit."""
    code, _, err = gr_run(
        *SEARCH, "train.tasks=range(1,3)", "benchmark.classes_per_task=range(5,11,5)", "hydra.sweeper.sampler=grid"
    )
    assert code == 1 and err.count("train.tasks=2: this benchmark has 1") == 1
    assert [row["state"] for row in trials()].count("failed") == 1


def test_seeds_are_averaged_and_stacked(gr_run):
    words = (*SEARCH, LR, "seed=3,4", "hydra.sweeper.n_trials=4", "hydra.sweeper.n_jobs=2")
    code, out, err = gr_run(*words, "hydra/launcher=batched")
    assert (code, err) == (0, "")
    assert out.count("4 runs that differ in optimizer.lr, seed: one program") == 2, out
    for row in trials():
        folders = row["runs"].split()
        assert ["seed3" in folders[0], "seed4" in folders[1]] == [True, True]
        mean = sum(map(validation_accuracy, folders)) / 2
        assert float(row["validation_average_accuracy"]) == pytest.approx(mean, abs=2e-6)
    assert "'seed=range(5,10)'" in out and "seed=3,4" in out


def test_equal_trials_are_trained_once(gr_run):
    code, out, err = gr_run(*SEARCH, "train.batch_size=16,32", "hydra.sweeper.n_trials=6", "hydra.sweeper.n_jobs=3")
    assert (code, err) == (0, "")
    assert len({row["runs"] for row in trials()}) == 2 and out.count("finished, ") == 2
    assert [row["state"] for row in trials()] == ["finished"] * 6


PRUNED = ("scenario=task", "train.iterations=20", "optimizer.lr=0.05,0.05001,1e-7", "hydra.sweeper.sampler=grid",
          "hydra.sweeper.pruner=median", "hydra.sweeper.startup_trials=2")  # fmt: skip


@pytest.mark.parametrize(
    "launcher", [(), ("hydra/launcher=batched", "seed=0,1", "hydra.sweeper.n_jobs=1")], ids=["basic", "batched"]
)
def test_a_trial_below_the_median_is_pruned_after_a_task(gr_run, gr_report, launcher):
    """A network that learns nothing is below two that learn."""
    code, out, err = gr_run(*SEARCH, *PRUNED, *launcher)
    assert code == 0 and "pruned after task 0" in err and "did not finish" not in err
    assert [row["state"] for row in trials()] == ["finished", "finished", "pruned"]
    assert "best of 3 trials (2 finished, 1 pruned)" in out
    for folder in trials()[2]["runs"].split():
        status = RunFolder(Path(folder)).status()
        assert status["state"] == "pruned" and status["progress"]["tasks_learned"] == 1
        assert "prune_below" not in json.dumps(json.loads((sweep_folder() / "sweep.json").read_text()))
    code, out, _ = gr_report("outputs")
    assert code == 0 and "pruned" in out


def test_a_trial_that_equals_the_median_is_not_pruned(gr_run):
    equal = ("optimizer.weight_decay=1e-30,2e-30,3e-30", "hydra.sweeper.sampler=grid")
    assert gr_run(*SEARCH, *PRUNED[:2], *equal, *PRUNED[4:])[0] == 0
    assert [row["state"] for row in trials()] == ["finished"] * 3
    assert len({row["validation_average_accuracy"] for row in trials()}) == 1


def test_a_pruned_run_can_be_finished(gr_run):
    assert gr_run(*TINY, "prune_below=[1]")[0] == 0
    code, out, _ = gr_run(*TINY)
    (folder,) = Path("outputs/split_digits/finetune").iterdir()
    assert code == 0 and "resumed" in out and RunFolder(folder).state() == "finished"


def test_an_objective_on_test_samples_is_warned_about(gr_run):
    code, _, err = gr_run(*SEARCH, LR, "objective=forgetting", "hydra.sweeper.n_trials=3")
    assert code == 0 and err.count("\n") == 1 and "is measured on test samples" in err
    best = yaml.safe_load((sweep_folder() / "best.yaml").read_text(encoding="utf-8"))
    assert best["value"] == pytest.approx(
        min(float(row["forgetting"]) for row in trials()), abs=1e-6
    )  # lower is better


@pytest.mark.parametrize(("direction", "chosen"), [("maximize", max), ("minimize", min)])
def test_a_direction_can_be_given(gr_run, direction, chosen):
    gr_run(*SEARCH, LR, f"hydra.sweeper.direction={direction}", "hydra.sweeper.n_trials=3")
    best = yaml.safe_load((sweep_folder() / "best.yaml").read_text(encoding="utf-8"))
    values = [float(row["validation_average_accuracy"]) for row in trials()]
    assert best["value"] == pytest.approx(chosen(values), abs=1e-6)


def test_a_study_in_a_database(gr_run):
    pytest.importorskip("sqlalchemy")
    words = (*SEARCH, LR, "hydra.sweeper.storage=sqlite:///study.db", "hydra.sweeper.study_name=first")
    assert gr_run(*words, "hydra.sweeper.n_trials=1")[0] == 0
    code, out, _ = gr_run(*words, "hydra.sweeper.n_trials=2")
    assert code == 0 and "1 of 2 trials have ended before" in out
    import optuna

    study = optuna.load_study(study_name="first", storage="sqlite:///study.db")
    assert len(study.trials) == 2 and study.best_value == pytest.approx(
        max(float(row["validation_average_accuracy"]) for row in trials()), abs=1e-6
    )
    assert not (sweep_folder() / "study.journal").exists()


def average_accuracies(*words):
    """Average test accuracy of the runs of a sweep, by seed."""
    sweep = gr_cli.sweep(*words, "hydra/launcher=batched", progress=False)
    runs = discover_runs([sweep.folder]).runs
    return {run.seed: run.metrics["average_accuracy"] for run in runs}


def test_a_search_of_20_trials_beats_the_default_on_other_seeds(gr_run):
    """The default learning rate is too low for ten steps per task; 3 points are less than what the search gains."""
    few_steps = ("train.iterations=10", "log.every=10", "strategy=finetune", "scenario=task",
                 "model.hidden_sizes=[16]", "threads=1")  # fmt: skip
    words = ("-m", "hydra/sweeper=optuna", "hydra/launcher=batched", "hydra.sweeper.n_jobs=5")
    code, _, err = gr_run(*words, *few_steps, "benchmark.validation_share=0.2", LR)
    assert (code, err) == (0, "") and [row["state"] for row in trials()] == ["finished"] * 20
    best = yaml.safe_load((sweep_folder() / "best.yaml").read_text(encoding="utf-8"))
    final = shlex.split(best["final"])[2:]
    assert final == [*few_steps, f"optimizer.lr={best['settings']['optimizer.lr']}", "seed=range(1,6)"]
    tuned, default = average_accuracies(*final), average_accuracies(*few_steps, "seed=range(1,6)")
    assert tuned.keys() == default.keys() == set(range(1, 6))
    assert fmean(tuned.values()) > fmean(default.values()) + 0.03
