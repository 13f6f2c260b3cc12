"""What happens between the steps of a task: history, evaluations within it, checkpoints, Ctrl-C."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from time import monotonic

import torch

from gr_cli.errors import TrainingError
from gr_cli.results.history import LossHistory, PendingLosses
from gr_cli.results.status import Progress
from gr_cli.runner import checkpoints
from gr_cli.runner.run_group import Run, RunGroup
from gr_cli.strategies.context import TrainingStep
from gr_cli.system.signals import DeadlineExceeded, deadline_after_stop
from gr_cli.training.learner import Losses
from gr_cli.training.stages import ResumePoint

# No more than one part in so many of a run's time goes into checkpoints within tasks.
_MIN_TRAINING_PER_SAVING = 50
GRACE_SECONDS = 10.0  # seconds that an evaluation has left when the run shall stop


@contextmanager
def interruptible(cohort: RunGroup, stop: threading.Event) -> Iterator[None]:
    """A block that changes nothing that is saved, and can be done again.

    Raises:
        Interrupted: it was to stop, and the block goes on and on. What was learnt since the last save is lost.
    """
    try:
        with deadline_after_stop(GRACE_SECONDS, start_now=stop.is_set()):
            yield
    except DeadlineExceeded:
        raise cohort.interrupted() from None


class StepMonitor:
    """Sees every training step: writes history, evaluates, saves and stops when it is time."""

    def __init__(
        self, cohort: RunGroup, reached: Progress, stop: threading.Event, pending_losses: PendingLosses
    ) -> None:
        experiment = cohort.runs[0].experiment
        config, task = experiment.settings.config, experiment.stages[reached.stage].task
        records = [run.experiment.record for run in cohort.runs]
        self._cohort, self._reached, self._stop, self._number = cohort, reached, stop, reached.stage
        self._history = LossHistory(records, config["log"]["every"], task, reached.steps_done, pending_losses)
        self._evaluate_every: int | None = config["evaluate"]["every"]
        self._save_every, self._next_save = config["checkpoint"]["every_seconds"], 0.0
        self._saved(monotonic())

    def close(self) -> None:
        """The stage is over."""
        self._fail(self._history.close())

    def _fail(self, errors: Mapping[int, TrainingError]) -> None:
        for i, error in errors.items():
            if self._cohort.runs[i].failure is None:
                self._cohort.fail(self._cohort.runs[i], error)

    def _saved(self, since: float) -> None:
        """A save that began at `since` is over: say when the next one is due."""
        now = monotonic()
        self._next_save = now + max(self._save_every, _MIN_TRAINING_PER_SAVING * (now - since))

    def __call__(self, position: TrainingStep, losses: Losses) -> None:
        done, cohort = position.iteration + 1, self._cohort
        self._fail(self._history.add(position.iteration, losses))
        if self._evaluate_every and done % self._evaluate_every == 0 and done < position.iterations:
            with interruptible(cohort, self._stop):
                cohort.measure(position.task, done, task_finished=False)
        self._reached.steps_done = done
        cohort.observers.stepped(self._number, position, losses)
        now = monotonic()
        if self._stop.is_set() or now > self._next_save:
            save_checkpoints(cohort, ResumePoint(self._number, done), self._history.pending_losses)
            self._saved(now)
        if self._stop.is_set():
            raise cohort.interrupted()


def save_checkpoints(cohort: RunGroup, place: ResumePoint, pending_losses: PendingLosses | None = None) -> None:
    """Write the tables, then the state from which each run goes on at `place`."""
    losses = {name: torch.stack(values, 1) for name, values in (pending_losses or {}).items()}  # (R, n)

    def write(i: int, run: Run) -> None:
        state = checkpoints.checkpoint_state(run.experiment, cohort.learner, i, place, losses)
        run.folder.write_tables(run.experiment.record, run.experiment.metrics)
        run.folder.write_checkpoint(state)
        run.status.heartbeat()

    def adopt(i: int, run: Run) -> None:
        run.folder.commit_checkpoint(checkpoints.is_task_end(cohort.learner, run.saved))
        run.saved = place

    cohort.for_each_active(write)
    cohort.for_each_active(adopt)
