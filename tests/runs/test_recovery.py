"""Runs that are killed, diverge, run out of memory, or have an invalid or foreign checkpoint."""

import json
import os
import re
import socket
import subprocess
import sys
import threading
from datetime import datetime, timedelta, timezone
from pathlib import Path

import pytest
import torch
import yaml

import gr_cli
from gr_cli import load_run
from gr_cli.errors import FolderError, OutOfMemoryError
from gr_cli.results.folder import RunFolder
from gr_cli.results.status import StatusWriter, heartbeats
from gr_cli.runner import checkpoints
from gr_cli.system.checksums import load_tensors, save_tensors
from gr_cli.system.memory import out_of_memory_as
from gr_cli.training.learner import Learner
from gr_cli.training.stages import BEGINNING, ResumePoint
from helpers.interruption import csvs, only_run, sealed

TINY = ("train.iterations=6", "log.every=3", "strategy=finetune")
ROOT = Path(gr_cli.__file__).parent.parent


def read_status(folder: Path) -> dict:
    return json.loads((folder / "status.json").read_text())


# --- states


def test_a_killed_run_is_distinguished_from_a_running_one(made, monkeypatch):
    folder = RunFolder(made(*TINY))
    assert folder.state() == "finished"
    status = read_status(folder.path)
    folder.write_status(status | {"state": "running"})
    assert folder.state() == "killed"  # nobody holds it
    with folder.locked():
        assert folder.state() == "running"
    now = datetime.now(timezone.utc)
    for host in ("another", status["host"]):  # there, and where there are no locks, signs of life tell
        for seconds, state in ((5, "running"), (300, "killed")):
            updated = (now - timedelta(seconds=seconds)).isoformat(timespec="seconds")
            folder.write_status(status | {"state": "running", "host": host, "updated": updated})
            assert folder.state() == state
        monkeypatch.setattr("gr_cli.results.folder.LOCKS_AVAILABLE", False)
        monkeypatch.setattr("gr_cli.system.locks.fcntl", None)
    assert RunFolder(Path("nowhere")).state() == "not started"


def test_a_run_in_training_on_another_host_is_refused(gr_run, made):
    folder = RunFolder(made(*TINY))
    now = datetime.now(timezone.utc)
    elsewhere = read_status(folder.path) | {"state": "running", "host": "another"}
    folder.write_status(elsewhere | {"updated": now.isoformat(timespec="seconds")})
    code, _, err = gr_run(*TINY)
    assert code == 2 and "another process on another is training this run" in err
    folder.write_status(elsewhere | {"updated": (now - timedelta(hours=1)).isoformat(timespec="seconds")})
    assert gr_run(*TINY)[0] == 0


def test_a_running_run_sends_heartbeats(tmp_path):
    folder = RunFolder(tmp_path)
    status = StatusWriter(folder, {"seed": 0})
    status.write("running")
    beats = threading.Event()
    write = folder.write_status
    folder.write_status = lambda content: (write(content), beats.set())
    with heartbeats([status], seconds=0.01):
        assert beats.wait(10)
        status.write("finished")
        beats.clear()
        assert not beats.wait(0.1)
    assert read_status(tmp_path)["state"] == "finished"
    assert not [thread for thread in threading.enumerate() if thread.name == "heartbeats"]


def test_the_status_has_versions_device_and_host(made):
    status = read_status(made(*TINY))
    assert status["versions"]["torch"] == torch.__version__ and status["host"] == socket.gethostname()
    assert status["device"] == "cpu" and status["threads"] == 1 and status["heartbeat_seconds"] == 10
    completed = subprocess.run(["git", "rev-parse", "HEAD"], cwd=ROOT, capture_output=True, text=True, check=False)
    commit = completed.stdout.strip() if completed.returncode == 0 else None
    assert status["commit"] in (commit, f"{commit}-dirty")


# --- another configuration, another version


def test_a_folder_of_another_configuration_is_refused_with_the_differences(gr_run, made):
    folder = made(*TINY)
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    (folder / "status.json").write_text(json.dumps(read_status(folder) | {"state": "interrupted"}))
    config = yaml.safe_load((folder / "config.yaml").read_text())
    config["optimizer"]["lr"], config["train"]["batch_size"] = 0.5, 16
    (folder / "config.yaml").write_text(yaml.safe_dump(config))
    code, _, err = gr_run(f"resume={folder}")
    assert code == 2 and "config.yaml: was damaged or changed since the run wrote it" in err
    sealed(folder)
    code, _, err = gr_run(f"resume={folder}")
    assert code == 2 and err.count("\n") == 1
    assert "is a run of another configuration: " in err
    assert "train.batch_size is 32 there, 16 here" in err and "optimizer.lr is 0.001 there, 0.5 here" in err
    for path in {folder / name for name in (*csvs(folder), "checkpoint.pt")} & set(before):
        assert path.read_bytes() == before[path]


