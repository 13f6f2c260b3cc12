"""Trackers are told of runs by reading what the runs save: a folder is the truth, and what is newer there is told."""

from __future__ import annotations

import shlex
import warnings
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from importlib.util import find_spec
from itertools import groupby
from pathlib import Path
from time import monotonic
from typing import TYPE_CHECKING, Any

from gr_cli.config.instantiate import build_as, foreign_targets
from gr_cli.config.settings import Settings, flat
from gr_cli.errors import CompositionError, FolderError, one_line
from gr_cli.results.folder import RunFolder
from gr_cli.system.files import write_json
from gr_cli.system.messages import tell
from gr_cli.system.reading import read_json, read_table
from gr_cli.system.signals import Overdue, not_kept_waiting
from gr_cli.trackers.base import Tracked, Tracker, without_password
from gr_cli.view import View

if TYPE_CHECKING:
    from gr_cli.assembly import Experiment
    from gr_cli.errors import GrError
    from gr_cli.learner import Losses
    from gr_cli.results.metrics import Row
    from gr_cli.results.record import Result
    from gr_cli.runner.checkpoints import Place
    from gr_cli.strategies.steps import Position

_SECONDS_BETWEEN_LOOKS = 5.0
_PATIENCE = 5.0  # seconds that a tracker has left when the run shall stop
_Table = list[dict[str, str]]
_Rows = dict[int, dict[str, float]]


def check_tracker(config: Mapping[str, Any]) -> None:
    """Refuse, in one line, a tracker that does not take its settings, or whose library is not there.

    Raises:
        CompositionError: says what to install.
        ConfigError: says which setting it is.
    """
    if config["tracker"] is not None:
        _built(config["tracker"])


def _built(node: Mapping[str, Any]) -> Tracker:
    tracker: Tracker = build_as(Tracker, node, "tracker")  # type: ignore[type-abstract]
    if tracker.library is not None:
        _check_installed(tracker.library)
    return tracker


def _check_installed(library: str) -> None:
    spec = find_spec(library)
    if spec is None or spec.origin is None:  # a folder of that name, which a tracker may have left here, is no library
        raise CompositionError(
            f"tracker={library}: its package is not installed; install it with: pip install 'gr-cli[{library}]'"
        )


def sends_to(config: Mapping[str, Any]) -> list[str]:
    """The address to which the tracker of a run sends what it is told, if the run's own configuration gives it. What
    was made elsewhere sends what it likes: it is code that the user must trust anyway."""
    node = config["tracker"]
    if node is None or foreign_targets({"tracker": node}):
        return []
    address = build_as(Tracker, node, "tracker").sends_to  # type: ignore[type-abstract]
    return [] if address is None else [address]


def to_be_trusted(config: Mapping[str, Any]) -> list[str]:
    """What a run's configuration names that must be named again, by `trust=`, to go on with its folder."""
    return foreign_targets(config) + sends_to(config)


def check_address(path: Path, config: Mapping[str, Any], trust: Collection[str]) -> None:
    """Refuse to go on with the run in `path` if it would be told at an address that only its folder names: a folder may
    come from anywhere.

    Raises:
        FolderError: says how to agree.
    """
    for address in sends_to(config):
        if address not in trust:
            raise FolderError(
                f"{path / 'config.yaml'}: names {address} as where the run is tracked; if it shall be told there, say "
                f"{shlex.quote(f'trust={address}')}"
            )


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
                    self._follow(experiment.settings, folder).look()

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
            self._harmless(lambda: self._follow(settings, result.folder).end())
            self._followed = []

    def close(self) -> None:
        self._end(at_once=True)

    def _end(self, at_once: bool = False) -> None:
        self._each(lambda followed: followed.end(), at_once)
        self._followed = []

    def _follow(self, settings: Settings, folder: Path) -> _Followed:
        self._followed.append(_Followed(settings, RunFolder(folder), self._sweep))
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
                    followed.let_go()
            self._followed = []


def _asks(settings: Settings) -> bool:
    return settings.config["tracker"] is not None


@dataclass
class _Told:
    """How much of a run a tracker was told: rows of its tables, the pictures after how many trainings, the last step,
    and how the run ended. `run`: by what the tracker knows it."""

    run: str | None = None
    step: int = -1
    history: int = 0
    evaluations: int = 0
    pictures: int = 0
    state: str = "running"


