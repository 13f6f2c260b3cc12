"""Forget classes, tasks or single samples of a finished run, as if these samples had never come."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gr_cli.config.settings import Settings
from gr_cli.errors import FolderError
from gr_cli.nn.shared_fit import SharedFit
from gr_cli.results.folder import RunFolder
from gr_cli.results.forgotten import describe_forgotten
from gr_cli.results.stored_config import check_code, stored_settings
from gr_cli.runner.checkpoints import State
from gr_cli.runner.forget_request import ClassRequest, Request, SampleRequest, Selection
from gr_cli.runner.load import load_learner, load_state
from gr_cli.runner.remains import delete_remains, remaining_copies
from gr_cli.training.learner import Learner


@dataclass(frozen=True)
class Forgotten:
    """Outcome of forgetting.

    Attributes:
        entry: What status.json lists: names of `classes`, numbers of `tasks` that had samples of them, number of single
            `samples` if they were handed in, and the time, `at`.
        is_repeated: Whether all of it was forgotten before.
        deleted: Files that were deleted.
        remaining: What may still hold it, each with a reason: files that this program does not change.
    """

    entry: Mapping[str, Any]
    is_repeated: bool
    deleted: tuple[Path, ...]
    remaining: Mapping[str, str]

    @property
    def lines(self) -> list[str]:
        """Lines for a reader."""
        what = describe_forgotten(self.entry)
        lines = [f"{what}: forgotten before; nothing to do" if self.is_repeated else f"forgotten: {what}"]
        if "samples" in self.entry and not self.is_repeated:
            lines.append("not verified: that they were in the stream; counts and sums allow it")
        if self.deleted:
            lines.append(f"deleted: {', '.join(map(str, self.deleted))}")
        return [*lines, *(f"unchanged: {name} ({reason})" for name, reason in self.remaining.items())]


def forget(
    path: Path, selection: Selection, trust: Collection[str] = (), settings: Settings | None = None
) -> Forgotten:
    """Forget classes, tasks or single samples of a finished run.

    Afterwards statistics, weights and predictions in its checkpoint equal, bit for bit, those of a run with the same
    stream without these samples. Tables stay as they were written; status.json lists what was forgotten. The new
    checkpoint replaces the old one at once: a process that is killed leaves the run as it was or forgotten, and the
    same call again deletes what is left.

    Args:
        path: Folder of the run.
        selection: What to forget.
        trust: Dotted names of code that the run's settings may import.
        settings: Settings of the run; None: those in the folder.

    Raises:
        ConfigError: The run has no such class or task, or does not keep apart what came of it.
        DataError: Samples can't be read, or can't have been in the stream.
        FolderError: The run is not finished or is being trained, or something was fitted on these samples together
            with others.
    """
    settings, folder = settings or stored_settings(path, trust), RunFolder(path)
    check_code(path, settings)
    if (state := folder.state()) != "finished":
        raise FolderError(f"{path}: is {state}, and only a finished run can forget; finish it with resume={path}")
    with folder.locked():
        saved = load_state(settings, folder)
        request = ClassRequest(saved, selection) if selection.samples is None else SampleRequest(saved, selection)
        if not request.is_repeated:
            saved |= _changes(path, request, load_learner(settings, saved), saved)
            folder.write_checkpoint(saved)
        folder.commit_checkpoint()
        folder.drop_previous_checkpoint()
        deleted = delete_remains(folder, min(request.entry["tasks"]))
        folder.write_status((folder.status() or {}) | {"forgotten": saved["forgotten"]})
        remaining = remaining_copies(folder, settings)
    return Forgotten(request.entry, request.is_repeated, deleted, remaining)


def _changes(path: Path, request: Request, learner: Learner, saved: State) -> State:
    """What changes in the checkpoint `saved` of `learner`.

    Raises:
        FolderError: Something was fitted on the samples together with others.
    """
    strategy = learner.strategy
    stored = [SharedFit(**fit) for fit in saved["shared_fits"]]
    _check_forgettable(path, request, [*stored, *strategy.shared_fits])
    request.apply(strategy)
    state = learner.state_of(0)
    # The parts in which strategies keep what they computed from samples; those of others differ by the device.
    changed = {name: state[name] for name in ("solver", "generator", "strategy")}
    return {"learner": saved["learner"] | changed, "forgotten": [*saved["forgotten"], request.entry]}


def _check_forgettable(path: Path, request: Request, fits: Sequence[SharedFit]) -> None:
    concerned = {"all": True, "first_task": 0 in request.entry["tasks"], "task": request.splits_tasks}
    for fit in fits:
        if concerned[fit.scope]:
            remedy = f"train a run without them{f', or one that can: {fit.remedy}' if fit.remedy else ''}"
            what = describe_forgotten(request.entry)
            raise FolderError(f"{path}: can't forget {what}, because {fit.reason}; {remedy}")