def of_another_version(path):
    save_tensors(path, load_tensors(path) | {"version": 1})


class Hostile:
    def __reduce__(self):
        return os.system, ("touch taken",)


def hostile(path):
    save_tensors(path, {"version": checkpoints.VERSION, "learner": Hostile()})


@pytest.mark.parametrize(
    ("harm", "expected"),
    [
        (lambda path: path.write_bytes(path.read_bytes()[:1000]), r"is damaged \(it does not end in a checksum\)"),
        (of_another_version, "is of another version of this program; use fresh=true"),
        (lambda path: torch.save({"version": 1}, path), r"is damaged \(it does not end in a checksum\)"),
        (hostile, r"is damaged \(it can't be read: UnpicklingError\)"),
        (lambda path: (path.unlink(), path.mkdir()), r"is damaged \(.*not a regular file\)"),
        (lambda path: (path.unlink(), path.symlink_to("/dev/zero")), r"is damaged \(.*not a regular file\)"),
        (lambda path: (path.unlink(), os.mkfifo(path)), r"is damaged \(.*not a regular file\)"),
    ],
)
def test_an_invalid_checkpoint_is_refused(gr_run, made, harm, expected):
    path = made(*TINY) / "checkpoint.pt"
    harm(path)
    code, _, err = gr_run(*TINY)
    assert (code, err.count("\n")) == (2, 1)
    assert re.search(expected, err), err
    with pytest.raises(FolderError, match=expected):
        _ = load_run(path.parent).solver
    assert not Path("taken").exists()


# --- numbers that are none


def test_a_nonfinite_loss_fails_the_run_and_keeps_the_last_checkpoint(gr_run, monkeypatch):
    monkeypatch.setattr("gr_cli.runner.step_monitor._MIN_TRAINING_PER_SAVING", 0)
    words = ("strategy=finetune", "optimizer=sgd", "optimizer.lr=1e4", "train.iterations=40", "log.every=40")
    code, _, err = gr_run(*words, "checkpoint.every_seconds=1e-9", "augment.noise=1e18")
    assert code == 1 and err.count("\n") == 1
    folder = only_run()
    assert "in task 0 at iteration" in err and "try a lower optimizer.lr" in err
    status = read_status(folder)
    assert status["state"] == "failed" and status["reason"] in err
    if "checkpoint before that" in err:
        state = RunFolder(folder).load_checkpoint()
        assert all(value.isfinite().all() for value in state["learner"]["solver"].values())


def test_a_nonfinite_parameter_is_not_saved(gr_run, monkeypatch):
    """The last step of a task makes a parameter NaN, while all losses are finite."""
    step = Learner.step

    def broken(self, batch, position):
        losses = step(self, batch, position)
        if (position.task, position.iteration) == (2, 5):
            next(self.solver.parameters()).data[0, 0] = float("nan")
        return losses

    with monkeypatch.context() as patch:
        patch.setattr(Learner, "step", broken)
        code, _, err = gr_run(*TINY)
    assert code == 1 and err.count("\n") == 1
    assert "a parameter of the solver is nan in task 2 at iteration 6; try a lower optimizer.lr" in err
    assert f"the last checkpoint before that is in {only_run()}" in err
    assert RunFolder(only_run()).load_checkpoint()["stage"] == 2  # from the end of task 1
    assert len(load_run(only_run()).matrix) == 2
    assert gr_run(*TINY)[0] == 0


# --- memory


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        RuntimeError("[enforce fail at alloc_cpu.cpp:121] DefaultCPUAllocator: can't allocate memory: you tried ..."),
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB"),
    ],
)
def test_running_out_of_memory_names_the_setting_to_lower(gr_run, monkeypatch, error):
    step = Learner.step

    def fail(learner, batch, position):
        if (position.task, position.iteration) == (2, 3):
            raise error
        return step(learner, batch, position)

    monkeypatch.setattr(Learner, "step", fail)
    code, _, err = gr_run(*TINY)
    assert code == 1 and err.count("\n") == 1
    assert "out of memory" in err and "try a lower train.batch_size" in err
    assert ("device=cpu" in err) == isinstance(error, torch.OutOfMemoryError)
    assert read_status(only_run())["state"] == "failed"
    assert RunFolder(only_run()).load_checkpoint()["stage"] == 2


