"""What a run tells whoever watches it. This one is silent; the terminal's is in `console`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from gr_cli.assembly import Experiment
    from gr_cli.checkpoints import Place
    from gr_cli.errors import GrError
    from gr_cli.learner import Losses
    from gr_cli.results.metrics import Row
    from gr_cli.results.record import Result
    from gr_cli.settings import Settings
    from gr_cli.strategies.base import Position


class View:
    """Silent. Losses come as tensors: a view turns them into numbers only as often as it shows them.

    What is shown may be several runs that are trained together.
    """

    def started(
        self, experiments: Sequence[Experiment], folders: Sequence[Path], steps: Sequence[int], done: Place
    ) -> None:
        """Runs begin, or go on from `done`; `steps` of each stage."""

    def stage_started(self, number: int, names: Sequence[str]) -> None:
        """Stage `number` begins, whatever it is called in each run."""

    def stepped(self, number: int, position: Position, losses: Losses) -> None:
        """One training step is over; losses (R,)."""

    def stage_finished(self, number: int, accuracies: Sequence[Row]) -> None:
        """A stage is over; for each run that has not failed, `accuracies` on all tasks."""

    def failed(self, folder: Path, error: GrError) -> None:
        """One of several runs failed, and leaves the others alone."""

    def finished(self, experiments: Sequence[Experiment], outcomes: Sequence[Result | GrError]) -> None:
        """The runs are over."""

    def stored(self, settings: Settings, result: Result) -> None:
        """The run was over already; this is what it had found."""

    def close(self) -> None:
        """The runs ended, one way or another."""


class Views(View):
    """Several views as one: each is told everything, in their order."""

    def __init__(self, *views: View) -> None:
        self._views = views

    def started(
        self, experiments: Sequence[Experiment], folders: Sequence[Path], steps: Sequence[int], done: Place
    ) -> None:
        for view in self._views:
            view.started(experiments, folders, steps, done)

    def stage_started(self, number: int, names: Sequence[str]) -> None:
        for view in self._views:
            view.stage_started(number, names)

    def stepped(self, number: int, position: Position, losses: Losses) -> None:
        for view in self._views:
            view.stepped(number, position, losses)

    def stage_finished(self, number: int, accuracies: Sequence[Row]) -> None:
        for view in self._views:
            view.stage_finished(number, accuracies)

    def failed(self, folder: Path, error: GrError) -> None:
        for view in self._views:
            view.failed(folder, error)

    def finished(self, experiments: Sequence[Experiment], outcomes: Sequence[Result | GrError]) -> None:
        for view in self._views:
            view.finished(experiments, outcomes)

    def stored(self, settings: Settings, result: Result) -> None:
        for view in self._views:
            view.stored(settings, result)

    def close(self) -> None:
        for view in self._views:
            view.close()
