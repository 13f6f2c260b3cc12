"""What runs find is sent to their trackers as it comes: the rows of a record that were not sent before."""

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

_SYNC_SECONDS = 5.0
_GRACE_SECONDS = 5.0  # seconds that a tracker has left when the run shall stop


class TrackerObserver(RunObserver):
    """Tells the tracker of each run, if it has one, what it saves. `sweep`: the folder of the sweep they are part of.

    Nothing that only watches a run shall end it: when a tracker fails, that is told in a line, and the runs go on
    untracked.
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

        def follow() -> None:
            for experiment, folder in zip(experiments, folders, strict=True):
                if _has_tracker(experiment.settings):
                    self._track(experiment.settings, folder, experiment.record).sync()

        self._guarded(follow)

    def stepped(self, stage_index: int, step: TrainingStep, losses: Losses) -> None:
        if self._tracked_runs and monotonic() - self._last_sync > _SYNC_SECONDS:
            self._for_each_tracked(lambda followed: followed.sync())

    def stage_finished(self, stage_index: int, accuracies: Sequence[MatrixRow]) -> None:
        self._for_each_tracked(lambda followed: followed.sync())

    def finished(self, experiments: Sequence[Experiment], outcomes: Sequence[Result | GrError]) -> None:
        self._finish_all()

    def already_finished(self, settings: Settings, result: Result) -> None:
        if _has_tracker(settings):
            self._guarded(lambda: self._track(settings, result.folder, result.record).finish())
            self._tracked_runs = []

    def close(self) -> None:
        self._finish_all(at_once=True)

    def _finish_all(self, at_once: bool = False) -> None:
        self._for_each_tracked(lambda followed: followed.finish(), at_once)
        self._tracked_runs = []

    def _track(self, settings: Settings, folder: Path, record: Record) -> _TrackedRun:
        self._tracked_runs.append(_TrackedRun(settings, RunFolder(folder), record, self._sweep))
        return self._tracked_runs[-1]

    def _for_each_tracked(self, do: Callable[[_TrackedRun], None], at_once: bool = False) -> None:
        def each() -> None:
            for followed in self._tracked_runs:
                do(followed)

        self._guarded(each, at_once)
        self._last_sync = monotonic()

    def _guarded(self, do: Callable[[], None], at_once: bool = False) -> None:
        """`do`, whatever comes of it; where the runs end otherwise than finished, `at_once`."""
        try:
            with deadline_after_stop(_GRACE_SECONDS, at_once), warnings.catch_warnings():
                warnings.simplefilter("ignore")  # what a library has to say of itself is no news of the run
                do()
        except (Exception, DeadlineExceeded) as error:
            why = without_password(f"{type(error).__name__}: {one_line(error)}")
            print_status(f"the tracker failed ({why}); what runs goes on untracked")
            for followed in self._tracked_runs:
                with suppress(Exception):
                    followed.logger.close()
            self._tracked_runs = []


def _has_tracker(settings: Settings) -> bool:
    return settings.config["tracker"] is not None


@dataclass
class _SyncState:
    """How much of a run a tracker was told: rows of its tables, the pictures after how many trainings, the last step,
    and how the run ended; `tables`: rows of what was measured besides accuracy. `run`: by what the tracker knows it."""

    run_id: str | None = None
    last_step: int = -1
    history_rows: int = 0
    accuracy_rows: int = 0
    num_images: int = 0
    table_rows: dict[str, int] = field(default_factory=dict)
    state: str = "running"


class _TrackedRun:
    """A run, and its log."""

    def __init__(self, settings: Settings, folder: RunFolder, record: Record, sweep: Path | None) -> None:
        self._folder, self._settings, self._record, self._sweep = folder, settings, record, sweep
        self._tracker = build_tracker(settings.config["tracker"])
        self._file = folder.path / "tracker.json"
        self._stored_states = read_json(self._file) if self._file.exists() else {}
        self._sync_state = _SyncState(**self._stored_states.get(self._tracker.destination, {}))
        self._rows_at_last_sync = 0  # rows of the record at the last look
        if self._sync_state.state == "finished":
            return
        known = self._sync_state.run_id
        self.logger = self._tracker.run_logger(self._run_info(), known, self._sync_state.last_step)
        if self.logger.run_id != known:
            self._sync_state = _SyncState(self.logger.run_id)
        self._sync_state.state = "running"
        self._store_state()

    def _run_info(self) -> RunInfo:
        settings, path = self._settings, self._folder.path
        tags = {"seed": str(settings.seed), "config_hash": settings.identity}
        tags |= {group: settings.choices[group] for group in NAME_GROUPS if group in settings.choices}
        return RunInfo(path, settings.title, flatten(settings.config) | {"folder": str(path)}, tags, self._sweep)

    def sync(self) -> None:
        """Send what was found since the last look. A resumed run finds again what it had not saved, which was sent."""
        record, told = self._record, self._sync_state
        found = len(record.history) + sum(len(table.rows) for table in record.tables.values())
        if found == self._rows_at_last_sync:
            return
        self._rows_at_last_sync, history, evaluations = found, record.history, record.accuracy_rows
        over = [after for after in record.accuracy_by_training() if after >= 0]
        steps = StepAxis(history, evaluations, over)
        rows = merge(
            steps.loss_metrics(history, told.history_rows), steps.accuracy_metrics(evaluations, told.accuracy_rows)
        )
        for name, table in record.tables.items():
            if name != ACCURACY.name and table.format.layout == "lines":
                rows = merge(rows, steps.table_metrics(table.format, table.rows, told.table_rows.get(name, 0)))
                told.table_rows[name] = max(told.table_rows.get(name, 0), len(table.rows))
        for task in over[told.num_images :]:
            picture, end = self._folder.figures / f"samples_task_{task}.png", steps.task_ends[task]
            self.logger.log_metrics({step: rows.pop(step) for step in list(rows) if step <= end})
            if picture.exists():
                self.logger.log_image("samples", picture, end)
        self.logger.log_metrics(rows)
        self.logger.flush()
        told.history_rows, told.accuracy_rows = (
            max(told.history_rows, len(history)),
            max(told.accuracy_rows, len(evaluations)),
        )
        told.num_images, told.last_step = max(told.num_images, len(over)), max(told.last_step, steps.last_step)
        self._store_state()

    def finish(self) -> None:
        """Tell what was not told yet, how the run ended, and what it found."""
        if self._sync_state.state == "finished":
            return
        self.sync()
        self._sync_state.state = str((self._folder.status() or {}).get("state"))
        found = self._folder.metrics() if self._sync_state.state == "finished" else {}
        metrics = {name: value for name, value in found.items() if value is not None}
        self.logger.finish(self._sync_state.state, metrics, max(self._sync_state.last_step, 0))
        self._store_state()

    def _store_state(self) -> None:
        """Write down what was told, so that nothing is told twice."""
        write_json(self._file, self._stored_states | {self._tracker.destination: asdict(self._sync_state)})
