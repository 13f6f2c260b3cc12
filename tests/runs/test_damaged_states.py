"""Damaged checkpoints, tables that differ from the checkpoint, and untrusted code are detected."""

import json
import os
import re
import shutil
from pathlib import Path

import pytest

from gr_cli import load_run
from gr_cli.errors import FolderError
from gr_cli.training.observer import RunObserver
from helpers.interruption import csvs, only_run, sealed

TINY = ("train.iterations=6", "log.every=3", "strategy=finetune")


def read_status(folder: Path) -> dict:
    return json.loads((folder / "status.json").read_text())


@pytest.fixture
def stopped_at(monkeypatch):
    """A function that makes an observer call `do` at a training step."""

    def stop(do, stage=2, iteration=3):
        class At(RunObserver):
            def stepped(self, number, position, losses):
                if (number, position.iteration) == (stage, iteration):
                    do(losses)

        monkeypatch.setattr("gr_cli.terminal.run_display.TerminalObserver", lambda **_: At())

    return stop


# --- a damaged state


def flipped(path, at):
    """Flip one bit of a file at a position given as a share of its size."""
    content = bytearray(path.read_bytes())
    content[int(at * (len(content) - 1))] ^= 4
    path.write_bytes(content)


@pytest.fixture
def states(made, tmp_path, monkeypatch):
    """Tables of an uninterrupted run, and the folder of one that was stopped in its third task."""
    expected = csvs(made(*TINY))
    (tmp_path / "stopped").mkdir()
    monkeypatch.chdir(tmp_path / "stopped")
    return expected, made(*TINY, at=(2, 3))


@pytest.mark.parametrize("at", [0, 0.2, 0.5, 0.8, 0.99, 1])
def test_a_flipped_bit_is_detected_and_the_previous_checkpoint_is_used(gr_run, states, at):
    expected, folder = states
    assert sorted(path.name for path in folder.glob("*.pt")) == ["checkpoint.previous.pt", "checkpoint.pt"]
    flipped(folder / "checkpoint.pt", at)
    with pytest.raises(FolderError, match=r"checkpoint\.pt: is damaged"):
        _ = load_run(folder).solver
    code, _, err = gr_run(*TINY)
    assert code == 0 and re.search(
        r"checkpoint\.pt: is damaged .*; the run resumes from the checkpoint before it\n", err
    )
    assert csvs(folder) == expected
    assert [path.name for path in folder.glob("*.pt")] == ["checkpoint.pt"]


def test_a_checkpoint_of_another_run_is_not_resumed(gr_run, states):
    expected, folder = states
    assert gr_run(*TINY, "seed=1")[0] == 0
    (other,) = [path.parent for path in Path("outputs").glob("*/*/*seed1*/checkpoint.pt")]
    shutil.copy(other / "checkpoint.pt", folder)
    code, _, err = gr_run(f"resume={folder}")
    assert code == 0 and "seed is 1 there, 0 here" in err
    assert csvs(folder) == expected


def test_without_a_previous_checkpoint_the_run_starts_again(gr_run, states, tmp_path, monkeypatch, interrupted):
    expected, folder = states
    shutil.rmtree("outputs")
    interrupted(*TINY, at=(0, 3))
    assert [path.name for path in folder.glob("*.pt")] == ["checkpoint.pt"]
    flipped(folder / "checkpoint.pt", 0.5)
    code, _, err = gr_run(*TINY)
    assert code == 0 and "; the run starts again, there is no other checkpoint" in err
    assert csvs(folder) == expected


def test_if_all_checkpoints_are_damaged_the_run_is_refused(gr_run, states):
    _, folder = states
    for path in folder.glob("*.pt"):
        flipped(path, 0.5)
    before = {path: path.read_bytes() for path in folder.glob("*.pt")}
    code, _, err = gr_run(*TINY)
    assert (code, err.count("\n")) == (2, 1) and "is damaged (its checksum differs)" in err
    assert before == {path: path.read_bytes() for path in folder.glob("*.pt")}


def test_all_runs_of_a_group_resume_before_a_damaged_checkpoint(gr_run, tmp_path, monkeypatch, interrupted):
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


