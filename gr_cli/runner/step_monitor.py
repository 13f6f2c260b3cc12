"""What happens between the steps of a task: history, evaluations within it, checkpoints, Ctrl-C."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from time import monotonic

import torch

from gr_cli.errors import TrainingError
from gr_cli.results.history import History, OpenRow
from gr_cli.results.status import Reached
from gr_cli.runner import checkpoints
from gr_cli.runner.group import Cohort, Run
from gr_cli.strategies.steps import Position
from gr_cli.system.signals import Overdue, not_kept_waiting
from gr_cli.training.learner import Losses
from gr_cli.training.stages import Place

# No more than one part in so many of a run's time goes into checkpoints within tasks.
_WORTH_SAVING = 50
GRACE_SECONDS = 10.0  # seconds that an evaluation has left when the run shall stop


@contextmanager
def interruptible(cohort: Cohort, stop: threading.Event) -> Iterator[None]:
    """A block that changes nothing that is saved, and can be done again.

    Raises:
        Interrupted: it was to stop, and the block goes on and on. What was learnt since the last save is lost.
    """
    try:
        with not_kept_waiting(GRACE_SECONDS, at_once=stop.is_set()):
            yield
    except Overdue:
        raise cohort.interrupted() from None


class StepMonitor:
    """Sees every training step: writes history, evaluates, saves and stops when it is time."""

    def __init__(self, cohort: Cohort, reached: Reached, stop: threading.Event, open_row: OpenRow) -> None:
        experiment = cohort.runs[0].experiment
        config, task = experiment.settings.config, experiment.stages[reached.stage].task
        records = [run.experiment.record for run in cohort.runs]
        self._cohort, self._reached, self._stop, self._number = cohort, reached, stop, reached.stage
        self._history = History(records, config["log"]["every"], task, reached.steps, open_row)
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
        self._next_save = now + max(self._save_every, _WORTH_SAVING * (now - since))

    def __call__(self, position: Position, losses: Losses) -> None:
        done, cohort = position.iteration + 1, self._cohort
        self._fail(self._history.add(position.iteration, losses))
        if self._evaluate_every and done % self._evaluate_every == 0 and done < position.iterations:
            with interruptible(cohort, self._stop):
                cohort.measure(position.task, done, final=False)
        self._reached.steps = done
        cohort.view.stepped(self._number, position, losses)
        now = monotonic()
        if self._stop.is_set() or now > self._next_save:
            save(cohort, Place(self._number, done), self._history.open_row)
            self._saved(now)
        if self._stop.is_set():
            raise cohort.interrupted()


def save(cohort: Cohort, place: Place, open_row: OpenRow | None = None) -> None:
    """Write the tables, then the state from which each run goes on at `place`."""
    losses = {name: torch.stack(values, 1) for name, values in (open_row or {}).items()}  # (R, n)

    def write(i: int, run: Run) -> None:
        state = checkpoints.state_of(run.experiment, cohort.learner, i, place, losses)
        run.folder.write_tables(run.experiment.record, run.experiment.metrics)
        run.folder.write_checkpoint(state)
        run.status.beat()

    def adopt(i: int, run: Run) -> None:
        run.folder.adopt_checkpoint(checkpoints.is_task_end(cohort.learner, run.saved))
        run.saved = place

    cohort.each(write)
    cohort.each(adopt)
