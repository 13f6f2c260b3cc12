"""Observers of a run: hooks for progress display and experiment trackers."""

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
    """Base class of run observers; every method does nothing. It observes one run, or a group trained together.

    Losses arrive as tensors on the device: converting them to numbers waits for the device, so do so rarely.

    >>> class StepCounter(RunObserver):
    ...     steps = 0
    ...     def stepped(self, stage_index, step, losses):
    ...         self.steps += 1
    >>> from gr_cli.strategies.context import TrainingStep
    >>> observer = StepCounter()
    >>> observer.stepped(0, TrainingStep(task=0, iteration=0, iterations=10), {})
    >>> observer.steps
    1
    """

    def started(
        self,
        experiments: Sequence[Experiment],
        folders: Sequence[Path],
        steps: Sequence[int],
        resume_point: ResumePoint,
    ) -> None:
        """Training starts or resumes.

        Args:
            experiments: The runs of the group.
            folders: Their folders.
            steps: Number of steps of each stage.
            resume_point: Where training continues.
        """

    def stage_started(self, stage_index: int, names: Sequence[str]) -> None:
        """A stage starts; `names` has its name in each run."""

    def stepped(self, stage_index: int, step: TrainingStep, losses: Losses) -> None:
        """A training step is complete; `losses` are (R,) each."""

    def stage_finished(self, stage_index: int, accuracies: Sequence[MatrixRow]) -> None:
        """A stage is complete; `accuracies` has the accuracy on all tasks, for each run that has not failed."""

    def failed(self, folder: Path, error: GrError) -> None:
        """One run of the group failed; the others continue."""

    def finished(self, experiments: Sequence[Experiment], outcomes: Sequence[Result | GrError]) -> None:
        """All runs of the group are complete or failed."""

    def already_finished(self, settings: Settings, result: Result) -> None:
        """The run was complete before; `result` is read from its folder."""

    def close(self) -> None:
        """Training ended, with or without an error."""


class Observers(RunObserver):
    """Several observers as one, called in order.

    An observer that raises is reported once and removed, so that training does not depend on what is displayed.
    """

    def __init__(self, *observers: RunObserver) -> None:
        self._observers = list(observers)

    def _notify(self, call: Callable[[RunObserver], None]) -> None:
        for observer in list(self._observers):
            try:
                call(observer)
            except (Exception, SystemExit) as error:  # rich exits when the reader closed the pipe
                self._observers.remove(observer)
                with suppress(Exception):  # writing to stderr may fail, too
                    reason = f"{type(error).__name__}: {one_line(error)}"
                    print_status(f"progress display failed ({reason}); training continues without it")
                with suppress(Exception, SystemExit):
                    observer.close()

    def started(
        self,
        experiments: Sequence[Experiment],
        folders: Sequence[Path],
        steps: Sequence[int],
        resume_point: ResumePoint,
    ) -> None:
        self._notify(lambda observer: observer.started(experiments, folders, steps, resume_point))

    def stage_started(self, stage_index: int, names: Sequence[str]) -> None:
        self._notify(lambda observer: observer.stage_started(stage_index, names))

    def stepped(self, stage_index: int, step: TrainingStep, losses: Losses) -> None:
        self._notify(lambda observer: observer.stepped(stage_index, step, losses))

    def stage_finished(self, stage_index: int, accuracies: Sequence[MatrixRow]) -> None:
        self._notify(lambda observer: observer.stage_finished(stage_index, accuracies))

    def failed(self, folder: Path, error: GrError) -> None:
        self._notify(lambda observer: observer.failed(folder, error))

    def finished(self, experiments: Sequence[Experiment], outcomes: Sequence[Result | GrError]) -> None:
        self._notify(lambda observer: observer.finished(experiments, outcomes))

    def already_finished(self, settings: Settings, result: Result) -> None:
        self._notify(lambda observer: observer.already_finished(settings, result))

    def close(self) -> None:
        self._notify(lambda observer: observer.close())
