"""Sweeps: the runs of their jobs, repeated jobs, and damaged runs among others."""

import gc
import json
import os
import shutil
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

from gr_cli.results.stored_config import read_config

TINY = ("train.iterations=2", "log.every=1", "strategy=finetune", "evaluate.generated_samples=0", "threads=1",
        "benchmark.classes_per_task=5", "model.hidden_sizes=[8]")  # fmt: skip


def states():
    """The state of each run by folder."""
    return {path.parent: json.loads(path.read_text())["state"] for path in Path("outputs").glob("*/*/*/status.json")}


# --- damaged runs


def replaced(folder):
    shutil.rmtree(folder)
    folder.write_text("a file")


def folder_in_place_of(name):
    def damage(folder):
        (folder / name).unlink()
        (folder / name).mkdir()

    return damage


# Files derived from the run's state are rewritten; other damage fails that run.
REPAIRED = {
    "no metrics": lambda folder: (folder / "metrics.csv").unlink(),
    "metrics of words": lambda folder: (folder / "metrics.csv").write_text("metric,value\naverage_accuracy,high\n"),
    "empty metrics": lambda folder: (folder / "metrics.csv").write_text(""),
    "config is broken": lambda folder: (folder / "config.yaml").write_text("[a"),
    "config is a list": lambda folder: (folder / "config.yaml").write_text("[a]"),
    "no config": lambda folder: (folder / "config.yaml").unlink(),
}
DAMAGED = {
    "metrics are a folder": folder_in_place_of("metrics.csv"),
    "config is a folder": folder_in_place_of("config.yaml"),
    "status is a list": lambda folder: (folder / "status.json").write_text("[1]"),
    "status is a number": lambda folder: (folder / "status.json").write_text("3"),
    "status is cut": lambda folder: (folder / "status.json").write_text('{"state": '),
    "status is a folder": folder_in_place_of("status.json"),
    "checkpoint is garbage": lambda folder: (folder / "checkpoint.pt").write_text("x"),
    "no checkpoint": lambda folder: (folder / "checkpoint.pt").unlink(),
    "a file": replaced,
}
LAUNCHERS = pytest.mark.parametrize("launcher", [(), ("hydra/launcher=batched",)], ids=["basic", "batched"])


@LAUNCHERS
def test_damaged_runs_fail_alone_in_one_line_each(gr_run, made, launcher):
    """All damages in one sweep, together with two runs that are not trained yet."""
    made("-m", *TINY, f"seed=range({len(DAMAGED)})")
    damaged = sorted(states())
    for folder, damage in zip(damaged, DAMAGED.values(), strict=True):
        damage(folder)
    code, _, err = gr_run("-m", *TINY, f"seed=range({len(DAMAGED) + 2})", *launcher)
    assert code == 1 and "Traceback" not in err, err
    *lines, count = err.splitlines()
    assert all(line.startswith("gr-run: ") for line in lines) and len(lines) == 2 * len(damaged)
    for name, folder in zip(DAMAGED, damaged, strict=True):
        assert sum(str(folder) in line for line in lines) == 2, name
    assert count == "gr-run: 9 of 11 runs did not finish; the same command repeats these"
    others = [state for folder, state in read_states().items() if folder not in damaged]
    assert others == ["finished"] * 2


@LAUNCHERS
def test_files_derived_from_the_state_of_a_run_are_rewritten(gr_run, made, launcher):
    """Each run of a sweep lacks another file."""
    made("-m", *TINY, f"seed=range({len(REPAIRED)})")
    harmed = sorted(states())
    before = {path: path.read_bytes() for folder in harmed for path in folder.glob("*.csv")}
    seeds = {folder: read_config(folder)[0]["seed"] for folder in harmed}
    for folder, damage in zip(harmed, REPAIRED.values(), strict=True):
        damage(folder)
    code, _, err = gr_run("-m", *TINY, f"seed=range({len(REPAIRED) + 2})", *launcher)
    assert code == 0 and err.count("\n") == len(REPAIRED), err
    for name, folder in zip(REPAIRED, harmed, strict=True):
        assert sum(f"{folder}: " in line and "rewritten" in line for line in err.splitlines()) == 1, (name, err)
    assert list(states().values()) == ["finished"] * 8
    assert before == {path: path.read_bytes() for path in before}
    assert seeds == {folder: read_config(folder)[0]["seed"] for folder in harmed}