class _Followed:
    """A run, and its log."""

    def __init__(self, settings: Settings, folder: RunFolder, sweep: Path | None) -> None:
        self._folder, self._settings, self._sweep = folder, settings, sweep
        self._tracker = _built(settings.config["tracker"])
        self._notes = _read_json(self._file)
        self._told = _Told(**self._notes.get(self._tracker.place, {}))
        self._saved: object = None
        if self._told.state == "finished":
            return
        known = self._told.run
        self._log = self._tracker.log(self._tracked(), known, self._told.step)
        if self._log.id != known:
            self._told = _Told(self._log.id)
        self._told.state = "running"
        self._note()

    @property
    def _file(self) -> Path:
        return self._folder.path / "tracker.json"

    def _tracked(self) -> Tracked:
        settings, path = self._settings, self._folder.path
        tags = {"seed": str(settings.seed), "config_hash": settings.identity}
        tags |= {group: settings.choices[group] for group in _TAGGED if group in settings.choices}
        return Tracked(path, settings.title, flat(settings.config) | {"folder": str(path)}, tags, self._sweep)

    def look(self) -> None:
        """Tell what was saved since the last look."""
        saved = _stamp(self._folder.path / "history.csv")
        if saved is None or saved == self._saved:
            return
        self._saved, told = saved, self._told
        history, evaluations, matrix = (
            read_table(self._folder.path / f"{name}.csv") for name in ("history", "evaluations", "accuracy_matrix")
        )
        over = [int(row["after_task"]) for row in matrix]
        steps = _Steps(history, evaluations, over)
        rows = _sum(steps.of_losses(history, told.history), steps.of_accuracies(evaluations, told.evaluations))
        for task in over[told.pictures :]:
            picture, end = self._folder.figures / f"samples_task_{task}.png", steps.end(task)
            self._log.rows({step: rows.pop(step) for step in list(rows) if step <= end})
            if picture.exists():
                self._log.picture("samples", picture, end)
        self._log.rows(rows)
        self._log.flush()
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
        self._log.end(self._told.state, metrics, max(self._told.step, 0))
        self._note()

    def let_go(self) -> None:
        """No more of this."""
        self._log.close()

    def _note(self) -> None:
        """Write down what was told, so that nothing is told twice."""
        write_json(self._file, self._notes | {self._tracker.place: asdict(self._told)})


# What a run is found by.
_TAGGED = ("strategy", "generator", "benchmark")


class _Steps:
    """Where on one axis things lie that are counted by task: each task begins where the one before ended."""

    def __init__(self, history: _Table, evaluations: _Table, over: Sequence[int]) -> None:
        lengths: dict[int, int] = {}
        for rows, column in ((history, "task"), (evaluations, "after_task")):
            for row in rows:
                task = int(row[column])
                lengths[task] = max(lengths.get(task, 0), int(row["iteration"]))
        self._ends, self._over, self.last = {-1: 0}, set(over), 0
        self._begins: dict[int, int] = {-1: 0}
        for task in sorted(lengths):
            self._begins[task] = self.last
            self.last += lengths[task]
            self._ends[task] = self.last

    def end(self, task: int) -> int:
        """Where a task ended."""
        return self._ends[task]

    def of_losses(self, history: _Table, known: int) -> _Rows:
        """The losses after the first `known` rows, by step."""
        return {
            self._begins[int(row["task"])] + int(row["iteration"]): {
                f"loss/{name}": float(value)
                for name, value in row.items()
                if value and name not in ("task", "iteration")
            }
            for row in history[known:]
        }

    def of_accuracies(self, evaluations: _Table, known: int) -> _Rows:
        """The accuracies after the first `known` rows, by step; `mean`: of the tasks so far."""
        groups = [
            (key, list(rows))
            for key, rows in groupby(evaluations, lambda row: (int(row["after_task"]), int(row["iteration"])))
        ]
        # What was looked at last, after a training that is over, was at its end, in whatever iterations that counts.
        last = {after: i for i, ((after, _), _) in enumerate(groups) if after in self._over}
        found: _Rows = {}
        for i, ((after, iteration), rows) in enumerate(groups):
            fresh, known = known <= 0, known - len(rows)
            if fresh:
                step = self._ends[after] if last.get(after) == i else self._begins[after] + iteration
                found = _sum(found, {step: _accuracies(rows, after)})
        return found


def _accuracies(rows: _Table, after: int) -> dict[str, float]:
    found: dict[str, float] = {}
    for split in dict.fromkeys(row["split"] for row in rows):
        name = "accuracy" if split == "test" else f"{split}_accuracy"
        values = {int(row["task"]): float(row["accuracy"]) for row in rows if row["split"] == split}
        found |= {f"{name}/task_{task}": value for task, value in values.items()}
        so_far = [value for task, value in values.items() if task <= after]
        if so_far:
            found[f"{name}/mean"] = sum(so_far) / len(so_far)
    return found


def _sum(one: _Rows, other: _Rows) -> _Rows:
    """The values of both, steps ascending."""
    return {step: {**one.get(step, {}), **other.get(step, {})} for step in sorted({**one, **other})}


def _read_json(path: Path) -> dict[str, Any]:
    with suppress(FileNotFoundError):
        return read_json(path)
    return {}


def _stamp(path: Path) -> object:
    """Which version of a file there is; None: none."""
    with suppress(FileNotFoundError):
        found = path.stat()
        return found.st_mtime_ns, found.st_ino
    return None
