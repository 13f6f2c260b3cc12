"""Messages about runs that fail, and about run folders."""

import errno
import json
import os
import shutil
import signal
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
import yaml

from gr_cli import load_run
from gr_cli.results.folder import RunFolder
from gr_cli.results.membership_scores import MembershipScores
from gr_cli.system.checksums import save_tensors
from gr_cli.training.learner import Learner
from gr_cli.training.observer import RunObserver
from helpers.audits import add, of_task
from helpers.interruption import sealed
from helpers.situations import TINY, Hands, Situation, Table, failing, mistake, of_vectors, typed

# --- folders


def of_a_folder(word: str, harm: Callable[[Path], object] = lambda folder: None, *more: str) -> Situation:
    """Call `gr-run <word>=<folder>` on a finished run after a change of its folder, with `more` arguments."""

    def do(hands: Hands) -> object:
        folder = hands.over()
        harm(folder)
        return hands.gr_run(f"{word}={folder}", *more)

    return do


def going_on(harm: Callable[[Path], object], word: str = "") -> Situation:
    """Repeat the command of an interrupted run, or call `gr-run <word>=<folder>`, after a change of its folder."""

    def do(hands: Hands) -> object:
        folder = hands.left()
        harm(folder)
        return hands.gr_run(f"{word}={folder}") if word else hands.again()

    return do


def nothing(folder: Path) -> None:
    """No change."""


def forgetting(*words: str) -> Situation:
    """Call `gr-run forget=<folder>` on a finished run."""
    return of_a_folder("forget", nothing, *words)


def without_checkpoint(folder: Path) -> None:
    (folder / "checkpoint.pt").unlink()


def checkpoint_with(**changes: Any) -> Callable[[Path], object]:
    def harm(folder: Path) -> None:
        state = torch.load(folder / "checkpoint.pt", weights_only=True)
        save_tensors(folder / "checkpoint.pt", state | changes)

    return harm


def checkpoint_of(content: dict[str, Any]) -> Callable[[Path], object]:
    return lambda folder: save_tensors(folder / "checkpoint.pt", content)


def damaged(harm: Callable[[Path], object]) -> Situation:
    """Repeat the command of a finished run after a change of its folder."""
    return lambda hands: (harm(hands.over()), hands.again())[1]


def file(name: str, content: str) -> Callable[[Path], object]:
    return lambda folder: (folder / name).write_text(content)


def config_with(path: str, value: object) -> Callable[[Path], object]:
    """Change a value in config.yaml."""

    def harm(folder: Path) -> None:
        config = yaml.safe_load((folder / "config.yaml").read_text())
        *parents, leaf = path.split(".")
        node = config
        for name in parents:
            node = node[name]
        node[leaf] = value
        (folder / "config.yaml").write_text(yaml.safe_dump(config))
        sealed(folder)

    return harm


def figures_elsewhere(folder: Path) -> None:
    shutil.rmtree(folder / "figures")
    Path("elsewhere").mkdir()
    (folder / "figures").symlink_to(Path("elsewhere").absolute())


def a_lock_elsewhere(folder: Path) -> None:
    (folder / ".lock").unlink()
    (folder / ".lock").symlink_to("elsewhere")


def without_a_claim(folder: Path) -> None:
    status = json.loads((folder / "status.json").read_text())
    del status["stores_raw_samples"]
    (folder / "status.json").write_text(json.dumps(status))


def auditing_a_shadow(hands: Hands) -> object:
    assert hands.again("membership.draw=0")[0] == 0
    (status,) = Path("outputs").glob("*/*/*/status.json")
    return hands.gr_audit(status.parent, "--attacks")


def attacked_again(hands: Hands, change: Callable[[Path], object]) -> object:
    """Attack a run, change the folder of its last shadow, and attack it again."""
    words = (hands.over(), "--attacks", "--shadows", "6", "--candidates", "4")
    assert hands.gr_audit(*words)[0] == 0
    change(sorted(Path("outputs").rglob("draw_*"))[-1])
    return hands.gr_audit(*words)


def without_tables(folder: Path) -> None:
    """Remove what says that the tables of a shadow's audit are complete."""
    (folder.parent / "audit.json").unlink()


def with_other_candidates(hands: Hands) -> object:
    def change(folder: Path) -> None:
        without_tables(folder)
        scores = MembershipScores.load(folder / "membership_scores_1.npz")
        replace(scores, sample=scores.sample + 1).save(folder)

    return attacked_again(hands, change)


def without_scores(hands: Hands) -> object:
    def change(folder: Path) -> None:
        without_tables(folder)
        for path in folder.glob("membership_scores_*.npz"):
            path.unlink()

    return attacked_again(hands, change)


def with_a_damaged_table(hands: Hands) -> object:
    return attacked_again(hands, lambda folder: (folder.parent / "membership.csv").write_text("after_task\n1\n"))


def an_audit_of_few_values(hands: Hands) -> object:
    of_vectors("strategy=finetune")(hands)
    (status,) = Path("outputs").glob("*/*/*/status.json")
    return hands.gr_audit(status.parent, "--raw-samples")


