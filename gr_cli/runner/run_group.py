"""Runs that are trained together, as one program."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from gr_cli.errors import GrError, Interrupted, TrainingError, as_failure
from gr_cli.evaluation.base import Evaluation, EvaluationContext, run_evaluations
from gr_cli.results.folder import RunFolder
from gr_cli.results.status import StatusWriter
from gr_cli.runner import checkpoints
from gr_cli.trackers.trust import untrusted_names
from gr_cli.training.experiment import Experiment
from gr_cli.training.learner import Learner
from gr_cli.training.observer import RunObserver
from gr_cli.training.stages import ResumePoint


@dataclass
class Run:
    """One run under way: what it is, where it is kept, from where it can go on, why it failed if it did, and what
    is measured in it."""

    experiment: Experiment
    folder: RunFolder
    status: StatusWriter
    states: dict[ResumePoint, checkpoints.SavedState]
    saved: ResumePoint | None = None  # of the newest state in its folder
    failure: GrError | None = None
    evaluations: Sequence[Evaluation] = ()


@dataclass
class RunGroup:
    """Runs that are trained together by one learner; usually there is one. A run that fails leaves the others alone."""

    runs: list[Run]
    learner: Learner
    observers: RunObserver
    is_single: bool  # else a failure is told at once, and not by whoever wanted the run

    @property
    def active(self) -> list[tuple[int, Run]]:
        """The runs that have not failed, with their places among the replicas."""
        return [(i, run) for i, run in enumerate(self.runs) if run.failure is None]

    def measure(self, after_task: int, iteration: int, task_finished: bool) -> None:
        """Let the evaluations of each run look at it; `after_task` -1 is before any training."""
        self.for_each_active(
            lambda i, run: run_evaluations(
                run.evaluations,
                EvaluationContext(run.experiment, self.learner, i, after_task, iteration, task_finished),
            )
        )

    @property
    def folders(self) -> list[Path]:
        """Where the runs are kept."""
        return [run.folder.path for run in self.runs]

    def interrupted(self) -> Interrupted:
        """What to raise when all have saved their state because they were asked to stop."""
        return Interrupted(self.folders, untrusted_names(self.runs[0].experiment.settings.config))

    def fail(self, run: Run, error: GrError) -> None:
        """Take note that a run failed; if it was the last one, that is the end of all."""
        if isinstance(error, TrainingError) and run.folder.has_checkpoint:
            error = TrainingError(f"{error}; the last good state is kept in {run.folder.path}")
        run.failure = error
        if len(self.runs) > 1:
            run.status.write_end(error)
        if not self.is_single:
            self.observers.failed(run.folder.path, error)
        if not self.active:
            raise error

    def for_each_active(self, action: Callable[[int, Run], object]) -> None:
        """`do` for each run that is still going, with its place among the replicas."""
        for i, run in self.active:
            try:
                action(i, run)
            except GrError as error:
                self.fail(run, error)
            except Exception as error:
                if len(self.runs) == 1:
                    raise
                self.fail(run, as_failure(error))
