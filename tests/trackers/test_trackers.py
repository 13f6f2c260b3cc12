"""Errors, time limits, addresses and libraries of trackers."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from gr_cli.system.locks import mutex
from gr_cli.trackers import RunLogger, Tracker
from gr_cli.trackers.mlflow import _sweep_status
from gr_cli.trackers.trust import remote_addresses
from gr_cli.training.observer import RunObserver
from helpers.interruption import StopAt, csvs
from helpers.situations import failing
from helpers.tracked import SHORT, folders


class Fails(Tracker):
    """A tracker that fails in one of its methods."""

    destination = "nowhere"

    def __init__(self, at: str) -> None:
        self.at = at

    def run_logger(self, run, run_id, last_step):
        self.fail("log")
        return FailingLog(self)

    def fail(self, at):
        if at == self.at:
            raise OSError("no space\nleft")


class FailingLog(RunLogger):
    run_id = "1"

    def __init__(self, tracker):
        self.tracker = tracker

    def log_metrics(self, metrics_by_step):
        self.tracker.fail("rows")

    def log_image(self, name, path, step):
        self.tracker.fail("picture")

    def flush(self):
        self.tracker.fail("flush")

    def finish(self, state, metrics, step):
        self.tracker.fail("end")

    def close(self):
        raise OSError("and again")


@pytest.mark.usefixtures("pictures")
@pytest.mark.parametrize("at", ["log", "rows", "picture", "flush", "end"])
def test_an_error_of_a_tracker_is_printed_once_and_the_run_continues(gr_run, at):
    Path("options/tracker").mkdir(parents=True)
    Path("options/tracker/fails.yaml").write_text(f"_target_: {__name__}.Fails\nat: {at}\n")
    code, _, err = gr_run("--config-dir", "options", *SHORT, "tracker=fails")
    assert code == 0
    assert err == "gr-run: the tracker failed (OSError: no space left); the run continues untracked\n"
    (folder,) = folders()
    assert json.loads((folder / "status.json").read_text())["state"] == "finished"


class Hangs(Fails):
    """A tracker whose server does not answer; Ctrl-C comes during `log_metrics`."""

    def fail(self, at):
        if at == self.at == "rows":
            os.kill(os.getpid(), signal.SIGINT)
        if at == self.at:
            time.sleep(60)


@pytest.mark.parametrize("at", ["rows", "end"])
def test_a_tracker_has_limited_time_after_ctrl_c(gr_run, monkeypatch, at):
    monkeypatch.setattr("gr_cli.trackers.observer._GRACE_SECONDS", 0.1)
    handlers = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGALRM)]
    Path("options/tracker").mkdir(parents=True)
    Path("options/tracker/hangs.yaml").write_text(f"_target_: {__name__}.Hangs\nat: {at}\n")
    argv = ("--config-dir", "options", *SHORT, "tracker=hangs")
    with monkeypatch.context() as patch:
        patch.setattr(
            "gr_cli.terminal.run_display.TerminalObserver", lambda **_: StopAt(1, 2) if at == "end" else RunObserver()
        )
        code, _, err = gr_run(*argv)
    assert code == 130
    lines = err.splitlines()
    assert lines[0] == (
        "gr-run: the tracker failed (DeadlineExceeded: no answer within 0.1 seconds); the run continues untracked"
    )
    assert lines[1].startswith("gr-run: interrupted; resume with: gr-run resume=")
    (folder,) = folders()
    assert json.loads((folder / "status.json").read_text())["state"] == "interrupted"
    assert handlers == [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGALRM)]
    monkeypatch.setattr(Hangs, "fail", lambda self, at: None)
    assert gr_run(*argv)[0] == 0


def test_mlflow_ends_the_run_of_a_sweep_after_its_last_run(gr_run):
    assert gr_run("-m", *SHORT, "seed=0,1")[0] == 0
    (sweep,) = Path("outputs/sweeps").iterdir()
    assert _sweep_status("finished", sweep) == "FINISHED" and _sweep_status("failed", sweep) == "FAILED"
    (folders()[0] / "status.json").unlink()
    assert _sweep_status("finished", sweep) is None


def test_passwords_are_not_printed(gr_run, monkeypatch):
    monkeypatch.setattr(Fails, "fail", failing(OSError("POST http://me:secret@host/api: refused, https://host/x@y")))
    Path("options/tracker").mkdir(parents=True)
    Path("options/tracker/fails.yaml").write_text(f"_target_: {__name__}.Fails\nat: log\n")
    err = gr_run("--config-dir", "options", *SHORT, "tracker=fails")[2]
    assert "(OSError: POST http://host/api: refused, https://host/x@y)" in err


def test_a_tracker_does_not_change_the_identity_of_a_run(gr_run):
    pytest.importorskip("tensorboard")
    assert gr_run(*SHORT)[0] == 0
    (folder,) = folders()
    tables = csvs(folder)
    code, out, _ = gr_run(*SHORT, "tracker=tensorboard")
    assert code == 0 and "finished before" in out
    assert folders() == [folder]
    assert gr_run(*SHORT, "tracker=tensorboard", "fresh=true")[0] == 0
    (_, other) = folders()
    assert csvs(other) == tables


def test_without_a_tracker_no_library_is_imported_and_nothing_is_written(tmp_path):
    script = (
        "import sys; from gr_cli.cli.main import main\n"
        f"assert main({list(SHORT)}) == 0\n"
        "assert not {'tensorboard', 'mlflow', 'wandb'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", script], check=True, cwd=tmp_path, stdout=subprocess.DEVNULL)
    (folder,) = folders()
    assert not {"tracker.json", "tensorboard", "wandb"} & {path.name for path in folder.iterdir()}
    assert not Path("outputs/mlruns").exists()


@pytest.mark.parametrize("argv", [(), ("-m", "seed=0,1"), ("-m", "seed=0,1", "hydra/launcher=batched")])
def test_a_missing_library_is_reported_before_anything_is_written(gr_run, monkeypatch, argv):
    monkeypatch.setattr("gr_cli.trackers.trust.find_spec", lambda name: None)
    code, out, err = gr_run(*argv, *SHORT, "tracker=tensorboard")
    assert (code, out) == (2, "")
    assert err == (
        "gr-run: tracker=tensorboard: its package is not installed; "
        "install it with: pip install 'gr-cli[tensorboard]'\n"
    )
    assert list(Path().iterdir()) == []


def test_a_resumed_run_continues_untracked_without_the_library(gr_run, interrupted, monkeypatch):
    interrupted(*SHORT, "tracker=tensorboard")
    (folder,) = folders()
    monkeypatch.setattr("gr_cli.trackers.trust.find_spec", lambda name: None)
    code, _, err = gr_run(f"resume={folder}")
    assert code == 0
    assert "pip install 'gr-cli[tensorboard]'); the run continues untracked" in err


def test_acquiring_a_mutex_has_a_timeout(tmp_path):
    with (
        mutex(tmp_path / "lock"),
        pytest.raises(OSError, match="could not be acquired"),
        mutex(tmp_path / "lock", timeout=0.05),
    ):
        pass
    with mutex(tmp_path / "lock", timeout=0.0):
        pass


@pytest.mark.parametrize(
    ("tracker", "address"),
    [
        ({"_target_": "gr_cli.trackers.MLflow", "uri": "https://host/x"}, ["https://host/x"]),
        ({"_target_": "gr_cli.trackers.MLflow", "uri": "elsewhere"}, ["elsewhere"]),
        ({"_target_": "gr_cli.trackers.MLflow"}, []),
        ({"_target_": "gr_cli.trackers.WandB"}, []),
        ({"_target_": "gr_cli.trackers.WandB", "mode": "online"}, ["wandb:gr"]),
        ({"_target_": "gr_cli.trackers.WandB", "mode": "online", "entity": "them"}, ["wandb:them/gr"]),
        ({"_target_": "gr_cli.trackers.TensorBoard"}, []),
        ({"_target_": f"{__name__}.Fails", "at": "log"}, []),
        (None, []),
    ],
)
def test_remote_addresses_of_a_configured_tracker(monkeypatch, tracker, address):
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    assert remote_addresses({"tracker": tracker}) == address