def audited(harm: Callable[[Path], object], *words: str) -> Situation:
    """Call `gr-audit` on a finished run after a change of its folder; it searches for raw samples by default."""

    def do(hands: Hands) -> object:
        folder = hands.over()
        harm(folder)
        return hands.gr_audit(folder, *(words or ("--raw-samples",)))

    return do


def a_status_that_was_changed(hands: Hands) -> object:
    path = hands.over() / "status.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"command": "another"}))
    return hands.again()


def going_on_with_a_checkpoint_that_may_not_be_read(hands: Hands) -> object:
    hands.left()
    error = PermissionError(errno.EACCES, os.strerror(errno.EACCES))
    hands.monkeypatch.setattr("gr_cli.results.folder.load_tensors", failing(error))
    return hands.again()


def a_folder_that_is_taken(hands: Hands) -> object:
    with RunFolder(hands.left()).locked():
        return hands.again()


def no_folder_can_be_made(*words: str) -> Situation:
    def do(hands: Hands) -> object:
        Path("outputs").write_text("a file")
        return hands.again(*words) if "-m" not in words else hands.gr_run(*words, *TINY)

    return do


def in_the_folder_of_a_run(below: str, *words: str) -> Situation:
    """Name the folder of a finished run for another one, or a folder inside it."""

    def do(hands: Hands) -> object:
        hands.over().rename("taken")
        return hands.again(f"hydra.run.dir=taken{below}", *words)

    return do


def in_the_folder_of_a_damaged_sweep(hands: Hands) -> object:
    Path("s").mkdir()
    Path("s/sweep.json").write_text("[]", encoding="utf-8")
    return hands.gr_run("-m", *TINY, "seed=0,1", "hydra.sweep.dir=s")


def in_a_folder_with(name: str) -> Situation:
    def do(hands: Hands) -> object:
        Path("taken").mkdir()
        Path("taken", name).touch()
        return hands.again("hydra.run.dir=taken")

    return do


def in_a_folder_that_may_not_be_read(hands: Hands) -> object:
    Path("taken").mkdir()
    refused = failing(PermissionError(errno.EACCES, os.strerror(errno.EACCES)))
    hands.monkeypatch.setattr("gr_cli.results.availability.os", SimpleNamespace(**{**vars(os), "listdir": refused}))
    return hands.again("hydra.run.dir=taken")


def writing_fails(number: int) -> Situation:
    """Writing raises an OSError with this number."""

    def do(hands: Hands) -> object:
        hands.monkeypatch.setattr("os.fsync", failing(OSError(number, os.strerror(number))))
        return hands.again()

    return do


# --- training


def at_a_step(hands: Hands, do: Callable[[], object]) -> None:
    """Call `do` at a step of the second task."""

    class At(RunObserver):
        def stepped(self, number: int, position: Any, losses: Any) -> None:
            if number == 1:
                do()

    hands.monkeypatch.setattr("gr_cli.terminal.run_display.TerminalObserver", lambda **_: At())


def interrupted(*words: str) -> Situation:
    def do(hands: Hands) -> object:
        at_a_step(hands, lambda: os.kill(os.getpid(), signal.SIGINT))
        return hands.gr_run(*words, *TINY)

    return do


def no_number(hands: Hands) -> object:
    """A loss that is NaN, and a checkpoint before the next row of the history."""
    step = Learner.step

    def broken(self: Learner, batch: Any, position: Any) -> Any:
        losses = step(self, batch, position)
        return {name: value * float("nan") for name, value in losses.items()} if position.iteration == 1 else losses

    hands.monkeypatch.setattr(Learner, "step", broken)
    hands.monkeypatch.setattr("gr_cli.runner.step_monitor._MIN_TRAINING_PER_SAVING", 0)
    return hands.again("checkpoint.every_seconds=1e-9")


def a_broken_network(hands: Hands) -> object:
    """The last step of a task makes a parameter NaN; no loss shows it."""
    step = Learner.step

    def broken(self: Learner, batch: Any, position: Any) -> Any:
        losses = step(self, batch, position)
        if (position.task, position.iteration) == (1, 2):
            next(self.solver.parameters()).data.fill_(float("nan"))
        return losses

    hands.monkeypatch.setattr(Learner, "step", broken)
    return hands.again()


# --- the Python API


