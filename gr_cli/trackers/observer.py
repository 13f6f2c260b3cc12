"""What runs find is sent to their trackers as it comes: the rows of a record that were not sent before."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from time import monotonic
from typing import TYPE_CHECKING

from gr_cli.config.groups import NAMING
from gr_cli.config.settings import Settings, flat
from gr_cli.errors import one_line
from gr_cli.results.accuracy import ACCURACY
from gr_cli.results.folder import RunFolder
from gr_cli.system.files import write_json
from gr_cli.system.messages import tell
from gr_cli.system.reading import read_json
from gr_cli.system.signals import Overdue, not_kept_waiting
from gr_cli.trackers.base import Tracked, without_password
from gr_cli.trackers.step_axis import StepAxis, merged
from gr_cli.trackers.trust import tracker_of
from gr_cli.training.observer import View

if TYPE_CHECKING:
    from gr_cli.errors import GrError
    from gr_cli.results.metrics import Row
    from gr_cli.results.record import Record, Result
    from gr_cli.strategies.steps import Position
    from gr_cli.training.experiment import Experiment
    from gr_cli.training.learner import Losses
    from gr_cli.training.stages import Place

_SECONDS_BETWEEN_LOOKS = 5.0
_PATIENCE = 5.0  # seconds that a tracker has left when the run shall stop


class Tracking(View):
    """Tells the tracker of each run, if it has one, what it saves. `sweep`: the folder of the sweep they are part of.

    Nothing that only watches a run shall end it: when a tracker fails, that is told in a line, and the runs go on
    untracked.
    """

    def __init__(self, sweep: Path | None = None) -> None:
        self._sweep = sweep
        self._followed: list[_Followed] = []
        self._looked = monotonic()

    def started(
        self, experiments: Sequence[Experiment], folders: Sequence[Path], steps: Sequence[int], done: Place
    ) -> None:
        self._followed = []

        def follow() -> None:
            for experiment, folder in zip(experiments, folders, strict=True):
                if _asks(experiment.settings):
                    self._follow(experiment.settings, folder, experiment.record).look()

        self._harmless(follow)

    def stepped(self, number: int, position: Position, losses: Losses) -> None:
        if self._followed and monotonic() - self._looked > _SECONDS_BETWEEN_LOOKS:
            self._each(lambda followed: followed.look())

    def stage_finished(self, number: int, accuracies: Sequence[Row]) -> None:
        self._each(lambda followed: followed.look())

    def finished(self, experiments: Sequence[Experiment], outcomes: Sequence[Result | GrError]) -> None:
        self._end()

    def stored(self, settings: Settings, result: Result) -> None:
        if _asks(settings):
            self._harmless(lambda: self._follow(settings, result.folder, result.record).end())
            self._followed = []

    def close(self) -> None:
        self._end(at_once=True)

    def _end(self, at_once: bool = False) -> None:
        self._each(lambda followed: followed.end(), at_once)
        self._followed = []

    def _follow(self, settings: Settings, folder: Path, record: Record) -> _Followed:
        self._followed.append(_Followed(settings, RunFolder(folder), record, self._sweep))
        return self._followed[-1]

    def _each(self, do: Callable[[_Followed], None], at_once: bool = False) -> None:
        def each() -> None:
            for followed in self._followed:
                do(followed)

        self._harmless(each, at_once)
        self._looked = monotonic()

    def _harmless(self, do: Callable[[], None], at_once: bool = False) -> None:
        """`do`, whatever comes of it; where the runs end otherwise than finished, `at_once`."""
        try:
            with not_kept_waiting(_PATIENCE, at_once), warnings.catch_warnings():
                warnings.simplefilter("ignore")  # what a library has to say of itself is no news of the run
                do()
        except (Exception, Overdue) as error:
            why = without_password(f"{type(error).__name__}: {one_line(error)}")
            tell(f"the tracker failed ({why}); what runs goes on untracked")
            for followed in self._followed:
                with suppress(Exception):
                    followed.log.close()
            self._followed = []


def _asks(settings: Settings) -> bool:
    return settings.config["tracker"] is not None


@dataclass
class _Told:
    """How much of a run a tracker was told: rows of its tables, the pictures after how many trainings, the last step,
    and how the run ended; `tables`: rows of what was measured besides accuracy. `run`: by what the tracker knows it."""

    run: str | None = None
    step: int = -1
    history: int = 0
    evaluations: int = 0
    pictures: int = 0
    tables: dict[str, int] = field(default_factory=dict)
    state: str = "running"


class _Followed:
    """A run, and its log."""

    def __init__(self, settings: Settings, folder: RunFolder, record: Record, sweep: Path | None) -> None:
        self._folder, self._settings, self._record, self._sweep = folder, settings, record, sweep
        self._tracker = tracker_of(settings.config["tracker"])
        self._file = folder.path / "tracker.json"
        self._notes = read_json(self._file) if self._file.exists() else {}
        self._told = _Told(**self._notes.get(self._tracker.place, {}))
        self._seen = 0  # rows of the record at the last look
        if self._told.state == "finished":
            return
        known = self._told.run
        self.log = self._tracker.log(self._tracked(), known, self._told.step)
        if self.log.id != known:
            self._told = _Told(self.log.id)
        self._told.state = "running"
        self._note()

    def _tracked(self) -> Tracked:
        settings, path = self._settings, self._folder.path
        tags = {"seed": str(settings.seed), "config_hash": settings.identity}
        tags |= {group: settings.choices[group] for group in NAMING if group in settings.choices}
        return Tracked(path, settings.title, flat(settings.config) | {"folder": str(path)}, tags, self._sweep)

    def look(self) -> None:
        """Send what was found since the last look. A resumed run finds again what it had not saved, which was sent."""
        record, told = self._record, self._told
        found = len(record.history) + sum(len(table.rows) for table in record.tables.values())
        if found == self._seen:
            return
        self._seen, history, evaluations = found, record.history, record.accuracies
        over = [after for after in record.rows() if after >= 0]
        steps = StepAxis(history, evaluations, over)
        rows = merged(steps.of_losses(history, told.history), steps.of_accuracies(evaluations, told.evaluations))
        for name, table in record.tables.items():
            if name != ACCURACY.name and table.format.layout == "lines":
                rows = merged(rows, steps.of_table(table.format, table.rows, told.tables.get(name, 0)))
                told.tables[name] = max(told.tables.get(name, 0), len(table.rows))
        for task in over[told.pictures :]:
            picture, end = self._folder.figures / f"samples_task_{task}.png", steps.ends[task]
            self.log.rows({step: rows.pop(step) for step in list(rows) if step <= end})
            if picture.exists():
                self.log.picture("samples", picture, end)
        self.log.rows(rows)
        self.log.flush()
        told.history, told.evaluations = max(told.history, len(history)), max(told.evaluations, len(evaluations))
        told.pictures, told.step = max(told.pictures, len(over)), max(told.step, steps.last)
        self._note()

    def end(self) -> None:
        """Tell what was not told yet, how the run ended, and what it found."""
        if self._told.state == "finished":
            return
        self.look()
        self._told.state = str((self._folder.status() or {}).get("state"))
        found = self._folder.metrics() if self._told.state == "finished" else {}
        metrics = {name: value for name, value in found.items() if value is not None}
        self.log.end(self._told.state, metrics, max(self._told.step, 0))
        self._note()

    def _note(self) -> None:
        """Write down what was told, so that nothing is told twice."""
        write_json(self._file, self._notes | {self._tracker.place: asdict(self._told)})
