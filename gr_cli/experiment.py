"""The story of a run: task by task train, evaluate, save; and at the end, show."""

from __future__ import annotations

import shlex
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from time import monotonic
from types import FrameType
from typing import Any, NamedTuple

import torch

from gr_cli.assembly import Experiment, Stage, prepare, repeatable, thread_limit
from gr_cli.errors import FolderError, GrError
from gr_cli.learner import Losses
from gr_cli.results.folder import RunFolder, sibling
from gr_cli.results.record import EvaluationRow, History, OpenRow, Record, Result
from gr_cli.results.status import Status
from gr_cli.settings import Settings
from gr_cli.strategies.base import Position
from gr_cli.view import View

CHECKPOINT_VERSION = 1
SAMPLES_SHOWN = 50


class Interrupted(GrError):
    """The run was asked to stop, and saved its state."""

    exit_code = 130
    interrupted = True

    def __init__(self, folder: Path) -> None:
        super().__init__(f"interrupted; go on with: gr-run {shlex.quote(f'resume={folder}')}")


class Place(NamedTuple):
    """Where a run goes on: a stage, an iteration in it, and the losses since the last row of the history."""

    stage: int
    iteration: int
    open_row: OpenRow


def folder_of(settings: Settings, root: Path) -> RunFolder:
    """The folder of this run below `root`: a new sibling if it shall be fresh."""
    path = settings.folder(root)
    return RunFolder(sibling(path) if settings.config["fresh"] else path)


def run(settings: Settings, folder: RunFolder, view: View) -> Result:
    """Run what `settings` describe in `folder`: from the start, or from where it was left; show it if it is over.

    Raises:
        GrError: it could not begin, or it failed; `status.json` says so.
        Interrupted: it was asked to stop; the same call goes on.
    """
    if (folder.status() or {}).get("state") == "finished":
        result = stored(folder)
        view.stored(settings, result)
        return result
    experiment = prepare(settings)
    with folder.locked(), thread_limit(experiment.threads), repeatable(experiment.learner.device):
        place = _resume(experiment, folder)
        status = Status(folder, facts(experiment))
        try:
            result = _train(experiment, folder, place, status, view)
        except BaseException as error:
            view.close()
            status.write_end(error)
            raise
        status.write("finished")
    view.finished(experiment, result)
    return result


def _train(experiment: Experiment, folder: RunFolder, place: Place, status: Status, view: View) -> Result:
    learner, plan = experiment.learner, experiment.stages
    first, start, open_row = place
    folder.write_config(experiment.settings.as_yaml())
    status.write("running")
    view.started(experiment, folder.path, [learner.strategy.steps(s.iterations) for s in plan], (first, start))
    if not experiment.record.evaluations:
        evaluate(experiment, after_task=-1, iteration=0, final=True)
        learner.clock.take()
    with _stop_requests() as stop:
        for number, stage in enumerate(plan[first:], first):
            view.stage_started(number, stage.name)
            watch = _Watch(experiment, folder, view, stop, Place(number, start, open_row))
            batches = experiment.batches(stage, start)
            learner.train_task(stage.task, batches, stage.iterations, watch, start)
            watch.close()
            evaluate(experiment, stage.task, stage.iterations, final=True)
            experiment.record.timing.append(_timing(experiment, stage))
            _draw_samples(experiment, folder, stage.task)
            _save(experiment, folder, number + 1)
            view.stage_finished(number, stage.name, experiment.record.matrix()[-1])
            start, open_row = 0, {}
            if stop.is_set() and number + 1 < len(plan):
                raise Interrupted(folder.path)
    _draw_matrix(experiment, folder)
    return Result(folder.path, experiment.record, experiment.metrics)


def evaluate(experiment: Experiment, after_task: int, iteration: int, final: bool) -> None:
    """Evaluate the solver on all tasks and note it down; `after_task` -1 is before any training."""
    learner = experiment.learner
    for task in experiment.benchmark.tasks:
        units = learner.scenario.testing_units(learner.heads, task.id, after_task)
        for split, samples in task.splits().items():
            found = learner.evaluate(samples.batches(), units)
            experiment.record.evaluations.append(
                EvaluationRow(after_task, iteration, task.id, split, found.accuracy, found.loss, found.n, final)
            )


class _Watch:
    """Sees every training step: writes history, evaluates, saves and stops when it is time."""

    def __init__(
        self,
        experiment: Experiment,
        folder: RunFolder,
        view: View,
        stop: threading.Event,
        place: Place,
    ) -> None:
        config, task = experiment.settings.config, experiment.stages[place.stage].task
        self._experiment, self._folder, self._view, self._stop = experiment, folder, view, stop
        self._number = place.stage
        self._history = History(experiment.record, config["log"]["every"], task, place.iteration, place.open_row)
        self._evaluate_every: int | None = config["evaluate"]["every"]
        self._save_every, self._saved = config["checkpoint"]["every_seconds"], monotonic()

    def close(self) -> None:
        """The stage is over."""
        self._history.close()

    def __call__(self, position: Position, losses: Losses) -> None:
        done = position.iteration + 1
        self._history.add(position, losses)
        if self._evaluate_every and done % self._evaluate_every == 0 and done < position.iterations:
            evaluate(self._experiment, position.task, done, final=False)
        self._view.stepped(self._number, position, losses)
        if self._stop.is_set() or monotonic() - self._saved > self._save_every:
            _save(self._experiment, self._folder, self._number, done, self._history.open_row)
            self._saved = monotonic()
        if self._stop.is_set():
            raise Interrupted(self._folder.path)