ELSEWHERE = {"_target_": "gr_cli.trackers.MLflow", "uri": "http://elsewhere.example"}
RUNS: Table = {
    "evaluation/audit.py": [
        ("has no stores_raw_samples", audited(without_a_claim)),
        ("holds no checkpoint yet", audited(without_checkpoint)),
        ("is not that of a run of gr-run", audited(checkpoint_of({"learner": 1}))),
        ("resemble other numbers by chance", an_audit_of_few_values),
    ],
    "runner/checkpoints.py": [
        ("loss `{}`", no_number),
        ("a parameter of the", a_broken_network),
        ("is of another version", going_on(checkpoint_with(version=1))),
        ("is a run of another configuration", going_on(config_with("optimizer.lr", 0.5), "resume")),
        ("whose random numbers", going_on(checkpoint_with(device="cuda"))),
        ("other samples or labels than its benchmark has now", going_on(checkpoint_with(data="others"))),
    ],
    "cli/folder_commands.py": [
        ("must be whole numbers, from 0", forgetting("tasks=[first]")),
    ],
    "audit/cli.py": [
        ("_search", audited(lambda folder: add(folder, of_task(0, 2))), "2 training samples"),
        ("of its parts could not be read", audited(file("export.pt", "no tensors"))),
    ],
    "audit/shadows.py": [
        ("must be even, because draws", audited(nothing, "--attacks", "--shadows", "7")),
        ("is no setting of this run that shadows may change", audited(nothing, "--attacks", "--", "seed=1")),
        ("has no value that can be read", audited(nothing, "--attacks", "--", "optimizer.lr=[")),
        ("is a run on a part of its samples", auditing_a_shadow),
        ("shadow runs did not finish", audited(nothing, "--attacks", "--shadows", "6", "--", "optimizer.lr=1e30")),
    ],
    "audit/tables.py": [("remove it, and repeat the command", with_a_damaged_table, "has no 'task'")],
    "audit/attacks.py": [
        ("of other samples than those of the other shadows", with_other_candidates),
        ("its shadows have no membership scores", without_scores),
    ],
    "cli/overrides.py": [
        ("must be a list of names or numbers", forgetting("classes=[3")),
    ],
    "runner/forget.py": [
        ("and only a finished run can forget", going_on(nothing, "forget")),
        ("can't forget {}, because", forgetting("classes=[1]")),
    ],
    "cli/main.py": [
        ("_job", interrupted("-m", "seed=0,1"), "interrupted; repeat the command"),
    ],
    "runner/run_group.py": [
        ("RunGroup.interrupted", interrupted(), "interrupted; resume with: gr-run resume=outputs/"),
        ("the last checkpoint before that is in", a_broken_network),
    ],
    "system/files.py": [
        ("free disk space, and repeat the command", writing_fails(errno.ENOSPC)),
        ("make its folder writable", writing_fails(errno.EROFS)),
        ("can't be created", no_folder_can_be_made()),
        ("can't be created", no_folder_can_be_made("-m", "seed=0,1")),
        ("can't be created", no_folder_can_be_made("inspect=true")),
    ],
    "results/folder.py": [
        ("is training this run", a_folder_that_is_taken),
        ("leads out of the folder of this run", going_on(figures_elsewhere)),
        ("can't be locked ({}); remove its {}", going_on(a_lock_elsewhere)),
        ("nothing was changed; fresh=true starts a new run in another folder", going_on(file("status.json", "{"))),
        ("is damaged ({}); the run's command", audited(file("checkpoint.pt", "garbage"))),
        ("was damaged or changed since the run wrote it; remove", a_status_that_was_changed),
        ("since the run wrote it; the run's command", lambda h: RunFolder(h.over()).check_file("metrics.csv", {})),
        ("make it readable", going_on_with_a_checkpoint_that_may_not_be_read),
    ],
    "results/availability.py": [
        ("holds another run", in_the_folder_of_a_run("", "seed=1")),
        ("lies in the folder of another run", in_the_folder_of_a_run("/inner")),
        ("holds files that are not of this run", in_a_folder_with("notes.txt")),
        ("is not a folder", lambda hands: (Path("taken").write_text(""), hands.again("hydra.run.dir=taken"))[1]),
        ("can't be read ({})", in_a_folder_that_may_not_be_read),
    ],
    "results/manifest.py": [
        ("remove it, or name another folder", in_the_folder_of_a_damaged_sweep),
    ],
    "results/stored_config.py": [
        ("is not the folder of a run", mistake("resume=nowhere")),
        ("_as_folder_error", of_a_folder("resume", config_with("threads", 10**6)), "config.yaml: threads=10"),
        ("is not the configuration of a run", of_a_folder("resume", file("config.yaml", "[1]"))),
        ("code that is not part of this program", of_a_folder("resume", config_with("model._target_", "os.system"))),
    ],
    "runner/load.py": [
        ("has no checkpoint yet", lambda hands: without_checkpoint(folder := hands.over()) or load_run(folder).solver),
    ],
    "results/history.py": [
        ("loss `{}`", typed("strategy=finetune optimizer=sgd optimizer.lr=1e30 train.iterations=3 log.every=1")),
    ],
    "config/settings.py": [
        ("must name a folder; unset GR_OUTPUT_ROOT", mistake("output_root=")),
        ("has settings of its own", of_a_folder("resume", config_with("train", 3))),
        ("is in an unknown user's home folder", of_a_folder("resume", config_with("data_root", "~no_such_user/x"))),
    ],
    "runner/stored_result.py": [
        ("its checkpoint is missing", lambda hands: without_checkpoint(hands.over()) or hands.again()),
    ],
    "trackers/trust.py": [
        ("names {} as where the run is tracked", going_on(config_with("tracker", ELSEWHERE), "resume")),
    ],
    "runner/verify.py": [
        ("can't be verified, {}; finish it", going_on(nothing, "verify")),
        ("does not say how it was trained", of_a_folder("verify", checkpoint_with(training={"width": 1}))),
    ],
}  # fmt: skip
