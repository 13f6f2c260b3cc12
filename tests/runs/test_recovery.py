"""What becomes of a run when something goes wrong: it is killed, diverges, runs out of memory, is of another kind."""

import json
import os
import re
import shutil
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
from gr_cli.results.status import Status, beating
from gr_cli.runner import checkpoints
from gr_cli.system.checksums import load_tensors, save_tensors
from gr_cli.system.memory import memory_told
from gr_cli.training.learner import Learner
from gr_cli.training.observer import View
from gr_cli.training.stages import START, Place
from helpers.interruption import csvs, only_run, sealed

TINY = ("train.iterations=6", "log.every=3", "strategy=finetune")
ROOT = Path(gr_cli.__file__).parent.parent


def told(folder: Path) -> dict:
    return json.loads((folder / "status.json").read_text())


@pytest.fixture
def stopped_at(monkeypatch):
    """Let something happen at a step: a function of the experiment's view."""

    def stop(do, stage=2, iteration=3):
        class At(View):
            def stepped(self, number, position, losses):
                if (number, position.iteration) == (stage, iteration):
                    do(losses)

        monkeypatch.setattr("gr_cli.terminal.run_view.Terminal", lambda **_: At())

    return stop


# --- states


def test_a_dead_run_is_told_from_a_running_one(made, monkeypatch):
    folder = RunFolder(made(*TINY))
    assert folder.state() == "finished"
    status = told(folder.path)
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
        monkeypatch.setattr("gr_cli.results.folder.AVAILABLE", False)
        monkeypatch.setattr("gr_cli.system.locks.fcntl", None)
    assert RunFolder(Path("nowhere")).state() == "never begun"


def test_a_run_that_lives_on_another_machine_is_refused(gr_run, made):
    folder = RunFolder(made(*TINY))
    now = datetime.now(timezone.utc)
    elsewhere = told(folder.path) | {"state": "running", "host": "another"}
    folder.write_status(elsewhere | {"updated": now.isoformat(timespec="seconds")})
    code, _, err = gr_run(*TINY)
    assert code == 2 and "another process on another is running this very run" in err
    folder.write_status(elsewhere | {"updated": (now - timedelta(hours=1)).isoformat(timespec="seconds")})
    assert gr_run(*TINY)[0] == 0


def test_a_running_run_gives_signs_of_life(tmp_path):
    folder = RunFolder(tmp_path)
    status = Status(folder, {"seed": 0})
    status.write("running")
    beats = threading.Event()
    write = folder.write_status
    folder.write_status = lambda content: (write(content), beats.set())
    with beating([status], every=0.01):
        assert beats.wait(10)
        status.write("finished")
        beats.clear()
        assert not beats.wait(0.1)
    assert told(tmp_path)["state"] == "finished"
    assert not [thread for thread in threading.enumerate() if thread.name == "signs of life"]


def test_the_status_says_what_a_run_was_made_with(made):
    status = told(made(*TINY))
    assert status["versions"]["torch"] == torch.__version__ and status["host"] == socket.gethostname()
    assert status["device"] == "cpu" and status["threads"] == 1 and status["heartbeat_seconds"] == 10
    found = subprocess.run(["git", "rev-parse", "HEAD"], cwd=ROOT, capture_output=True, text=True, check=False)
    commit = found.stdout.strip() if found.returncode == 0 else None
    assert status["commit"] in (commit, f"{commit}-dirty")


# --- another configuration, another version