# --- saving, and going on


def _save(
    experiment: Experiment,
    folder: RunFolder,
    stage: int,
    iteration: int = 0,
    open_row: OpenRow | None = None,
) -> None:
    """Write the tables, then the checkpoint from which the run goes on at `iteration` of `stage`."""
    kind = experiment.benchmark.kind
    folder.write_tables(experiment.record, experiment.metrics)
    folder.save_checkpoint(
        {
            "version": CHECKPOINT_VERSION,
            "identity": experiment.settings.identity,
            "kind": {"shape": kind.shape, "value_range": kind.value_range, "trials": kind.trials},
            "device": experiment.learner.device.type,
            "stage": stage,
            "iteration": iteration,
            "open_row": open_row or {},
            "record": experiment.record.state_dict(),
            "seconds": experiment.learner.clock.seconds,
            "learner": experiment.learner.state_dict(),
        }
    )


def _resume(experiment: Experiment, folder: RunFolder) -> Place:
    """Take up the newest checkpoint, if any: the stage and the iteration to go on with, and the open history row."""
    saved = folder.load_checkpoint()
    if saved is None:
        return Place(0, 0, {})
    device = experiment.learner.device
    if saved.get("version") != CHECKPOINT_VERSION or saved["identity"] != experiment.settings.identity:
        raise FolderError(f"{folder.path}: its checkpoint is of another version or configuration; use fresh=true")
    if saved["device"] != device.type:
        raise FolderError(
            f"{folder.path}: was begun on {saved['device']}, whose random numbers {device.type} does not have; "
            f"go on there, or use fresh=true"
        )
    experiment.record = Record.from_state(saved["record"])
    stage = experiment.stages[min(saved["stage"], len(experiment.stages) - 1)]
    experiment.learner.load_state_dict(saved["learner"], stage.task)
    experiment.learner.clock.seconds = dict(saved["seconds"])
    open_row = {name: [value.to(device) for value in values] for name, values in saved["open_row"].items()}
    return Place(saved["stage"], saved["iteration"], open_row)


def stored(folder: RunFolder) -> Result:
    """What a finished run had found."""
    saved = folder.load_checkpoint()
    if saved is None:
        raise FolderError(f"{folder.path}: is finished, but its checkpoint is gone; use fresh=true")
    return Result(folder.path, Record.from_state(saved["record"]), folder.metrics())


def facts(experiment: Experiment) -> dict[str, Any]:
    """What status.json tells of a run besides its state."""
    settings, learner = experiment.settings, experiment.learner
    device = learner.device
    return {
        "seed": settings.seed,
        "config_hash": settings.identity,
        "choices": settings.choices,
        "overrides": list(settings.overrides),
        "command": shlex.join(["gr-run", *settings.overrides]),
        "mode": "alone",
        "stores_raw_samples": learner.strategy.stores_raw_samples,
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else str(device),
        "threads": experiment.threads,
    }


def _timing(experiment: Experiment, stage: Stage) -> dict[str, float]:
    """Seconds of each kind of work in the stage that is over, and what they come to."""
    seconds = experiment.learner.clock.take()
    samples = stage.iterations * experiment.settings.config["train"]["batch_size"]
    training = seconds.get("solver", 0.0) + seconds.get("generator", 0.0)
    return {
        "task": stage.task,
        **{f"{name}_seconds": seconds.get(name, 0.0) for name in ("solver", "generator", "evaluation")},
        "samples_per_second": samples / training if training else float("nan"),
        "peak_memory_mib": _peak_memory(experiment.learner.device),
    }


def _peak_memory(device: torch.device) -> float:
    """Most memory held so far, MiB: of the GPU if there is one in use, else of this process."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**20
    if sys.platform == "win32":
        return float("nan")
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / 2**20 if sys.platform == "darwin" else peak / 2**10


@contextmanager
def _stop_requests() -> Iterator[threading.Event]:
    """An event that Ctrl-C or SIGTERM sets; the second Ctrl-C leaves at once."""
    stop = threading.Event()

    def request(number: int, frame: FrameType | None) -> None:
        if stop.is_set():
            raise KeyboardInterrupt
        stop.set()

    if threading.current_thread() is not threading.main_thread():
        yield stop
        return
    before = {number: signal.signal(number, request) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


# --- pictures


def _draw_samples(experiment: Experiment, folder: RunFolder, task: int) -> None:
    generator, draws = experiment.learner.generator, experiment.learner.draws
    if generator is None or len(experiment.benchmark.kind.shape) != 3:
        return
    from gr_cli.report import figures

    x = generator.generate(SAMPLES_SHOWN, generator=draws.generator("figure", task))
    title = f"{SAMPLES_SHOWN} samples that the generator dreams after task {task}"
    figures.samples(x, title, folder.figures / f"samples_task_{task}.png")


def _draw_matrix(experiment: Experiment, folder: RunFolder) -> None:
    from gr_cli.report import figures

    rows = {after: accuracies for after, accuracies in experiment.record.rows().items() if after >= 0}
    names = [task.name for task in experiment.benchmark.tasks]
    title = experiment.settings.title
    figures.matrix(rows, names, title, folder.figures / "accuracy_matrix.png")
    figures.curves(rows, names, title, folder.figures / "accuracy_curves.png")
