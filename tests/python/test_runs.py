"""Runs and sweeps from Python: the same as on the command line, with data frames, and without a trace."""

import importlib
import os
import pkgutil
import random
import shutil
import signal
import subprocess
import sys
import threading
import warnings
from contextlib import chdir
from pathlib import Path
from unittest.mock import Mock

import numpy as np
import pandas as pd
import pytest
import torch
from omegaconf import OmegaConf

import gr_cli
from gr_cli.errors import CompositionError, ConfigError, GrError
from gr_cli.python.overrides import overrides_of
from helpers.interruption import StopAt, csvs, only_run, sealed
from helpers.situations import TINY

SWEEP = ("train.iterations=3", "log.every=3", "model.hidden_sizes=[8]", "generator.hidden_dims=[8]", "threads=1",
         "evaluate.generated_samples=0", "benchmark.classes_per_task=5")  # fmt: skip


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A finished tiny run."""
    with chdir(tmp_path_factory.mktemp("finished")):
        return gr_cli.run(*TINY, progress=False)


def stopped(*words, at=(1, 1), monkeypatch):
    """Start a run from Python and interrupt it."""
    with monkeypatch.context() as patch:
        patch.setattr("gr_cli.terminal.run_display.TerminalObserver", lambda **_: StopAt(*at))
        with pytest.raises(KeyboardInterrupt, match="or by the same call"):
            gr_cli.run(*words)


# --- the public functions


def test_public_names_are_functions_after_all_modules_are_imported(tmp_path):
    """A module of the same name would replace the function as an attribute of its package."""
    skipped = ("gr_cli.__main__", "gr_cli.cli.launchers.ray", "gr_cli.trackers.")
    for module in pkgutil.walk_packages(gr_cli.__path__, "gr_cli."):
        if not module.name.startswith(skipped) and module.name != "gr_cli.conf":
            importlib.import_module(module.name)
    modules = {name.rpartition(".")[2] for _, name, _ in pkgutil.iter_modules(gr_cli.__path__)}
    assert not modules & set(gr_cli.__all__)
    run = gr_cli.run(*TINY, progress=False)
    assert run.state == gr_cli.load_run(run.folder).state == "finished"
    assert len(gr_cli.sweep(*TINY, "seed=0,1", progress=False)) == len(gr_cli.load_results()) == 2
    for load in (gr_cli.load_evaluations, gr_cli.load_histories):
        assert load("outputs").seed.nunique() == 2
    assert gr_cli.load_tables("per_class").seed.nunique() == 2


def test_importing_costs_neither_torch_nor_pandas(tmp_path):
    script = (
        "import sys, gr_cli; gr_cli.run, gr_cli.sweep, gr_cli.load_run, gr_cli.load_results\n"
        "heavy = {'torch', 'pandas', 'numpy', 'hydra', 'matplotlib'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
        "try: gr_cli.run('stratgy=er')\n"
        "except gr_cli.GrError as error: print(error)\n"
        "assert 'torch' not in sys.modules and 'pandas' not in sys.modules"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr
    assert "did you mean 'strategy'?" in done.stdout


# --- the same as on the command line


def test_a_run_is_that_of_the_command_line(gr_run, capsys):
    run = gr_cli.run(*TINY, seed=3)
    printed = capsys.readouterr().out
    assert "after task 1" in printed and "finished, " in printed and "average accuracy" not in printed
    assert run.folder == only_run().absolute()
    before = csvs(run.folder)
    assert "finished before" in gr_run(*TINY, "seed=3")[1]
    with chdir(run.folder.parents[3]):
        Path("elsewhere").mkdir()
        with chdir("elsewhere"):
            assert gr_run(*TINY, "seed=3")[0] == 0
            assert csvs(only_run()) == before
    capsys.readouterr()
    again = gr_cli.run(*TINY, seed=3)
    assert "finished before" in capsys.readouterr().out and again.matrix.equals(run.matrix)


def test_an_interrupted_run_is_continued_by_either(gr_run, monkeypatch, tmp_path):
    expected = gr_cli.run(*TINY, progress=False).folder
    for name in ("python", "command"):
        (tmp_path / name).mkdir()
        with chdir(tmp_path / name):
            stopped(*TINY, monkeypatch=monkeypatch)
            assert gr_cli.load_run(only_run()).state == "interrupted"
            assert (only_run() / "checkpoint.pt").is_file()
            if name == "python":
                assert gr_cli.run(*TINY, progress=False).state == "finished"
            else:
                assert gr_run(*TINY)[0] == 0
            assert csvs(only_run()) == csvs(expected)


def test_settings_are_overrides(finished):
    with chdir(finished.folder.parents[3]):
        train, model = {"iterations": 3}, {"hidden_sizes": [8]}
        same = gr_cli.run("log.every=3", "benchmark.classes_per_task=5", strategy="finetune", train=train, model=model,
                          threads=1, progress=False)  # fmt: skip
        assert same.folder == finished.folder
    other = gr_cli.run(*TINY, seed=np.int64(2), cache_root=Path("a b, c"), normalise=None, progress=False)
    assert other.seed == 2 and Path(other.config["cache_root"]).name == "a b, c" and other.config["normalise"] is None


@pytest.mark.parametrize(
    "text", ["1", "true", "null", "", "a b", "a\\b", 'say "x"', "it's", "${seed}", "a,b", "[1]", "é", "x\\"]
)
def test_texts_stay_as_they_are(text):
    from hydra.core.override_parser.overrides_parser import OverridesParser

    (override,) = OverridesParser.create().parse_overrides(overrides_of((), {"name": text}))
    node = OmegaConf.create({"seed": 3, "name": override.value() if text != "" else ""})
    assert node.name == text and not override.is_sweep_override()


def test_own_options_are_found(tmp_path):
    (tmp_path / "own" / "model").mkdir(parents=True)
    text = "_target_: gr_cli.models.SimpleMLP\nhidden_sizes: [4]\n"
    (tmp_path / "own" / "model" / "narrow.yaml").write_text(text, encoding="utf-8")
    words = [word for word in TINY if not word.startswith("model.")]
    run = gr_cli.run(*words, "model=narrow", config_dir="own", progress=False)
    assert list(run.solver.hidden_sizes) == [4]
    assert len(gr_cli.sweep(*words, "model=narrow", "seed=1,2", config_dir="own", progress=False)) == 2


@pytest.mark.parametrize(
    ("words", "settings", "error", "message"),
    [
        (("strategy=nothing",), {}, CompositionError, "no such option"),
        (("train.iteration=3",), {}, CompositionError, "no such setting"),
        (("seed=-1",), {}, ConfigError, "seed=-1: must be a whole number"),
        (("seed=1,2",), {}, CompositionError, "seed=1,2"),
        (("seed",), {}, ConfigError, "must be texts such as 'seed=1'"),
        (("-m",), {}, ConfigError, "must be texts such as 'seed=1'"),
        ((), {"seed": object()}, ConfigError, "seed=<object"),
        (("inspect=true",), {}, ConfigError, "for the command line"),
    ],
)
def test_mistakes_are_errors_of_one_line(words, settings, error, message):
    with pytest.raises(error, match=message) as caught:
        gr_cli.run(*words, **settings)
    assert isinstance(caught.value, GrError) and "\n" not in str(caught.value)
    assert caught.value._render_traceback_() == [f"{error.__name__}: {caught.value}"]  # what a notebook shows
    assert not Path("outputs").exists()


@pytest.mark.parametrize("words", [("strategy=nothing,er",), ("seed=-1,0",), ("hydra/launcher=nothing", "seed=0,1")])
def test_a_mistake_in_a_sweep_is_an_error_before_training(words):
    with pytest.raises(GrError):
        gr_cli.sweep(*TINY, *words)
    assert not list(Path().glob("outputs/*/*/*/status.json"))


def test_a_failed_run_is_an_error_and_leaves_its_reason():
    with pytest.raises(GrError, match="try a lower optimizer") as error:
        gr_cli.run(*TINY, "optimizer=sgd", "optimizer.lr=1e30", progress=False)
    assert error.value._render_traceback_()[0].startswith("Traceback")
    run = gr_cli.load_run(only_run())
    assert run.state == "failed" and "optimizer.lr" in run.status["reason"]
    assert "failed" in run._repr_html_()


# --- data frames


def test_the_tables_of_a_run(finished):
    matrix = pd.read_csv(finished.folder / "accuracy_matrix.csv")
    assert finished.matrix.to_numpy().tolist() == matrix.iloc[:, 1:].to_numpy().tolist()
    assert finished.matrix.index.tolist() == finished.matrix.columns.tolist() == [0, 1]
    assert (finished.matrix.index.name, finished.matrix.columns.name) == ("after_task", "task")
    assert set(map(str, finished.matrix.dtypes)) == {"float64"}
    value = finished.metrics["value"]
    assert value["average_accuracy"] == pytest.approx(finished.matrix.iloc[-1].mean(), abs=1e-6)
    assert pd.isna(value["forward_transfer"])
    assert finished.evaluations.index.names == ["after_task", "iteration", "task", "split"]
    assert finished.evaluations.loc[(1, 3, 0, "test"), "accuracy"] == finished.matrix.loc[1, 0]
    assert str(finished.evaluations["n"].dtype) == "int64"
    assert finished.history.index.names == ["task", "iteration"] and (finished.history["total"] > 0).all()
    assert finished.timing.index.tolist() == [0, 1]
    files = {path.stem for path in finished.folder.glob("*.csv")}
    assert set(finished.tables) == files and len(finished.tables) == len(files)
    for name, frame in finished.tables.items():
        assert not frame.empty and not set(map(str, frame.dtypes)) & {"object"}, name
    assert finished.tables["calibration"].loc[(1, "all")].size and "nothing" not in finished.tables


def test_a_table_that_was_changed_is_not_read(finished, tmp_path):
    import shutil

    folder = shutil.copytree(finished.folder, tmp_path / "copy")
    path = folder / "history.csv"
    path.write_text(path.read_text(encoding="utf-8").replace("1", "2"), encoding="utf-8")
    with pytest.raises(GrError, match="was damaged or changed"):
        _ = gr_cli.load_run(folder).history
    assert len(gr_cli.load_run(folder).matrix) == 2


@pytest.mark.usefixtures("pictures")
def test_figures_and_html():
    run = gr_cli.run(*TINY, progress=False)
    assert list(run.figures) == ["accuracy_curves", "accuracy_matrix"]
    html = run._repr_html_()
    assert "average_accuracy" in html and "data:image/png;base64," in html and "finetune" in html
    assert repr(run) == f"Run({str(run.folder)!r}, finished)"


def test_html_of_a_foreign_folder_is_escaped(finished, tmp_path):
    folder = shutil.copytree(finished.folder, tmp_path / "foreign")
    path = folder / "config.yaml"
    text = path.read_text(encoding="utf-8").replace("strategy: finetune", "strategy: <script>alert(1)</script>")
    path.write_text(text, encoding="utf-8")
    sealed(folder)
    html = gr_cli.load_run(folder)._repr_html_()
    assert "<script>" not in html and "&lt;script&gt;" in html


def test_a_sweep_of_three_strategies_and_five_seeds(gr_run, tmp_path, monkeypatch):
    """The first notebook: the sweep, its frame, its figure."""
    sweep = gr_cli.sweep(*SWEEP, strategy=["finetune", "er", "dgr"], seed=range(5), progress=False)
    results = sweep.results
    assert len(sweep) == len(results) == 15 and sweep[0].seed == 0 and len(sweep[:2]) == 2
    assert results.index.tolist() == [str(run.folder) for run in sweep]
    assert results["strategy"].tolist() == [*["finetune"] * 5, *["er"] * 5, *["dgr"] * 5]
    assert results["seed"].tolist() == 3 * [0, 1, 2, 3, 4] and set(results["state"]) == {"finished"}
    means = results.groupby("strategy")["average_accuracy"].mean()
    expected = np.mean([run.metrics.loc["average_accuracy", "value"] for run in sweep[5:10]])
    assert means["er"] == pytest.approx(expected)
    for name in ("average_accuracy", "forward_transfer", "seconds", "peak_memory_mib"):
        assert str(results[name].dtype) == "float64", name
    means_drawn = sorted(line.get_xdata()[0] for line in sweep.plot().axes[0].lines if line.get_marker() == "o")
    np.testing.assert_allclose(means_drawn, 100 * np.sort(means))
    assert sweep.plot("forgetting").axes[0].get_xlabel() == "forgetting (%)"
    assert "average_accuracy" in sweep._repr_html_()
    with pytest.raises(ConfigError, match="no such metric"):
        sweep.plot("nothing")
    evaluations = gr_cli.load_evaluations(sweep.folder)
    assert set(evaluations.groupby("strategy").size()) == {5 * 6}
    assert {"folder", "strategy", "seed", "after_task", "accuracy"} <= set(evaluations.columns)
    assert gr_cli.load_histories(sweep.folder)["strategy"].nunique() == 3
    tables = {run.folder.name: csvs(run.folder) for run in sweep}
    (tmp_path / "command").mkdir()
    monkeypatch.chdir(tmp_path / "command")
    words = ["strategy=finetune,er,dgr", "seed=range(5)"]
    assert gr_run("-m", *SWEEP, *words)[0] == 0
    assert {path.parent.name: csvs(path.parent) for path in Path().glob("outputs/*/*/*/status.json")} == tables


def test_a_sweep_of_numbers_is_batched(capsys):
    words = (*SWEEP, "strategy.replay_weight=0.5,1", "seed=range(2)", "hydra/launcher=batched")
    sweep = gr_cli.sweep(*words)
    assert "one program" in capsys.readouterr().out
    assert {run.status["mode"] for run in sweep} == {"batched"}
    assert sweep.results["replay_weight"].tolist() == [0.5, 0.5, 1.0, 1.0]
    assert sweep.plot().axes[0].get_xlabel() == "replay weight"


def test_results_of_runs_in_any_state(monkeypatch):
    gr_cli.run(*TINY, progress=False)
    stopped(*TINY, "train.iterations=4", monkeypatch=monkeypatch)
    results = gr_cli.load_results("outputs")
    assert results["state"].tolist() == ["finished", "interrupted"] and results["iterations"].tolist() == [3, 4]
    assert results["average_accuracy"].isna().tolist() == [False, True]
    assert all(Path(folder).is_absolute() and gr_cli.load_run(folder).seed == 0 for folder in results.index)
    assert gr_cli.load_evaluations("outputs")["folder"].unique().tolist() == results.index.tolist()
    (results_folder,) = [Path(folder) for folder in results.index[1:]]
    (results_folder / "status.json").write_text("{", encoding="utf-8")
    with pytest.warns(UserWarning, match="can't be read"):
        assert len(gr_cli.load_results()) == 1


# --- no trace


def state_of_the_process():
    from hydra.core.config_store import ConfigStore
    from hydra.core.global_hydra import GlobalHydra
    from hydra.core.hydra_config import HydraConfig
    from omegaconf.basecontainer import BaseContainer

    signals = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGALRM)
    return {
        "threads": torch.get_num_threads(),
        "denormals": (torch.full((1,), 2e-39) * 0.5).item(),
        "dtype": torch.get_default_dtype(),
        "deterministic": torch.are_deterministic_algorithms_enabled(),
        "cudnn": (torch.backends.cudnn.benchmark, torch.backends.cudnn.deterministic),
        "grad": torch.is_grad_enabled(),
        "torch": torch.get_rng_state().tolist(),
        "numpy": np.random.get_state()[1].tolist(),
        "random": random.getstate(),
        "signals": [signal.getsignal(number) for number in signals],
        "timer": signal.getitimer(signal.ITIMER_REAL),
        "directory": os.getcwd(),
        "environment": dict(os.environ),
        "arguments": list(sys.argv),
        "main": sys.modules["__main__"],
        "streams": (sys.stdout, sys.stderr),
        "filters": list(warnings.filters),
        "hydra": GlobalHydra.instance().hydra,
        "config": HydraConfig.instance().cfg,
        "resolvers": sorted(BaseContainer._resolvers),
        "store": sorted(ConfigStore.instance().repo),
        "active threads": sorted(thread.name for thread in threading.enumerate()),
    }


def test_nothing_remains_in_the_process(monkeypatch):
    """Hydra of the caller's own included."""
    from hydra import compose, initialize_config_module

    torch.set_num_threads(2)
    try:
        with initialize_config_module("gr_cli.conf", version_base="1.3"):
            before = state_of_the_process()
            gr_cli.run(*TINY, "seed=1", progress=False)
            assert state_of_the_process() == before
            stopped(*TINY, monkeypatch=monkeypatch)
            assert state_of_the_process() == before
            with pytest.raises(GrError):
                gr_cli.run("seed=-1")
            with pytest.raises(GrError):
                gr_cli.run(*TINY, "optimizer=sgd", "optimizer.lr=1e30", progress=False)
            assert state_of_the_process() == before
            for launcher in ("basic", "batched"):
                gr_cli.sweep(*TINY, "seed=4,5", f"hydra/launcher={launcher}", progress=False)
                assert state_of_the_process() == before
            assert compose("hydra/job_logging/none") is not None
    finally:
        torch.set_num_threads(1)