def read_states():
    states_by_folder = {}
    for folder in Path("outputs").glob("split_digits/*/*"):
        try:
            states_by_folder[folder] = json.loads((folder / "status.json").read_text())["state"]
        except (OSError, ValueError, TypeError):
            states_by_folder[folder] = "damaged"
    return states_by_folder


@pytest.fixture
def finished(made):
    """The finished run of seed 0, in the current directory."""
    return made(*TINY, "seed=0")


def test_a_damaged_run_fails_alone_in_processes(finished):
    pytest.importorskip("hydra_plugins.hydra_joblib_launcher")
    (finished / "checkpoint.pt").unlink()
    words = ("-m", *TINY, "seed=0,1,2", "hydra/launcher=joblib", "hydra.launcher.n_jobs=2")
    done = subprocess.run([sys.executable, "-m", "gr_cli", *words], capture_output=True, text=True, check=False)
    assert done.returncode == 1 and "Traceback" not in done.stderr
    assert "its checkpoint is missing" in done.stderr and "1 of 3 runs did not finish" in done.stderr
    assert list(states().values()) == ["finished"] * 3


def test_an_unexpected_exception_fails_one_run_only(gr_run, monkeypatch):
    from gr_cli.runner import run as runner

    prepare = runner.prepare

    def broken(settings, *args, **kwargs):
        if settings.seed == 1:
            raise KeyError("a defect\nof two lines")
        return prepare(settings, *args, **kwargs)

    monkeypatch.setattr(runner, "prepare", broken)
    for launcher in ((), ("hydra/launcher=batched",)):
        code, _, err = gr_run("-m", *TINY, "seed=0,1,2", *launcher)
        assert code == 1 and "KeyError: 'a defect\\nof two lines'" in err and "Traceback" not in err
        assert "not started" in err and "1 of 3 runs did not finish" in err
        assert list(states().values()) == ["finished"] * 2


# --- which runs there are


def listed():
    (manifest,) = Path("outputs/sweeps").glob("*/sweep.json")
    return [os.path.normpath(manifest.parent / name) for name in json.loads(manifest.read_text())["jobs"]]


PARAMS = [
    ('+hydra.sweeper.params.seed="0,1"',),
    ("hydra.sweeper.params={seed:'range(2)'}",),
    ("++hydra.sweeper.params.seed='0,1'", "optimizer.lr=0.1"),
]


@pytest.mark.parametrize("params", PARAMS, ids=[words[0] for words in PARAMS])
def test_sweeper_params_are_a_sweep(gr_run, params):
    code, _, err = gr_run("-m", *TINY, *params)
    assert (code, err) == (0, "")
    assert sorted(map(str, states())) == sorted(listed()) and list(states().values()) == ["finished"] * 2


def test_sweeper_params_in_a_preset_are_checked_and_counted(gr_run, tmp_path):
    preset = tmp_path / "mine" / "preset" / "both.yaml"
    preset.parent.mkdir(parents=True)
    preset.write_text(
        "# @package _global_\nhydra:\n  sweeper:\n    params:\n      seed: 0,1\n      optimizer.lr: 0.1,-1\n"
    )
    words = ("--config-dir", "mine", "-m", *TINY, "preset=both")
    code, _, err = gr_run(*words)
    assert code == 2 and err == ("gr-run: optimizer.lr=-1: must be a number > 0; the default is 0.001\n")
    assert not Path("outputs").exists()
    code, _, err = gr_run(*words, "optimizer.lr=0.2")  # the command line comes after the preset
    assert (code, err) == (0, "") and len(states()) == 2
    assert len(listed()) == 2


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("optimizer.weight_decay=0,0.0",), "2 jobs are 1 run, each trained once: optimizer.weight_decay=0 and "),
        (("seed=0,1,0",), "3 jobs are 2 runs, each trained once: "),
        (("train.batch_size=32,16", "seed=0,0"), "4 jobs are 2 runs, each trained once: "),
        (("seed=shuffle(0,0)",), "2 jobs are 1 run, each trained once: "),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else "",
)
@LAUNCHERS
def test_equal_jobs_are_trained_once(gr_run, words, message, launcher):
    code, out, err = gr_run("-m", *TINY, *words, *launcher)
    assert (code, err) == (0, "")
    assert out.count(message) == 1 and "are the same run" in out and "finished before" not in out
    assert len(listed()) == len(states()) == int(message.partition("are ")[2].split()[0])