def test_a_folder_of_another_configuration_is_refused_by_the_names_that_differ(gr_run, made):
    folder = made(*TINY)
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    (folder / "status.json").write_text(json.dumps(told(folder) | {"state": "interrupted"}))
    config = yaml.safe_load((folder / "config.yaml").read_text())
    config["optimizer"]["lr"], config["train"]["batch_size"] = 0.5, 16
    (folder / "config.yaml").write_text(yaml.safe_dump(config))
    code, _, err = gr_run(f"resume={folder}")
    assert code == 2 and "config.yaml: was damaged or changed since the run wrote it" in err
    sealed(folder)
    code, _, err = gr_run(f"resume={folder}")
    assert code == 2 and err.count("\n") == 1
    assert "holds a run of another configuration: " in err
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
        (lambda path: (path.unlink(), path.mkdir()), r"is damaged \(.*no regular file\)"),
        (lambda path: (path.unlink(), path.symlink_to("/dev/zero")), r"is damaged \(.*no regular file\)"),
        (lambda path: (path.unlink(), os.mkfifo(path)), r"is damaged \(.*no regular file\)"),
    ],
)
def test_a_checkpoint_that_is_none_is_refused(gr_run, made, harm, expected):
    path = made(*TINY) / "checkpoint.pt"
    harm(path)
    code, _, err = gr_run(*TINY)
    assert (code, err.count("\n")) == (2, 1)
    assert re.search(expected, err), err
    with pytest.raises(FolderError, match=expected):
        load_run(path.parent)
    assert not Path("taken").exists()


# --- a damaged state


def flipped(path, at):
    """One bit of a file, counted from its beginning in parts of its size."""
    content = bytearray(path.read_bytes())
    content[int(at * (len(content) - 1))] ^= 4
    path.write_bytes(content)


@pytest.fixture
def states(made, tmp_path, monkeypatch):
    """What a whole run finds, and the folder of one that was stopped in its third task."""
    whole = csvs(made(*TINY))
    (tmp_path / "stopped").mkdir()
    monkeypatch.chdir(tmp_path / "stopped")
    return whole, made(*TINY, at=(2, 3))


@pytest.mark.parametrize("at", [0, 0.2, 0.5, 0.8, 0.99, 1])
def test_a_flipped_bit_in_the_state_is_seen_and_the_one_before_is_used(gr_run, states, at):
    whole, folder = states
    assert sorted(path.name for path in folder.glob("*.pt")) == ["checkpoint.previous.pt", "checkpoint.pt"]
    flipped(folder / "checkpoint.pt", at)
    with pytest.raises(FolderError, match=r"checkpoint\.pt: is damaged"):
        load_run(folder)
    code, _, err = gr_run(*TINY)
    assert code == 0 and re.search(r"checkpoint\.pt: is damaged .*; the run goes on from the state before it\n", err)
    assert csvs(folder) == whole
    assert [path.name for path in folder.glob("*.pt")] == ["checkpoint.pt"]


def test_a_state_of_another_run_is_not_gone_on_with(gr_run, states):
    whole, folder = states
    assert gr_run(*TINY, "seed=1")[0] == 0
    (other,) = [path.parent for path in Path("outputs").glob("*/*/*seed1*/checkpoint.pt")]
    shutil.copy(other / "checkpoint.pt", folder)
    code, _, err = gr_run(f"resume={folder}")
    assert code == 0 and "seed is 1 there, 0 here" in err
    assert csvs(folder) == whole


def test_where_there_is_no_state_before_it_the_run_begins_again(gr_run, states, tmp_path, monkeypatch, interrupted):
    whole, folder = states
    shutil.rmtree("outputs")
    interrupted(*TINY, at=(0, 3))
    assert [path.name for path in folder.glob("*.pt")] == ["checkpoint.pt"]
    flipped(folder / "checkpoint.pt", 0.5)
    code, _, err = gr_run(*TINY)
    assert code == 0 and "; the run begins again, there is no other state" in err
    assert csvs(folder) == whole


def test_if_all_states_are_damaged_the_run_is_refused(gr_run, states):
    _, folder = states
    for path in folder.glob("*.pt"):
        flipped(path, 0.5)
    before = {path: path.read_bytes() for path in folder.glob("*.pt")}
    code, _, err = gr_run(*TINY)
    assert (code, err.count("\n")) == (2, 1) and "is damaged (its checksum differs)" in err
    assert before == {path: path.read_bytes() for path in folder.glob("*.pt")}


