"""The story of a run: task by task train, evaluate, save; and at the end, show."""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path

from gr_cli.config.settings import Settings
from gr_cli.errors import GrError, Interrupted, as_failure
from gr_cli.evaluation.base import evaluations_of
from gr_cli.results.folder import RunFolder, sibling
from gr_cli.results.history import OpenRow
from gr_cli.results.record import Record, Result
from gr_cli.results.status import Reached, Status, beating
from gr_cli.runner import checkpoints
from gr_cli.runner.finished import stored
from gr_cli.runner.group import Cohort, Run
from gr_cli.runner.provenance import facts, training, went_on
from gr_cli.runner.run_figures import draw_matrix, draw_samples
from gr_cli.runner.step_monitor import StepMonitor, interruptible, save
from gr_cli.system.devices import flushing_denormals, repeatable, thread_limit, warn_of_emulation
from gr_cli.system.memory import memory_told, peak_memory
from gr_cli.system.signals import as_interrupts, stop_requests
from gr_cli.training.batches import batches, passes
from gr_cli.training.experiment import prepare
from gr_cli.training.observer import View, Views
from gr_cli.training.stacking import side_by_side
from gr_cli.training.stages import Place, Stage


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
                states = checkpoints.available(experiment, folder)
                ready[i] = Run(experiment, folder, Status(folder, facts(experiment)), states)
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


def _parties(ready: Mapping[int, Run]) -> dict[tuple[Place, str], list[int]]:
    """Which of the runs go on together, and where: those that are at one place of one plan."""
    plans: dict[str, list[int]] = {}
    for i, run in ready.items():
        spec, heads = run.experiment.benchmark.spec, run.experiment.heads.tolist()
        plans.setdefault(str((spec, heads, [s.iterations for s in run.experiment.stages])), []).append(i)
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
    results: list[Result | GrError] = [
        run.failure or Result(run.folder.path, run.experiment.record, run.experiment.metrics) for run in cohort.runs
    ]
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


def _train(cohort: Cohort, place: Place, open_row: OpenRow) -> None:
    learner, view, experiments = cohort.learner, cohort.view, [run.experiment for run in cohort.runs]
    plan, (first, start) = experiments[0].stages, place
    cohort.each(lambda i, run: run.folder.write_config(run.experiment.settings.as_yaml()))
    reached = Reached([learner.strategy.steps(s.iterations) for s in plan], *place)
    cohort.each(lambda i, run: setattr(run.status, "reached", reached))
    cohort.each(lambda i, run: run.status.write("running"))
    if first < len(plan):
        cohort.each(lambda i, run: setattr(run, "evaluations", evaluations_of(run.experiment)))
    view.started(experiments, cohort.folders, reached.plan, place)
    if not experiments[0].record.accuracies:
        cohort.measure(after_task=-1, iteration=0, final=True)
        learner.clock.take()
    with stop_requests() as stop:
        for number, stage in enumerate(plan[first:], first):
            view.stage_started(number, [experiment.stages[number].name for experiment in experiments])
            watch = StepMonitor(cohort, reached, stop, open_row)
            stream, samples = batches(experiments, number, start), passes(experiments, number)
            learner.train_task(stage.task, stream, stage.iterations, watch, start, samples)
            watch.close()
            _look_back(cohort, stage, stop)
            reached.steps, reached.stage = 0, number + 1
            save(cohort, Place(number + 1, 0))
            view.stage_finished(number, [run.experiment.record.matrix()[-1] for _, run in cohort.going])
            start, open_row = 0, {}
            if stop.is_set() and number + 1 < len(plan):
                raise cohort.interrupted()
    cohort.each(lambda i, run: draw_matrix(run.experiment, run.folder))


def _look_back(cohort: Cohort, stage: Stage, stop: threading.Event) -> None:
    """What a stage that is over has come to: what the evaluations find, its times, a picture of generated samples."""
    learner = cohort.learner
    batch = cohort.runs[0].experiment.settings.config["train"]["batch_size"]
    with interruptible(cohort, stop):
        cohort.measure(stage.task, stage.iterations, final=True)
        row: dict[str, float] = {"task": stage.task}
        row |= learner.clock.row(stage.iterations * batch, len(cohort.runs))
        row["peak_memory_mib"] = peak_memory(learner.device) / 2**20 or float("nan")
        cohort.each(lambda i, run: run.experiment.record.timing.append(dict(row)))
        cohort.each(lambda i, run: draw_samples(run.experiment, learner, i, run.folder, stage.task))