def test_a_repeated_job_fails_once(gr_run):
    code, _, err = gr_run("-m", *TINY, "optimizer=sgd", "optimizer.lr=1e30,1e30")
    assert code == 1 and err.count("try a lower optimizer.lr") == 1 and "1 of 1 runs did not finish" in err


@pytest.mark.parametrize(
    ("words", "number"),
    [
        (("seed=7",), 1),
        (("seed=0,1", "hydra.sweeper.max_batch_size=1"), 2),
        (("seed=range(0,4,2)", "optimizer=choice(adam,sgd)"), 4),
        (("optimizer=glob(adam*)",), 2),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else "",
)
def test_every_kind_of_sweep_values_is_counted(gr_run, words, number):
    code, _, err = gr_run("-m", *TINY, *words)
    assert (code, err) == (0, "")
    assert len(listed()) == len(states()) == number


@pytest.fixture
def searching(monkeypatch):
    """The words that choose an adaptive sweeper of another package."""
    from hydra.core.plugins import Plugins

    known = Plugins.instance().class_name_to_class  # which makes the sweeper's class a second time
    from hydra._internal.core_plugins.basic_sweeper import BasicSweeper

    class Searching(BasicSweeper):
        """An adaptive sweeper, whose next jobs could depend on results."""

    Searching.__qualname__ = "Searching"  # Hydra looks it up by its name
    monkeypatch.setattr(sys.modules[__name__], "Searching", Searching, raising=False)
    monkeypatch.setitem(known, "hydra_plugins.searching.Searching", Searching)
    return "-m", *TINY, "hydra.sweeper._target_=hydra_plugins.searching.Searching"


def test_jobs_of_an_adaptive_sweeper_are_counted_at_the_end(gr_run, searching):
    words = (*searching, "optimizer=sgd")
    code, _, err = gr_run(*words, "seed=0,1")
    assert (code, err) == (0, ""), err
    for launcher in ((), ("hydra/launcher=batched",)):
        code, _, err = gr_run(*words, "optimizer.lr=0.1,1e30", *launcher)
        assert code == 1 and "1 of 2 runs did not finish" in err, err


def test_an_adaptive_sweeper_trains_no_runs_with_a_budget(gr_run, searching):
    refused = "hydra/sweeper=Searching: each trial would spend ε = 1 on the same samples, and read its objective"
    code, out, err = gr_run(*searching, "privacy.epsilon=1", "seed=0,1")
    assert (code, out, err.count("\n")) == (2, "", 1) and refused in err
    code, _, err = gr_run(*searching, "privacy.epsilon=null,1")
    assert code == 1 and err.count(refused) == 1
    assert [each for each in states().values() if each == "finished"] == ["finished"]


def test_a_run_with_a_budget_returns_no_objective(monkeypatch):
    from gr_cli.cli import main
    from gr_cli.results.record import Result

    returned = []
    run = main._run
    monkeypatch.setattr(main, "_run", lambda *args, **options: returned.append(run(*args, **options)))
    monkeypatch.setattr(Result, "value", lambda *_: 0.5)
    private = ("generator._target_=helpers.private_parts.NoisyMeans", "privacy.epsilon=2", "threads=1")
    for words in (TINY, ("strategy=generative_classifier", *private)):
        assert main.main([*words, "objective=average_accuracy"]) == 0
    assert returned == [0.5, None]


# --- memory


@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="needs /proc")
@pytest.mark.parametrize(
    ("runs", "launcher"), [(4, ()), (8, ("hydra/launcher=batched", "hydra.launcher.width=2"))], ids=["basic", "wide"]
)
def test_memory_of_a_finished_run_is_released(gr_run, monkeypatch, runs, launcher):
    import gr_cli.runner.run
    from gr_cli.nn.fused_losses import _inactive_units_of_task

    kinds = ("Learner", "Experiment", "Record", "Figure", "Tensor", "Parameter", "DictConfig", "AnyNode")
    train, counts = gr_cli.runner.run.run_together, []

    def counted(*arguments):
        outcomes = train(*arguments)
        _inactive_units_of_task.cache_clear()  # keeps 64 small masks, of whatever ran before
        gc.collect()
        alive = Counter(type(value).__name__ for value in gc.get_objects())
        counts.append({kind: alive[kind] for kind in kinds} | {"descriptors": len(os.listdir("/proc/self/fd"))})
        return outcomes

    monkeypatch.setattr(gr_cli.runner.run, "run_together", counted)
    assert gr_run("-m", *TINY, f"seed=range({runs})", *launcher)[0] == 0
    assert counts[1] == counts[-1] and len(counts) == 4