def test_runs_together_all_go_back_to_the_state_before_a_damaged_one(gr_run, tmp_path, monkeypatch, interrupted):
    words = ("-m", *TINY, "seed=0,1,2", "hydra/launcher=batched", "hydra.launcher.width=3")
    for home in ("whole", "stopped"):
        (tmp_path / home).mkdir()
        monkeypatch.chdir(tmp_path / home)
        gr_run(*words) if home == "whole" else interrupted(*words, at=(2, 3))
    (damaged,) = Path("outputs").glob("*/*/*seed1*/checkpoint.pt")
    flipped(damaged, 0.5)
    code, _, err = gr_run(*words)
    assert code == 0 and err.count("is damaged") == 1, err
    whole, stopped = (
        {path.parent.name: csvs(path.parent) for path in (tmp_path / home).rglob("metrics.csv")}
        for home in ("whole", "stopped")
    )
    assert whole == stopped and len(whole) == 3


# --- a run that says that it is finished


def test_finished_is_not_believed_of_a_run_whose_state_is_of_an_earlier_task(gr_run, states):
    whole, folder = states
    (folder / "status.json").write_text(json.dumps(told(folder) | {"state": "finished"}))
    code, _, err = gr_run(*TINY)
    assert code == 0 and "says that it is finished, but its state is of task 3 of 5; the run goes on\n" in err
    assert csvs(folder) == whole and told(folder)["state"] == "finished"


@pytest.mark.parametrize("harm", [lambda path: flipped(path, 0.7), Path.unlink, lambda path: path.write_bytes(b"")])
def test_tables_that_are_not_those_of_the_state_are_written_anew(gr_run, made, harm):
    folder = made(*TINY)
    names = ("accuracy_matrix.csv", "evaluations.csv", "history.csv", "metrics.csv", "timing.csv")
    whole, out = {name: (folder / name).read_bytes() for name in names}, gr_run(*TINY)[1]
    for name in names:
        harm(folder / name)
    code, again, err = gr_run(*TINY)
    assert (code, again) == (0, out)
    listed, _, rest = err.partition(" had been damaged or changed; written anew from the run's state\n")
    assert sorted(listed.rpartition(": ")[2].split(", ")) == sorted(names) and rest == ""
    assert {name: (folder / name).read_bytes() for name in names} == whole
    assert gr_run(*TINY)[::2] == (0, "")


def test_a_finished_state_of_another_run_is_refused(gr_run, made):
    folder = made(*TINY)
    gr_run(*TINY, "seed=1")
    (other,) = [path for path in Path("outputs").glob("*/*/*") if path != folder]
    shutil.copy(other / "checkpoint.pt", folder)
    code, _, err = gr_run(*TINY)
    assert code == 2 and "holds a run of another configuration: seed is 1 there, 0 here" in err
    with pytest.raises(FolderError, match="seed is 1 there, 0 here"):
        load_run(folder)


def test_a_folder_can_not_make_the_program_import_code(gr_run, made, tmp_path, monkeypatch):
    (tmp_path / "stranger.py").write_text("raise SystemExit('was imported')\n")
    monkeypatch.syspath_prepend(tmp_path)
    folder = made(*TINY)
    config = (folder / "config.yaml").read_text()
    ours = "gr_cli.models.SimpleMLP"
    assert config.count(ours) == 1
    helpers = (
        "gr_cli.config.instantiate.resolve",
        "gr_cli.benchmarks.sources.digits.files",
        "gr_cli.strategies.base.Tensor.new_empty",
    )
    helpers += ("gr_cli.system.files.write_text", "gr_cli.models.cnn.nn.Linear", "gr_cli.optimizers.Adam")
    for target in ("stranger.Model", "os.system", *helpers):
        (folder / "config.yaml").write_text(config.replace(ours, target))
        for word in ("resume", "verify"):
            code, _, err = gr_run(f"{word}={folder}")
            assert code == 2 and err.count("\n") == 1
            assert f"names code that is not of this program: {target}; if it is yours, say trust={target}" in err
        with pytest.raises(FolderError, match="names code"):
            load_run(folder)


