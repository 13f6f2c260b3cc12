"""What a run tells whoever watches it. This one is silent; the terminal's is in `console`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from gr_cli.errors import one_line
from gr_cli.system.messages import print_status

if TYPE_CHECKING:
    from gr_cli.config.settings import Settings
    from gr_cli.errors import GrError
    from gr_cli.results.metrics import MatrixRow
    from gr_cli.results.record import Result
    from gr_cli.strategies.context import TrainingStep
    from gr_cli.training.experiment import Experiment
    from gr_cli.training.learner import Losses
    from gr_cli.training.stages import ResumePoint


class RunObserver:
    """Silent. Losses come as tensors: a view turns them into numbers only as often as it shows them.

    What is shown may be several runs that are trained together.
    """

    def started(
        self,
        experiments: Sequence[Experiment],
        folders: Sequence[Path],
        steps: Sequence[int],
        resume_point: ResumePoint,
    ) -> None:
        """Runs begin, or go on from `done`; `steps` of each stage."""

    def stage_started(self, stage_index: int, names: Sequence[str]) -> None:
        """Stage `number` begins, whatever it is called in each run."""

    def stepped(self, stage_index: int, step: TrainingStep, losses: Losses) -> None:
        """One training step is over; losses (R,)."""

    def stage_finished(self, stage_index: int, accuracies: Sequence[MatrixRow]) -> None:
        """A stage is over; for each run that has not failed, `accuracies` on all tasks."""

    def failed(self, folder: Path, error: GrError) -> None:
        """One of several runs failed, and leaves the others alone."""

    def finished(self, experiments: Sequence[Experiment], outcomes: Sequence[Result | GrError]) -> None:
        """The runs are over."""

    def already_finished(self, settings: Settings, result: Result) -> None:
        """The run was over already; this is what it had found."""

    def close(self) -> None:
        """The runs ended, one way or another."""


class Observers(RunObserver):
    """Several views as one: each is told everything, in their order. One that fails is told of once, and is left out
    from then on: what is shown has no say in what is trained."""

    def __init__(self, *observers: RunObserver) -> None:
        self._observers = list(observers)

    def _notify(self, call: Callable[[RunObserver], None]) -> None:
        for view in list(self._observers):
            try:
                call(view)
            except (Exception, SystemExit) as error:  # rich leaves that way when nobody reads a pipe any more
                self._observers.remove(view)
                with suppress(Exception):  # stderr may be what fails
                    print_status(
                        f"what is shown failed ({type(error).__name__}: {one_line(error)}); what runs goes on unseen"
                    )
                with suppress(Exception, SystemExit):
                    view.close()

    def started(
        self,
        experiments: Sequence[Experiment],
        folders: Sequence[Path],
        steps: Sequence[int],
        resume_point: ResumePoint,
    ) -> None:
        self._notify(lambda view: view.started(experiments, folders, steps, resume_point))

    def stage_started(self, stage_index: int, names: Sequence[str]) -> None:
        self._notify(lambda view: view.stage_started(stage_index, names))

    def stepped(self, stage_index: int, step: TrainingStep, losses: Losses) -> None:
        self._notify(lambda view: view.stepped(stage_index, step, losses))

    def stage_finished(self, stage_index: int, accuracies: Sequence[MatrixRow]) -> None:
        self._notify(lambda view: view.stage_finished(stage_index, accuracies))

    def failed(self, folder: Path, error: GrError) -> None:
        self._notify(lambda view: view.failed(folder, error))

    def finished(self, experiments: Sequence[Experiment], outcomes: Sequence[Result | GrError]) -> None:
        self._notify(lambda view: view.finished(experiments, outcomes))

    def already_finished(self, settings: Settings, result: Result) -> None:
        self._notify(lambda view: view.already_finished(settings, result))

    def close(self) -> None:
        self._notify(lambda view: view.close())