def test_runs_in_threads_are_those_of_the_main_thread(tmp_path):
    """Several threads at once, which have no signals and share the state of torch."""
    expected = {seed: csvs(gr_cli.run(*TINY, seed=seed, progress=False).folder) for seed in (0, 1)}
    results, errors = {}, []

    def train(seed):
        try:
            results[seed] = gr_cli.run(*TINY, seed=seed, fresh=True, progress=False)
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=train, args=(seed,)) for seed in (0, 1)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not errors
    assert {seed: csvs(run.folder) for seed, run in results.items()} == expected


def test_an_interrupted_sweep_is_continued_by_the_same_call(monkeypatch):
    words = (*TINY, "seed=0,1,2")
    with monkeypatch.context() as patch:
        patch.setattr("gr_cli.terminal.run_display.TerminalObserver", lambda **_: StopAt(1, 1))
        with pytest.raises(KeyboardInterrupt, match="the same call continues the sweep"):
            gr_cli.sweep(*words, progress=False)
    assert gr_cli.load_run(only_run()).state == "interrupted"
    assert gr_cli.sweep(*words, progress=False).results["state"].tolist() == ["finished"] * 3
    # While it waits for processes, Ctrl-C reaches this process too.
    monkeypatch.setattr("gr_cli.cli.main.compose_and_run", Mock(side_effect=KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt, match="the same call continues the sweep"):
        gr_cli.sweep(*words)


def test_processes_of_a_sweep_do_not_execute_the_script(tmp_path):
    """A script without `if __name__ == "__main__"` would start the sweep again in each process."""
    script = tmp_path / "script.py"
    script.write_text(
        "import gr_cli\nprint('started')\n"
        f"sweep = gr_cli.sweep(*{TINY!r}, 'seed=0,1', 'hydra/launcher=batched', 'hydra.launcher.processes=2',\n"
        "    'hydra.launcher.width=1')\nprint(sweep.results['state'].tolist())\n",
        encoding="utf-8",
    )
    done = subprocess.run([sys.executable, script], capture_output=True, text=True, timeout=900)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("started") == 1 and "['finished', 'finished']" in done.stdout