def test_code_of_ones_own_goes_on_when_it_is_named(gr_run, tmp_path, monkeypatch):
    (tmp_path / "own_models.py").write_text(
        "from gr_cli.models import SimpleMLP\nclass Mine(SimpleMLP):\n    '''A model of the user's own.'''\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "mine" / "model").mkdir(parents=True)
    (tmp_path / "mine" / "model" / "own.yaml").write_text("_target_: own_models.Mine\nhidden_sizes: [8]\n")
    code, _, err = gr_run("--config-dir", "mine", "model=own", *TINY)
    assert code == 0, err
    folder = only_run()
    assert gr_run(f"resume={folder}")[0] == 2
    assert gr_run(f"resume={folder}", "trust=own_models.Mine")[0] == 0
    assert gr_run(f"resume={folder}", "trust=own_models")[0] == 0
    assert gr_run("--config-dir", "mine", f"resume={folder}")[0] == 0
    assert load_run(folder, trust=["own_models"]).solver.__class__.__name__ == "Mine"


def test_the_line_of_an_interruption_names_ones_own_code(gr_run, tmp_path, monkeypatch, stopped_at):
    (tmp_path / "own_models.py").write_text("from gr_cli.models import SimpleMLP\nclass Mine(SimpleMLP):\n    pass\n")
    monkeypatch.syspath_prepend(tmp_path)
    with monkeypatch.context():
        stopped_at(lambda losses: os.kill(os.getpid(), 2))
        code, _, err = gr_run(*TINY, "model._target_=own_models.Mine")
    assert code == 130
    words = err.strip().partition("gr-run ")[2].split()
    assert words[1] == "trust=own_models.Mine"
    monkeypatch.setattr("gr_cli.terminal.run_view.Terminal", lambda **_: View())
    code, _, err = gr_run(*words)
    assert code == 0, err


# --- numbers that are none


def test_a_loss_that_is_no_number_stops_the_run_and_keeps_the_last_good_state(gr_run, monkeypatch):
    monkeypatch.setattr("gr_cli.runner.step_monitor._WORTH_SAVING", 0)
    words = ("strategy=finetune", "optimizer=sgd", "optimizer.lr=1e4", "train.iterations=40", "log.every=40")
    code, _, err = gr_run(*words, "checkpoint.every_seconds=1e-9", "augment.noise=1e18")
    assert code == 1 and err.count("\n") == 1
    folder = only_run()
    assert "in task 0 at iteration" in err and "try a lower optimizer.lr" in err
    status = told(folder)
    assert status["state"] == "failed" and status["reason"] in err
    if "is kept in" in err:
        state = RunFolder(folder).load_checkpoint()
        assert all(value.isfinite().all() for value in state["learner"]["solver"].values())


def test_a_parameter_that_is_no_number_is_not_saved(gr_run, monkeypatch):
    """The last step of a task breaks the network, and no loss tells."""
    step = Learner.step

    def broken(self, batch, position):
        losses = step(self, batch, position)
        if (position.task, position.iteration) == (2, 5):
            next(self.solver.parameters()).data[0, 0] = float("nan")
        return losses

    monkeypatch.setattr(Learner, "step", broken)
    code, _, err = gr_run(*TINY)
    assert code == 1 and err.count("\n") == 1
    assert "a parameter of the solver is nan in task 2 at iteration 6; try a lower optimizer.lr" in err
    assert f"the last good state is kept in {only_run()}" in err
    assert RunFolder(only_run()).load_checkpoint()["stage"] == 2  # from the end of task 1
    assert len(load_run(only_run()).matrix) == 2
    monkeypatch.undo()
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
def test_memory_that_runs_out_says_what_to_lower(gr_run, monkeypatch, error):
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
    assert told(only_run())["state"] == "failed"
    assert RunFolder(only_run()).load_checkpoint()["stage"] == 2


def test_of_runs_together_the_width_is_named_and_other_errors_pass():
    with pytest.raises(OutOfMemoryError, match=r"try a lower hydra\.launcher\.width"), memory_told(runs=8):
        raise MemoryError
    with pytest.raises(RuntimeError, match="something else"), memory_told():
        raise RuntimeError("something else")


# --- runs that were trained together, killed while they saved


def test_runs_go_on_from_the_newest_place_that_all_have():
    old, new = Place(1, 10), Place(1, 20)
    assert checkpoints.common_places([[new, old], [old]]) == [old, old]
    assert checkpoints.common_places([[new, old], [new, old]]) == [new, new]
    assert checkpoints.common_places([[new], [new, old]]) == [new, new]  # some have adopted it
    assert checkpoints.common_places([[new, START], [START]]) == [START, START]
    assert checkpoints.common_places([[new], [old]]) == [new, old]
    assert checkpoints.common_places([[new, START], [old, START]]) == [new, old]  # none begins again for the other


def test_a_state_is_there_whole_at_every_instant(tmp_path):
    folder = RunFolder(tmp_path)

    def there():
        return {name.removeprefix("checkpoint."): state["n"] for name, state in folder.load_checkpoints().items()}

    assert there() == {} and not folder.has_checkpoint
    folder.write_checkpoint({"n": 1})
    assert there() == {"next.pt": 1}
    folder.adopt_checkpoint()
    folder.write_checkpoint({"n": 2})
    assert there() == {"next.pt": 2, "pt": 1} and folder.load_checkpoint()["n"] == 2
    folder.drop_next_checkpoint()
    assert there() == {"pt": 1}
    folder.adopt_checkpoint(keep=True)  # nothing to adopt
    assert there() == {"pt": 1}
    folder.write_checkpoint({"n": 3})
    folder.adopt_checkpoint(keep=True)
    assert there() == {"pt": 3, "previous.pt": 1} and folder.load_checkpoint()["n"] == 3
    folder.save_checkpoint({"n": 4})
    assert there() == {"pt": 4, "previous.pt": 1}
    folder.restore_checkpoint()
    assert there() == {"pt": 1}


@pytest.mark.parametrize(
    ("death", "at"),
    [("write_checkpoint", 1), ("write_checkpoint", 4), ("adopt_checkpoint", 1), ("adopt_checkpoint", 4)],
)
def test_a_sweep_that_dies_while_it_saves_goes_on_as_one_program(gr_run, tmp_path, monkeypatch, death, at):
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


def test_killed_runs_come_to_the_same_bytes():
    """A short form of what scripts/kill_runs.py does at length."""
    script = [sys.executable, str(ROOT / "scripts" / "kill_runs.py"), "--runs", "1"]
    script += ["--launcher", "alone", "--launcher", "batched"]
    tiny = ["train.iterations=10", "evaluate.every=6", "benchmark.classes_per_task=[4,3,3]", "model.hidden_sizes=[16]",
            "generator.hidden_dims=[16]", "evaluate.dreams=0"]  # fmt: skip
    found = subprocess.run([*script, *tiny], capture_output=True, text=True, check=False)
    assert found.returncode == 0, found.stdout + found.stderr
    assert found.stdout.count("1 of 1 the same byte for byte") == 2


def test_no_damage_to_a_file_is_believed():
    """A short form of what scripts/damage_runs.py does at length."""
    script = [sys.executable, str(ROOT / "scripts" / "damage_runs.py"), "--damages", "12"]
    found = subprocess.run(script, capture_output=True, text=True, check=False)
    assert found.returncode == 0, found.stdout + found.stderr
    assert "12 of 12 damages refused or without effect" in found.stdout