def test_a_finished_status_with_an_earlier_checkpoint_is_resumed(gr_run, states):
    expected, folder = states
    (folder / "status.json").write_text(json.dumps(read_status(folder) | {"state": "finished"}))
    code, _, err = gr_run(*TINY)
    assert (
        code == 0
        and "says that it is finished, but its checkpoint has learned 2 of 5 tasks; the run continues\n" in err
    )
    assert csvs(folder) == expected and read_status(folder)["state"] == "finished"


@pytest.mark.parametrize("harm", [lambda path: flipped(path, 0.7), Path.unlink, lambda path: path.write_bytes(b"")])
def test_tables_that_differ_from_the_checkpoint_are_rewritten(gr_run, made, harm):
    folder = made(*TINY)
    names = ("accuracy_matrix.csv", "evaluations.csv", "history.csv", "metrics.csv", "timing.csv")
    expected, out = {name: (folder / name).read_bytes() for name in names}, gr_run(*TINY)[1]
    for name in names:
        harm(folder / name)
    code, again, err = gr_run(*TINY)
    assert (code, again) == (0, out)
    listed, _, rest = err.partition(" had been damaged or changed; rewritten from the checkpoint\n")
    assert sorted(listed.rpartition(": ")[2].split(", ")) == sorted(names) and rest == ""
    assert {name: (folder / name).read_bytes() for name in names} == expected
    assert gr_run(*TINY)[::2] == (0, "")


def test_a_finished_checkpoint_of_another_run_is_refused(gr_run, made):
    folder = made(*TINY)
    gr_run(*TINY, "seed=1")
    (other,) = [path for path in Path("outputs").glob("*/*/*") if path != folder]
    shutil.copy(other / "checkpoint.pt", folder)
    code, _, err = gr_run(*TINY)
    assert code == 2 and "is a run of another configuration: seed is 1 there, 0 here" in err
    with pytest.raises(FolderError, match="seed is 1 there, 0 here"):
        _ = load_run(folder).solver


def test_a_folder_can_not_make_the_program_import_code(gr_run, made, tmp_path, monkeypatch):
    (tmp_path / "stranger.py").write_text("raise SystemExit('was imported')\n")
    monkeypatch.syspath_prepend(tmp_path)
    folder = made(*TINY)
    config = (folder / "config.yaml").read_text()
    ours = "gr_cli.models.SimpleMLP"
    assert config.count(ours) == 1
    helpers = (
        "gr_cli.config.instantiate.import_target",
        "gr_cli.benchmarks.sources.digits.files",
        "gr_cli.strategies.base.Tensor.new_empty",
    )
    helpers += ("gr_cli.system.files.write_text", "gr_cli.models.cnn.nn.Linear", "gr_cli.optimizers.Adam")
    for target in ("stranger.Model", "os.system", *helpers):
        (folder / "config.yaml").write_text(config.replace(ours, target))
        for word in ("resume", "verify"):
            code, _, err = gr_run(f"{word}={folder}")
            assert code == 2 and err.count("\n") == 1
            assert f"names code that is not part of this program: {target}; if you trust it, add trust={target}" in err
        sealed(folder)
        run = load_run(folder)
        assert run.config["model"]["_target_"] == target and len(run.matrix) == 5
        with pytest.raises(FolderError, match="names code"):
            _ = run.solver


def test_own_code_is_resumed_when_it_is_trusted(gr_run, tmp_path, monkeypatch):
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


def test_the_message_of_an_interruption_trusts_own_code(gr_run, tmp_path, monkeypatch, stopped_at):
    (tmp_path / "own_models.py").write_text("from gr_cli.models import SimpleMLP\nclass Mine(SimpleMLP):\n    pass\n")
    monkeypatch.syspath_prepend(tmp_path)
    with monkeypatch.context():
        stopped_at(lambda losses: os.kill(os.getpid(), 2))
        code, _, err = gr_run(*TINY, "model._target_=own_models.Mine")
    assert code == 130
    words = err.strip().partition("gr-run ")[2].split()
    assert words[1] == "trust=own_models.Mine"
    monkeypatch.setattr("gr_cli.terminal.run_display.TerminalObserver", lambda **_: RunObserver())
    code, _, err = gr_run(*words)
    assert code == 0, err