def test_running_out_of_memory_in_a_group_names_the_width():
    with pytest.raises(OutOfMemoryError, match=r"try a lower hydra\.launcher\.width"), out_of_memory_as(runs=8):
        raise MemoryError
    with pytest.raises(RuntimeError, match="something else"), out_of_memory_as():
        raise RuntimeError("something else")


# --- runs that were trained together, killed while they saved


def test_a_group_resumes_from_the_newest_common_point():
    old, new = ResumePoint(1, 10), ResumePoint(1, 20)
    assert checkpoints.common_resume_points([[new, old], [old]]) == [old, old]
    assert checkpoints.common_resume_points([[new, old], [new, old]]) == [new, new]
    assert checkpoints.common_resume_points([[new], [new, old]]) == [new, new]  # some have adopted it
    assert checkpoints.common_resume_points([[new, BEGINNING], [BEGINNING]]) == [BEGINNING, BEGINNING]
    assert checkpoints.common_resume_points([[new], [old]]) == [new, old]
    assert checkpoints.common_resume_points([[new, BEGINNING], [old, BEGINNING]]) == [
        new,
        old,
    ]  # none begins again for the other


def test_a_complete_checkpoint_exists_at_every_instant(tmp_path):
    folder = RunFolder(tmp_path)

    def there():
        return {name.removeprefix("checkpoint."): state["n"] for name, state in folder.load_checkpoints().items()}

    assert there() == {} and not folder.has_checkpoint
    folder.write_checkpoint({"n": 1})
    assert there() == {"next.pt": 1}
    folder.commit_checkpoint()
    folder.write_checkpoint({"n": 2})
    assert there() == {"next.pt": 2, "pt": 1} and folder.load_checkpoint()["n"] == 2
    folder.drop_next_checkpoint()
    assert there() == {"pt": 1}
    folder.commit_checkpoint(keep_previous=True)  # nothing to adopt
    assert there() == {"pt": 1}
    folder.write_checkpoint({"n": 3})
    folder.commit_checkpoint(keep_previous=True)
    assert there() == {"pt": 3, "previous.pt": 1} and folder.load_checkpoint()["n"] == 3
    folder.save_checkpoint({"n": 4})
    assert there() == {"pt": 4, "previous.pt": 1}
    folder.restore_checkpoint()
    assert there() == {"pt": 1}


@pytest.mark.parametrize(
    ("death", "at"),
    [("write_checkpoint", 1), ("write_checkpoint", 4), ("commit_checkpoint", 1), ("commit_checkpoint", 4)],
)
def test_a_sweep_killed_while_saving_resumes_as_one_group(gr_run, tmp_path, monkeypatch, death, at):
    words = ("-m", *TINY, "seed=0,1,2", "hydra/launcher=batched", "hydra.launcher.width=3")
    homes = [tmp_path / "whole", tmp_path / "killed"]
    for home in homes:
        home.mkdir()
    monkeypatch.chdir(homes[0])
    assert gr_run(*words)[0] == 0
    monkeypatch.chdir(homes[1])
    calls, original = iter(range(100)), getattr(RunFolder, death)

    def dies(self, *arguments):
        if next(calls) == at:
            raise SystemExit("killed")
        original(self, *arguments)

    with monkeypatch.context() as context:
        context.setattr(RunFolder, death, dies)
        with pytest.raises(SystemExit):
            gr_run(*words)
    code, _, err = gr_run(*words)
    assert code == 0, err
    whole, killed = ({path.parent.name: csvs(path.parent) for path in home.rglob("metrics.csv")} for home in homes)
    assert whole == killed and len(whole) == 3


def test_killed_runs_resume_to_the_same_bytes():
    """A short version of scripts/kill_runs.py."""
    script = [sys.executable, str(ROOT / "scripts" / "kill_runs.py"), "--runs", "1"]
    script += ["--launcher", "alone", "--launcher", "batched"]
    tiny = ["train.iterations=10", "evaluate.every=6", "benchmark.classes_per_task=[4,3,3]", "model.hidden_sizes=[16]",
            "generator.hidden_dims=[16]", "evaluate.generated_samples=0"]  # fmt: skip
    completed = subprocess.run([*script, *tiny], capture_output=True, text=True, check=False)
    assert completed.returncode == 0, completed.stdout + completed.stderr
    assert completed.stdout.count("1 of 1 the same byte for byte") == 2


def test_damaged_files_are_never_read_as_valid():
    """A short version of scripts/damage_runs.py."""
    script = [sys.executable, str(ROOT / "scripts" / "damage_runs.py"), "--damages", "6"]
    completed = subprocess.run(script, capture_output=True, text=True, check=False)
    assert completed.returncode == 0, completed.stdout + completed.stderr
    assert "6 of 6 damages refused or without effect" in completed.stdout
