"""Work after each training step: loss history, evaluations within a task, checkpoints, stop requests."""

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

# Training takes at least this many times as long as saving checkpoints within tasks.
_MIN_TRAINING_PER_SAVING = 50
GRACE_SECONDS = 10.0  # seconds that an evaluation may go on after a stop request


@contextmanager
def interruptible(group: RunGroup, stop: threading.Event) -> Iterator[None]:
    """Limit the time of a block after a stop request. The block must not change what checkpoints contain.

    Raises:
        Interrupted: A stop was requested, and the block took longer than GRACE_SECONDS. Training since the last
            checkpoint is lost.
    """
    try:
        with deadline_after_stop(GRACE_SECONDS, start_now=stop.is_set()):
            yield
    except DeadlineExceeded:
        raise group.interrupted() from None


class StepMonitor:
    """Called after each training step of a stage: records losses, evaluates, saves checkpoints, and stops.

    Args:
        group: The runs in training.
        progress: Progress of the group, which is updated.
        stop: Set when the user requests a stop.
        pending_losses: Losses since the last row of the history, if the stage is resumed.
    """

    def __init__(
        self, group: RunGroup, progress: Progress, stop: threading.Event, pending_losses: PendingLosses
    ) -> None:
        experiment = group.runs[0].experiment
        config, task = experiment.settings.config, experiment.stages[progress.stage].task
        records = [run.experiment.record for run in group.runs]
        self._group, self._progress, self._stop, self._stage = group, progress, stop, progress.stage
        self._history = LossHistory(records, config["log"]["every"], task, progress.steps_done, pending_losses)
        self._evaluate_every: int | None = config["evaluate"]["every"]
        self._save_every, self._next_save = config["checkpoint"]["every_seconds"], 0.0
        self._schedule_next_save(monotonic())

    def close(self) -> None:
        """Complete the history at the end of the stage."""
        self._fail(self._history.close())

    def _fail(self, errors: Mapping[int, TrainingError]) -> None:
        for i, error in errors.items():
            if self._group.runs[i].failure is None:
                self._group.fail(self._group.runs[i], error)

    def _schedule_next_save(self, started: float) -> None:
        """Set the time of the next save after one that took from `started` until now."""
        now = monotonic()
        self._next_save = now + max(self._save_every, _MIN_TRAINING_PER_SAVING * (now - started))

    def __call__(self, step: TrainingStep, losses: Losses) -> None:
        done, group = step.iteration + 1, self._group
        self._fail(self._history.add(step.iteration, losses))
        if self._evaluate_every and done % self._evaluate_every == 0 and done < step.iterations:
            with interruptible(group, self._stop):
                group.measure(step.task, done, task_finished=False)
        self._progress.steps_done = done
        group.observers.stepped(self._stage, step, losses)
        now = monotonic()
        if self._stop.is_set() or now > self._next_save:
            save_checkpoints(group, ResumePoint(self._stage, done), self._history.pending_losses)
            self._schedule_next_save(now)
        if self._stop.is_set():
            group.record_stop(ResumePoint(self._stage, done))
            raise group.interrupted()


def save_checkpoints(group: RunGroup, resume_point: ResumePoint, pending_losses: PendingLosses | None = None) -> None:
    """Write tables and checkpoint of each active run; commit all checkpoints once all are written.

    Args:
        group: The runs.
        resume_point: Where training will resume.
        pending_losses: Losses since the last row of the history.
    """
    losses = {name: torch.stack(values, 1) for name, values in (pending_losses or {}).items()}  # (R, n)

    def write(i: int, run: Run) -> None:
        state = checkpoints.checkpoint_state(run.experiment, group.learner, i, resume_point, losses)
        # After a power failure the resumed run rewrites them from its checkpoint.
        run.folder.write_tables(run.experiment.record, run.experiment.metrics, durable=False)
        run.folder.write_checkpoint(state)
        run.status.heartbeat()

    def commit(i: int, run: Run) -> None:
        run.folder.commit_checkpoint(checkpoints.is_task_end(group.learner, run.saved))
        run.saved = resume_point

    group.for_each_active(write)
    group.for_each_active(commit)
