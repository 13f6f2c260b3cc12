"""The run observer that feeds the trackers: it sends the new rows of a run's record every few seconds."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from time import monotonic
from typing import TYPE_CHECKING

from gr_cli.config.groups import NAME_GROUPS
from gr_cli.config.settings import Settings, flatten
from gr_cli.errors import one_line
from gr_cli.results.accuracy import ACCURACY
from gr_cli.results.folder import RunFolder
from gr_cli.system.files import write_json
from gr_cli.system.messages import print_status
from gr_cli.system.reading import read_json
from gr_cli.system.signals import DeadlineExceeded, deadline_after_stop
from gr_cli.trackers.base import RunInfo, without_password
from gr_cli.trackers.step_axis import StepAxis, merge
from gr_cli.trackers.trust import build_tracker
from gr_cli.training.observer import RunObserver

if TYPE_CHECKING:
    from gr_cli.errors import GrError
    from gr_cli.results.metrics import MatrixRow
    from gr_cli.results.record import Record, Result
    from gr_cli.strategies.context import TrainingStep
    from gr_cli.training.experiment import Experiment
    from gr_cli.training.learner import Losses
    from gr_cli.training.stages import ResumePoint

_SYNC_SECONDS = 5.0  # least time between two transfers
_GRACE_SECONDS = 5.0  # time that a tracker has after a request to stop


class TrackerObserver(RunObserver):
    """Sends losses, tables, figures and the final state of each run to its tracker.

    An error of a tracker doesn't end a run: it is printed in one line, and the runs continue untracked.

    Args:
        sweep: Folder of the sweep that the runs belong to; None for a single run.
    """

    def __init__(self, sweep: Path | None = None) -> None:
        self._sweep = sweep
        self._tracked_runs: list[_TrackedRun] = []
        self._last_sync = monotonic()

    def started(
        self,
        experiments: Sequence[Experiment],
        folders: Sequence[Path],
        steps: Sequence[int],
        resume_point: ResumePoint,
    ) -> None:
        self._tracked_runs = []

        def track_all() -> None:
            for experiment, folder in zip(experiments, folders, strict=True):
                if _has_tracker(experiment.settings):
                    self._track(experiment.settings, folder, experiment.record).sync()

        self._guarded(track_all)

    def stepped(self, stage_index: int, step: TrainingStep, losses: Losses) -> None:
        if self._tracked_runs and monotonic() - self._last_sync > _SYNC_SECONDS:
            self._for_each_tracked(lambda tracked: tracked.sync())

    def stage_finished(self, stage_index: int, accuracies: Sequence[MatrixRow]) -> None:
        self._for_each_tracked(lambda tracked: tracked.sync())

    def finished(self, experiments: Sequence[Experiment], outcomes: Sequence[Result | GrError]) -> None:
        self._finish_all()

    def already_finished(self, settings: Settings, result: Result) -> None:
        if _has_tracker(settings):
            self._guarded(lambda: self._track(settings, result.folder, result.record).finish())
            self._tracked_runs = []

    def close(self) -> None:
        self._finish_all(deadline_now=True)

    def _finish_all(self, deadline_now: bool = False) -> None:
        self._for_each_tracked(lambda tracked: tracked.finish(), deadline_now)
        self._tracked_runs = []

    def _track(self, settings: Settings, folder: Path, record: Record) -> _TrackedRun:
        self._tracked_runs.append(_TrackedRun(settings, RunFolder(folder), record, self._sweep))
        return self._tracked_runs[-1]

    def _for_each_tracked(self, action: Callable[[_TrackedRun], None], deadline_now: bool = False) -> None:
        def act_on_all() -> None:
            for tracked in self._tracked_runs:
                action(tracked)

        self._guarded(act_on_all, deadline_now)
        self._last_sync = monotonic()

    def _guarded(self, action: Callable[[], None], deadline_now: bool = False) -> None:
        """Call `action`; on an error, print it and stop tracking. `deadline_now`: the time limit begins at once."""
        try:
            with deadline_after_stop(_GRACE_SECONDS, deadline_now), warnings.catch_warnings():
                warnings.simplefilter("ignore")  # warnings of the tracker's library don't concern the user
                action()
        except (Exception, DeadlineExceeded) as error:
            reason = without_password(f"{type(error).__name__}: {one_line(error)}")
            print_status(f"the tracker failed ({reason}); the run continues untracked")
            for tracked in self._tracked_runs:
                with suppress(Exception):
                    tracked.logger.close()
            self._tracked_runs = []


def _has_tracker(settings: Settings) -> bool:
    return settings.config["tracker"] is not None


@dataclass
class _SyncState:
    """How much of a run its tracker has: the content of tracker.json for one destination.

    Attributes:
        run_id: Identifier of the run in the tracker; None before it is created there.
        last_step: Last step that was sent; -1: none.
        history_rows: Rows of the loss history that were sent.
        accuracy_rows: Rows of the accuracies that were sent.
        num_images: Tasks whose figure of generated samples was sent.
        table_rows: Rows of the other evaluations that were sent, by table.
        state: State of the run that was sent last.
    """

    run_id: str | None = None
    last_step: int = -1
    history_rows: int = 0
    accuracy_rows: int = 0
    num_images: int = 0
    table_rows: dict[str, int] = field(default_factory=dict)
    state: str = "running"


class _TrackedRun:
    """A run with its logger and its state of synchronization."""

    def __init__(self, settings: Settings, folder: RunFolder, record: Record, sweep: Path | None) -> None:
        self._folder, self._settings, self._record, self._sweep = folder, settings, record, sweep
        self._tracker = build_tracker(settings.config["tracker"])
        self._file = folder.path / "tracker.json"
        self._stored_states = read_json(self._file) if self._file.exists() else {}
        self._sync_state = _SyncState(**self._stored_states.get(self._tracker.destination, {}))
        self._rows_at_last_sync = 0  # rows of the whole record
        if self._sync_state.state == "finished":
            return
        known_id = self._sync_state.run_id
        self.logger = self._tracker.run_logger(self._run_info(), known_id, self._sync_state.last_step)
        if self.logger.run_id != known_id:
            self._sync_state = _SyncState(self.logger.run_id)
        self._sync_state.state = "running"
        self._store_state()

    def _run_info(self) -> RunInfo:
        settings, path = self._settings, self._folder.path
        tags = {"seed": str(settings.seed), "config_hash": settings.identity}
        tags |= {group: settings.choices[group] for group in NAME_GROUPS if group in settings.choices}
        return RunInfo(path, settings.title, flatten(settings.config) | {"folder": str(path)}, tags, self._sweep)

    def sync(self) -> None:
        """Send the rows and figures that were added since the last call.

        A resumed run repeats the steps after its checkpoint: their rows were sent already, and are skipped.
        """
        record, sent = self._record, self._sync_state
        num_rows = len(record.history) + sum(len(table.rows) for table in record.tables.values())
        if num_rows == self._rows_at_last_sync:
            return
        self._rows_at_last_sync, history, accuracies = num_rows, record.history, record.accuracy_rows
        finished_tasks = [task for task in record.accuracy_by_training() if task >= 0]
        axis = StepAxis(history, accuracies, finished_tasks)
        metrics = merge(
            axis.loss_metrics(history, sent.history_rows), axis.accuracy_metrics(accuracies, sent.accuracy_rows)
        )
        for name, table in record.tables.items():
            if name != ACCURACY.name and table.format.layout == "lines":
                metrics = merge(metrics, axis.table_metrics(table.format, table.rows, sent.table_rows.get(name, 0)))
                sent.table_rows[name] = max(sent.table_rows.get(name, 0), len(table.rows))
        for task in finished_tasks[sent.num_images :]:
            figure, end = self._folder.sample_figure(task), axis.task_ends[task]
            self.logger.log_metrics({step: metrics.pop(step) for step in list(metrics) if step <= end})
            if figure.exists():
                self.logger.log_image("samples", figure, end)
        self.logger.log_metrics(metrics)
        self.logger.flush()
        sent.history_rows = max(sent.history_rows, len(history))
        sent.accuracy_rows = max(sent.accuracy_rows, len(accuracies))
        sent.num_images = max(sent.num_images, len(finished_tasks))
        sent.last_step = max(sent.last_step, axis.last_step)
        self._store_state()

    def finish(self) -> None:
        """Send the remaining rows, the state in which the run ended, and its metrics."""
        if self._sync_state.state == "finished":
            return
        self.sync()
        self._sync_state.state = str((self._folder.status() or {}).get("state"))
        values = self._folder.metrics() if self._sync_state.state == "finished" else {}
        metrics = {name: value for name, value in values.items() if value is not None}
        self.logger.finish(self._sync_state.state, metrics, max(self._sync_state.last_step, 0))
        self._store_state()

    def _store_state(self) -> None:
        """Write tracker.json."""
        write_json(self._file, self._stored_states | {self._tracker.destination: asdict(self._sync_state)})
