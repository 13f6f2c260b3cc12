"""Runs that are trained in a copy of their folder, whose files are brought back; without Ray."""

import json
from pathlib import Path

import pytest

from gr_cli.cli.compose import compose_settings
from gr_cli.cli.launchers.programs import run_program
from gr_cli.cli.launchers.working_copy import FolderStore, working_copies
from gr_cli.results.availability import run_folder
from gr_cli.results.folder import RunFolder
from gr_cli.system.files import write_bytes
from helpers.interruption import csvs, only_run
from helpers.processes import wait_until
from helpers.situations import TINY

RUN = Path("outputs/a/b/c")


class OnAnotherMachine:
    """The folders of a command that was started in another directory."""

    def __init__(self, directory: Path) -> None:
        self.directory, self.kept = directory, FolderStore(directory)
        self.sizes: list[int] = []

    def fetch(self, folder):
        return self.kept.fetch(self.directory / folder)

    def store(self, folder, files, names):
        self.sizes.append(len(files))
        self.kept.store(self.directory / folder, files, names)


@pytest.fixture
def command(tmp_path_factory):
    return OnAnotherMachine(tmp_path_factory.mktemp("command"))


def files_of(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_files_are_copied_here_and_brought_back_at_the_end(command):
    there = command.directory / RUN
    (there / "figures").mkdir(parents=True)
    (there / "checkpoint.pt").write_bytes(b"old")
    (there / "checkpoint.previous.pt").write_bytes(b"older")
    (there / ".lock").touch()
    with working_copies(command, [RUN]):
        assert files_of(RUN) == {"checkpoint.pt": b"old", "checkpoint.previous.pt": b"older"}
        (RUN / "checkpoint.previous.pt").unlink()
        (RUN / "checkpoint.pt").write_bytes(b"newer")
        (RUN / "checkpoint.next.pt").write_bytes(b"not committed")
        (RUN / ".x.tmp").write_bytes(b"half a fi")
        (RUN / "figures").mkdir(exist_ok=True)
        (RUN / "figures" / "a.png").write_bytes(b"\x89PNG")
    assert not RUN.exists()
    assert files_of(there) == {"checkpoint.pt": b"newer", "figures/a.png": b"\x89PNG", ".lock": b""}


def test_only_changed_files_are_brought_back_meanwhile(command):
    there = command.directory / RUN
    with working_copies(command, [RUN], seconds=0.01):
        RUN.mkdir(parents=True, exist_ok=True)
        write_bytes(RUN / "large.bin", bytes(1000))
        wait_until((there / "large.bin").exists)
        write_bytes(RUN / "small.bin", b"1")
        wait_until((there / "small.bin").exists)
    assert sum(command.sizes) == 2


def test_what_was_brought_back_is_there_after_the_loss_of_the_copy(command):
    copies = working_copies(command, [RUN], seconds=0.01)
    copies.__enter__()
    RUN.mkdir(parents=True, exist_ok=True)
    write_bytes(RUN / "checkpoint.pt", b"saved")
    wait_until((command.directory / RUN / "checkpoint.pt").exists)  # and the block never ends
    assert files_of(command.directory / RUN) == {"checkpoint.pt": b"saved"}
    copies.__exit__(None, None, None)


def test_no_file_is_written_outside_the_folder():
    for name in ("../x", "/tmp/x", "figures/../../x"):
        with pytest.raises(ValueError, match="leads out of the folder"):
            FolderStore().store(RUN, {name: b""}, None)


def test_a_run_resumes_in_a_copy_and_leaves_the_files_of_an_undisturbed_one(
    interrupted, gr_run, command, monkeypatch, tmp_path
):
    """The folder of the command ends up as if it had trained the run itself, and its status names its directory."""
    assert gr_run(*TINY)[0] == 0
    undisturbed = csvs(only_run())
    monkeypatch.chdir(command.directory)
    interrupted(*TINY)
    folder = only_run()
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    monkeypatch.chdir(scratch)
    settings = compose_settings([word for word in TINY if word != "-m"])
    assert run_folder(settings).path == folder
    with working_copies(command, [folder]):
        scores = run_program([settings], [RunFolder(folder)], Path("outputs/sweeps/x"), scratch)
    assert isinstance(scores, list)
    monkeypatch.chdir(command.directory)
    assert csvs(folder) == undisturbed
    status = json.loads((folder / "status.json").read_text())
    assert (status["state"], status["directory"]) == ("finished", str(command.directory))
    code, out, err = gr_run(*TINY)  # its checksums are right
    assert (code, "damaged" in out + err) == (0, False)
