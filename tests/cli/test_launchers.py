"""Sweeps in processes and on clusters with the launchers of Hydra's plugins; killed processes."""

import json
import os
import signal
from pathlib import Path

import pytest

from helpers.extras import needs_joblib
from helpers.processes import start, wait_for


def statuses():
    paths = sorted(Path("outputs").glob("*/*/*/status.json"))
    return [json.loads(path.read_text()) for path in paths]


def await_running(number, sweep):
    """Wait until `number` runs of a sweep are in their second task; return their processes."""

    def processes():
        running = [status for status in statuses() if status["state"] == "running"]
        saved = list(Path("outputs").glob("*/*/*/checkpoint.pt"))
        return min(len(running), len(saved)) >= number and {status["process"] for status in running}

    return wait_for(processes, sweep)


def in_this_process(words):
    """The same sweep without other processes."""
    return [word for word in words if not word.endswith(("processes=2", "joblib", "n_jobs=2"))]


SMALL = ("-m", "train.iterations=4", "benchmark.classes_per_task=5", "threads=1", "evaluate.generated_samples=0",
         "strategy.replay_weight=0.5,1", "seed=0,1")  # fmt: skip
LONG = ("-m", "train.iterations=600", "threads=1", "strategy=finetune", "model.hidden_sizes=[8]")


@needs_joblib
def test_joblib_runs_a_sweep_in_processes(gr_run):
    code, _, err = gr_run(*SMALL, "hydra/launcher=joblib", "hydra.launcher.n_jobs=2")
    (sweep,) = Path("outputs/sweeps").iterdir()
    watched = f"gr-run: other processes train these runs; to watch them: gr-report --watch {sweep}\n"
    assert (code, err) == (0, watched)
    finished = statuses()
    assert [status["state"] for status in finished] == ["finished"] * 4
    assert {status["mode"] for status in finished} == {"alone"}
    assert os.getpid() not in {status["process"] for status in finished}
    assert all((path / "sweep.json").exists() for path in Path("outputs/sweeps").iterdir())


@needs_joblib
def test_a_mistake_is_reported_before_any_process_starts(gr_run):
    code, _, err = gr_run("-m", "hydra/launcher=joblib", "seed=0,-1")
    assert code == 2 and err.count("\n") == 1
    assert not Path("outputs").exists()


@needs_joblib
def test_a_failed_run_in_a_process_does_not_stop_the_others():
    # From a process of its own: those of joblib stay, and remember the folder of another test.
    sweep = start("-m", "hydra/launcher=joblib", "train.iterations=4", "strategy=finetune", "optimizer=sgd",
                  "optimizer.lr=0.1,1e30", "hydra.launcher.n_jobs=2", "threads=1")  # fmt: skip
    _, err = sweep.communicate()
    assert sweep.returncode == 1 and "1 of 2 runs did not finish" in err
    assert sorted(status["state"] for status in statuses()) == ["failed", "finished"]


@pytest.mark.parametrize(
    "launcher",
    [
        pytest.param(("hydra/launcher=joblib", "hydra.launcher.n_jobs=2"), marks=needs_joblib),
        ("hydra/launcher=batched", "hydra.launcher.processes=2", "hydra.launcher.width=2"),
    ],
    ids=["joblib", "batched"],
)
def test_a_killed_process_is_resumed_from_its_checkpoint(launcher):
    words = (*LONG, "seed=range(3)", *launcher)
    sweep = start(*words)
    os.kill(min(await_running(2, sweep)), signal.SIGKILL)
    _, err = sweep.communicate()
    assert sweep.returncode == 1
    assert "did not finish; the same command repeats these" in err
    assert "Traceback" not in err
    again = start(*words)
    _, err = again.communicate()
    assert again.returncode == 0, err
    assert [status["state"] for status in statuses()] == ["finished"] * 3


def test_an_interruption_saves_active_runs_and_starts_no_others(gr_run):
    """Ctrl-C; SIGTERM is tested in `test_signals`."""
    words = (*LONG, "seed=range(4)", "hydra/launcher=batched", "hydra.launcher.processes=2", "hydra.launcher.width=1")
    sweep = start(*words, start_new_session=True)
    await_running(2, sweep)
    os.killpg(sweep.pid, signal.SIGINT)  # as a terminal does
    _, err = sweep.communicate()
    assert sweep.returncode == 130, err
    states = [status["state"] for status in statuses()]
    assert "interrupted" in states and "running" not in states and len(states) < 4
    code, _, err = gr_run(*in_this_process(words))
    assert code == 0, err
    assert [status["state"] for status in statuses()] == ["finished"] * 4


@pytest.mark.parametrize(("launcher", "extra"), [("joblib", "joblib"), ("submitit_slurm", "slurm")])
def test_a_missing_launcher_names_the_extra_to_install(gr_run, launcher, extra):
    package = {"submitit_slurm": "submitit"}.get(launcher, launcher)
    try:
        __import__(f"hydra_plugins.hydra_{package}_launcher")
    except ImportError:
        code, _, err = gr_run("-m", f"hydra/launcher={launcher}", "seed=0,1")
        assert code == 2
        assert err == (
            f"gr-run: hydra/launcher={launcher}: its package is not installed; "
            f"install it with: pip install 'gr-cli[{extra}]'\n"
        )
        assert not Path("outputs").exists()
    else:
        pytest.skip("it is installed")
