"""Searches: the commands they print, trials without a value, and launchers in other processes."""

import csv
import importlib
import shlex
from pathlib import Path

import pytest
import yaml

from gr_cli.results.manifest import read_manifest
from helpers.extras import needs_optuna
from helpers.fake_ray import FakeRay, install
from helpers.situations_search import HELD_OUT, LR, SEARCH

pytestmark = needs_optuna


def best():
    return yaml.safe_load(Path("search/best.yaml").read_text(encoding="utf-8"))


@pytest.mark.parametrize("words", [(), ("seed=3,4",), ("hydra.sweep.subdir=job${hydra.job.num}",)])
def test_the_printed_command_shows_the_stored_result_of_a_named_folder(gr_run, words):
    code, out, err = gr_run(*SEARCH, HELD_OUT, LR, "hydra.sweep.dir=search", *words)
    assert (code, err) == (0, "") and f"repeat it: {best()['command']}\n" in out
    commands = best()["command"].split(" && ")
    assert len(commands) == (2 if "seed=3,4" in words else 1)
    folders = [str(job.path) for job in read_manifest(Path("search"))]
    for command in commands:
        code, out, _ = gr_run(*shlex.split(command)[1:])
        assert code == 0 and "finished before" in out
        assert any(folder in command for folder in folders)
    assert not Path("outputs").exists()


def test_a_run_without_a_value_fails_its_trial_and_the_search_goes_on(gr_run, monkeypatch):
    from gr_cli.results.record import Result

    value, values = Result.value, []

    def undefined_first(result, metric):
        values.append(metric)
        return None if len(values) == 1 else value(result, metric)

    monkeypatch.setattr(Result, "value", undefined_first)
    words = (*SEARCH, HELD_OUT, LR, "hydra.sweep.dir=search", "hydra.sweeper.sampler=grid")
    code, out, err = gr_run(*words)
    assert code == 1 and err.count("has no value in") == err.count("\n") == 1
    assert "best of 2 trials (1 failed, 1 finished)" in out and best()["trial"] == 1
    code, out, err = gr_run(*words)
    assert (code, err) == (1, "") and "best of 2 trials (1 failed, 1 finished)" in out


def test_a_search_without_any_value_ends_with_the_reason(gr_run, monkeypatch):
    monkeypatch.setattr("gr_cli.results.record.Result.value", lambda self, metric: None)
    code, out, err = gr_run(*SEARCH, HELD_OUT, LR, "hydra.sweeper.sampler=grid")
    assert code == 2 and "no trial is complete (2 failed)" in out
    assert err.splitlines()[-1].startswith("gr-run: objective=validation_average_accuracy: has no value in")


def test_the_sampler_of_the_plugin_is_answered_by_ours(gr_run):
    code, _, err = gr_run(*SEARCH, HELD_OUT, LR, "hydra/sweeper/sampler=random")
    assert code == 2 and "write hydra.sweeper.sampler=random" in err and err.count("\n") == 1


DIVERGING = (*SEARCH[:-1], HELD_OUT, "optimizer=sgd", "optimizer.lr=0.1,1e30,0.2", "hydra.sweeper.sampler=grid",
             "hydra.sweeper.n_jobs=2")  # fmt: skip


def trials_without_folders(name):
    """The rows of trials.csv, without the last column."""
    with Path(name, "trials.csv").open(encoding="utf-8") as file:
        return [row[:-1] for row in csv.reader(file)]


@pytest.mark.parametrize("launcher", ["joblib", "ray"])
def test_trials_in_other_processes_are_those_of_this_one(gr_run, monkeypatch, launcher):
    """Also after a failure of one of them."""
    if launcher == "joblib":
        pytest.importorskip("hydra_plugins.hydra_joblib_launcher")
        # Workers of an earlier search in this process would write below the directory in which they were started.
        importlib.import_module("joblib.externals.loky").get_reusable_executor().shutdown(wait=True)
    else:
        install(monkeypatch, FakeRay([{"CPU": 2.0}]))
    assert gr_run(*DIVERGING, "hydra.sweep.dir=here")[0] == 1
    there = (*DIVERGING, "hydra.sweep.dir=there", f"hydra/launcher={launcher}")
    code, out, err = gr_run(*there)
    assert code == 1 and "best of 3 trials (2 finished, 1 failed)" in out, err
    assert trials_without_folders("here") == trials_without_folders("there")
    code, out, _ = gr_run(*there)
    assert code == 1 and "3 of 3 trials have ended before" in out
