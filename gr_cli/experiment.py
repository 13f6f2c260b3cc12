"""The story of a run: task by task train, evaluate, save; and at the end, show."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from time import monotonic

import torch

from gr_cli import checkpoints
from gr_cli.assembly import Experiment, Stage, batches, passes, prepare, side_by_side
from gr_cli.checkpoints import Place
from gr_cli.config.settings import Settings
from gr_cli.errors import GrError, Interrupted, TrainingError, as_failure
from gr_cli.evaluation.accuracy import evaluate
from gr_cli.evaluation.reference_classifier import Judge
from gr_cli.evaluation.sample_quality import judge_dreams, judge_of
from gr_cli.facts import facts, training, went_on
from gr_cli.learner import Learner, Losses
from gr_cli.machine import flushing_denormals, memory_told, peak_memory, repeatable, thread_limit, warn_of_emulation
from gr_cli.pictures import draw_matrix, draw_samples
from gr_cli.results.folder import RunFolder, sibling
from gr_cli.results.history import History, OpenRow
from gr_cli.results.record import Record, Result
from gr_cli.results.status import Reached, Status, beating
from gr_cli.signals import Overdue, as_interrupts, not_kept_waiting, stop_requests
from gr_cli.stored import stored
from gr_cli.strategies.base import Position
from gr_cli.tracking import to_be_trusted
from gr_cli.view import View, Views

# No more than one part in so many of a run's time goes into checkpoints within tasks.
_WORTH_SAVING = 50
_PATIENCE = 10.0  # seconds that an evaluation has left when the run shall stop


@dataclass
class Run:
    """One run under way: what it is, where it is kept, from where it can go on, why it failed if it did, and who judges
    its dreams if anybody does."""

    experiment: Experiment
    folder: RunFolder
    status: Status
    states: dict[Place, checkpoints.Origin]
    saved: Place | None = None  # of the newest state in its folder
    failure: GrError | None = None
    judge: Judge | None = None


@dataclass
class Cohort:
    """Runs that are trained together by one learner; usually there is one. A run that fails leaves the others alone."""

    runs: list[Run]
    learner: Learner
    view: View
    alone: bool  # else a failure is told at once, and not by whoever wanted the run

    @property
    def going(self) -> list[tuple[int, Run]]:
        """The runs that have not failed, with their places among the replicas."""
        return [(i, run) for i, run in enumerate(self.runs) if run.failure is None]

    @property
    def folders(self) -> list[Path]:
        """Where the runs are kept."""
        return [run.folder.path for run in self.runs]

    def interrupted(self) -> Interrupted:
        """What to raise when all have saved their state because they were asked to stop."""
        return Interrupted(self.folders, to_be_trusted(self.runs[0].experiment.settings.config))

    def fail(self, run: Run, error: GrError) -> None:
        """Take note that a run failed; if it was the last one, that is the end of all."""
        if isinstance(error, TrainingError) and run.folder.has_checkpoint:
            error = TrainingError(f"{error}; the last good state is kept in {run.folder.path}")
        run.failure = error
        if len(self.runs) > 1:
            run.status.write_end(error)
        if not self.alone:
            self.view.failed(run.folder.path, error)
        if not self.going:
            raise error

    def each(self, do: Callable[[int, Run], object]) -> None:
        """`do` for each run that is still going, with its place among the replicas."""
        for i, run in self.going:
            try:
                do(i, run)
            except GrError as error:
                self.fail(run, error)
            except Exception as error:
                if len(self.runs) == 1:
                    raise
                self.fail(run, as_failure(error))


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
    outcome = run_together([settings], [folder], view)[0]
    if isinstance(outcome, GrError):
        raise outcome
    return outcome


def run_together(jobs: Sequence[Settings], folders: Sequence[RunFolder], view: View) -> list[Result | GrError]:
    """The same for several runs that are trained as one program: what each found, or why it failed.

    Raises:
        Interrupted: they were asked to stop.
    """
    outcomes: dict[int, Result | GrError] = {}
    view = Views(view)
    same = {i: [folder.path for folder in folders].index(mine.path) for i, mine in enumerate(folders)}
    alone = len(jobs) == 1

    def fail(i: int, error: Exception) -> None:
        outcomes[i] = failure = as_failure(error)
        if not alone:
            view.failed(folders[i].path, failure)

    with as_interrupts(), flushing_denormals(), ExitStack() as stack:
        ready: dict[int, Run] = {}
        for i, (settings, folder) in enumerate(zip(jobs, folders, strict=True)):
            if same[i] != i:
                continue
            try:
                if (result := stored(settings, folder)) is not None:
                    outcomes[i] = result
                    view.stored(settings, result)
                    continue
                experiment = prepare(settings, together=len(jobs))
                stack.enter_context(folder.locked())
                ready[i] = _run_of(experiment, folder)
            except Exception as error:
                if alone and not isinstance(error, GrError):
                    raise
                fail(i, error)
        for (place, _), members in _parties(ready).items():
            runs = [ready[i] for i in members]
            try:
                cohort = Cohort(runs, side_by_side([run.experiment for run in runs]), view, alone)
                outcomes |= zip(members, _see_through(cohort, place), strict=True)
            except Exception as error:
                if alone or isinstance(error, Interrupted):
                    raise
                for i in members:
                    fail(i, ready[i].failure or error)
    return [outcomes[same[i]] for i in range(len(jobs))]


def _run_of(experiment: Experiment, folder: RunFolder) -> Run:
    """The run of a folder that is held, ready to begin or to go on."""
    return Run(experiment, folder, Status(folder, facts(experiment)), checkpoints.available(experiment, folder))


def _parties(ready: Mapping[int, Run]) -> dict[tuple[Place, str], list[int]]:
    """Which of the runs go on together, and where: those that are at one place of one plan."""
    plans: dict[str, list[int]] = {}
    for i, run in ready.items():
        kind, heads = run.experiment.benchmark.kind, run.experiment.heads.tolist()
        plans.setdefault(str((kind, heads, [s.iterations for s in run.experiment.stages])), []).append(i)
    parties: dict[tuple[Place, str], list[int]] = {}
    for plan, members in plans.items():
        places = checkpoints.common_places([list(ready[i].states) for i in members])
        for i, place in zip(members, places, strict=True):
            parties.setdefault((place, plan), []).append(i)
    return parties


def _see_through(cohort: Cohort, place: Place) -> list[Result | GrError]:
    """Train a cohort from `place` on; the statuses say what became of its runs."""
    experiment = cohort.runs[0].experiment
    if experiment.learner.precision == "bf16":
        warn_of_emulation(experiment.learner.device)
    for i, run in enumerate(cohort.runs):
        before = (run.states[place].state or {}).get("training")
        now = training([run.experiment for run in cohort.runs], i)
        run.experiment.training = went_on(before, now, over=place.stage == len(experiment.stages))
        run.status.facts |= run.experiment.training
    with thread_limit(experiment.threads), repeatable(experiment.learner.device):
        try:
            open_row = _take_up(cohort, place)
            with beating([run.status for run in cohort.runs]), memory_told(runs=len(cohort.runs)):
                _train(cohort, place, open_row)
        except BaseException as error:
            for run in cohort.runs:
                if run.failure is None or len(cohort.runs) == 1:
                    run.status.write_end(error)
            cohort.view.close()
            if not isinstance(error, GrError) or isinstance(error, Interrupted) or cohort.going:
                raise
        cohort.each(_finish)
    results: list[Result | GrError] = [run.failure or _result(run) for run in cohort.runs]
    cohort.view.finished([run.experiment for run in cohort.runs], results)
    return results


def _take_up(cohort: Cohort, place: Place) -> OpenRow:
    """Bring the cohort to where its checkpoints were written; the losses since the last row of the history."""
    states = [checkpoints.settle(run.folder, cohort.learner, run.states, place) for run in cohort.runs]
    found = [state for state in states if state is not None]
    if not found:
        return {}
    experiments = [run.experiment for run in cohort.runs]
    for run, state in zip(cohort.runs, found, strict=True):
        run.experiment.record = Record.from_state(state["record"])
        run.saved = place
        run.states.clear()  # they take memory
    stage = min(place.stage, len(experiments[0].stages) - 1)
    learner, task = cohort.learner, experiments[0].stages[stage].task
    if learner.stretches is not None:
        task = learner.stretches.reached(*place)
    return checkpoints.take_up(learner, task, passes(experiments, stage), found)


def _finish(place: int, run: Run) -> None:
    # A run that had nothing left to train has not written them yet.
    run.folder.write_tables(run.experiment.record, run.experiment.metrics)
    run.status.write("finished")
    run.folder.drop_previous_checkpoint()


def _result(run: Run) -> Result:
    return Result(run.folder.path, run.experiment.record, run.experiment.metrics)


def _train(cohort: Cohort, place: Place, open_row: OpenRow) -> None:
    learner, view, experiments = cohort.learner, cohort.view, [run.experiment for run in cohort.runs]
    plan, (first, start) = experiments[0].stages, place
    cohort.each(lambda i, run: run.folder.write_config(run.experiment.settings.as_yaml()))
    reached = Reached([learner.strategy.steps(s.iterations) for s in plan], *place)
    cohort.each(lambda i, run: setattr(run.status, "reached", reached))
    cohort.each(lambda i, run: run.status.write("running"))
    if first < len(plan):
        cohort.each(lambda i, run: setattr(run, "judge", judge_of(run.experiment)))
    view.started(experiments, cohort.folders, reached.plan, place)
    if not experiments[0].record.evaluations:
        cohort.each(lambda i, run: evaluate(run.experiment, learner, i, after_task=-1, iteration=0, final=True))
        learner.clock.take()
    with stop_requests() as stop:
        for number, stage in enumerate(plan[first:], first):
            view.stage_started(number, [experiment.stages[number].name for experiment in experiments])
            watch = _Watch(cohort, reached, stop, open_row)
            stream, samples = batches(experiments, number, start), passes(experiments, number)
            learner.train_task(stage.task, stream, stage.iterations, watch, start, samples)
            watch.close()
            _look_back(cohort, stage, stop)
            reached.steps, reached.stage = 0, number + 1
            _save(cohort, Place(number + 1, 0))
            view.stage_finished(number, [run.experiment.record.matrix()[-1] for _, run in cohort.going])
            start, open_row = 0, {}
            if stop.is_set() and number + 1 < len(plan):
                raise cohort.interrupted()
    cohort.each(lambda i, run: draw_matrix(run.experiment, run.folder))


def _look_back(cohort: Cohort, stage: Stage, stop: threading.Event) -> None:
    """What a stage that is over has come to: accuracy on all tasks, how good the dreams are, a picture of them."""
    learner = cohort.learner
    batch = cohort.runs[0].experiment.settings.config["train"]["batch_size"]

    def look(i: int, run: Run) -> None:
        evaluate(run.experiment, learner, i, stage.task, stage.iterations, final=True)

    def judge(i: int, run: Run) -> None:
        if run.judge is not None:
            judge_dreams(run.experiment, learner, i, run.judge, stage.task)

    with _left_if_it_takes_long(cohort, stop):
        cohort.each(look)
        cohort.each(judge)
        row: dict[str, float] = {"task": stage.task}
        row |= learner.clock.row(stage.iterations * batch, len(cohort.runs))
        row["peak_memory_mib"] = peak_memory(learner.device) / 2**20 or float("nan")
        cohort.each(lambda i, run: run.experiment.record.timing.append(dict(row)))
        cohort.each(lambda i, run: draw_samples(run.experiment, learner, i, run.folder, stage.task))


@contextmanager
def _left_if_it_takes_long(cohort: Cohort, stop: threading.Event) -> Iterator[None]:
    """A block that changes nothing that is saved, and can be done again.

    Raises:
        Interrupted: it was to stop, and the block goes on and on. What was learnt since the last save is lost.
    """
    try:
        with not_kept_waiting(_PATIENCE, at_once=stop.is_set()):
            yield
    except Overdue:
        raise cohort.interrupted() from None


class _Watch:
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
            with _left_if_it_takes_long(cohort, self._stop):
                cohort.each(lambda i, run: evaluate(run.experiment, cohort.learner, i, position.task, done, False))
        self._reached.steps = done
        cohort.view.stepped(self._number, position, losses)
        now = monotonic()
        if self._stop.is_set() or now > self._next_save:
            _save(cohort, Place(self._number, done), self._history.open_row)
            self._saved(now)
        if self._stop.is_set():
            raise cohort.interrupted()


# --- saving


def _save(cohort: Cohort, place: Place, open_row: OpenRow | None = None) -> None:
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
