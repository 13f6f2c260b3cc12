"""The story of a run: task by task train, evaluate, save; and at the end, show."""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path

from gr_cli.config.settings import Settings
from gr_cli.errors import GrError, Interrupted, as_failure
from gr_cli.evaluation.base import prepare_evaluations
from gr_cli.results.folder import RunFolder, unused_sibling
from gr_cli.results.history import PendingLosses
from gr_cli.results.record import Record, Result
from gr_cli.results.status import Progress, StatusWriter, heartbeats
from gr_cli.runner import checkpoints
from gr_cli.runner.provenance import merge_training_provenance, provenance, training_provenance
from gr_cli.runner.run_figures import draw_matrix, draw_samples
from gr_cli.runner.run_group import Run, RunGroup
from gr_cli.runner.step_monitor import StepMonitor, interruptible, save_checkpoints
from gr_cli.runner.stored_result import stored_result
from gr_cli.system.devices import deterministic_kernels, flush_denormals, thread_limit, warn_if_bfloat16_is_emulated
from gr_cli.system.memory import out_of_memory_as, peak_memory
from gr_cli.system.signals import signals_as_keyboard_interrupts, stop_requests
from gr_cli.training.batches import batches, sample_passes
from gr_cli.training.experiment import prepare
from gr_cli.training.observer import Observers, RunObserver
from gr_cli.training.stacking import stack_learners
from gr_cli.training.stages import ResumePoint, Stage


def run_folder(settings: Settings, root: Path) -> RunFolder:
    """The folder of this run below `root`: a new sibling if it shall be fresh."""
    path = settings.folder(root)
    return RunFolder(unused_sibling(path) if settings.config["fresh"] else path)


def run(settings: Settings, folder: RunFolder, view: RunObserver) -> Result:
    """Run what `settings` describe in `folder`: from the start, or from where it was left; show it if it is over.

    Raises:
        GrError: it could not begin, or it failed; `status.json` says so.
        Interrupted: it was asked to stop; the same call goes on.
    """
    outcome = run_together([settings], [folder], view)[0]
    if isinstance(outcome, GrError):
        raise outcome
    return outcome


def run_together(jobs: Sequence[Settings], folders: Sequence[RunFolder], view: RunObserver) -> list[Result | GrError]:
    """The same for several runs that are trained as one program: what each found, or why it failed.

    Raises:
        Interrupted: they were asked to stop.
    """
    outcomes: dict[int, Result | GrError] = {}
    view = Observers(view)
    same = {i: [folder.path for folder in folders].index(mine.path) for i, mine in enumerate(folders)}
    alone = len(jobs) == 1

    def fail(i: int, error: Exception) -> None:
        outcomes[i] = failure = as_failure(error)
        if not alone:
            view.failed(folders[i].path, failure)

    with signals_as_keyboard_interrupts(), flush_denormals(), ExitStack() as stack:
        ready: dict[int, Run] = {}
        for i, (settings, folder) in enumerate(zip(jobs, folders, strict=True)):
            if same[i] != i:
                continue
            try:
                if (result := stored_result(settings, folder)) is not None:
                    outcomes[i] = result
                    view.already_finished(settings, result)
                    continue
                experiment = prepare(settings, runs_in_group=len(jobs))
                stack.enter_context(folder.locked())
                states = checkpoints.resumable_states(experiment, folder)
                ready[i] = Run(experiment, folder, StatusWriter(folder, provenance(experiment)), states)
            except Exception as error:
                if alone and not isinstance(error, GrError):
                    raise
                fail(i, error)
        for (place, _), members in _group_by_resume_point(ready).items():
            runs = [ready[i] for i in members]
            try:
                cohort = RunGroup(runs, stack_learners([run.experiment for run in runs]), view, alone)
                outcomes |= zip(members, _train_group(cohort, place), strict=True)
            except Exception as error:
                if alone or isinstance(error, Interrupted):
                    raise
                for i in members:
                    fail(i, ready[i].failure or error)
    return [outcomes[same[i]] for i in range(len(jobs))]


def _group_by_resume_point(ready: Mapping[int, Run]) -> dict[tuple[ResumePoint, str], list[int]]:
    """Which of the runs go on together, and where: those that are at one place of one plan."""
    plans: dict[str, list[int]] = {}
    for i, run in ready.items():
        spec, heads = run.experiment.benchmark.spec, run.experiment.task_units.tolist()
        plans.setdefault(str((spec, heads, [s.iterations for s in run.experiment.stages])), []).append(i)
    parties: dict[tuple[ResumePoint, str], list[int]] = {}
    for plan, members in plans.items():
        places = checkpoints.common_resume_points([list(ready[i].states) for i in members])
        for i, place in zip(members, places, strict=True):
            parties.setdefault((place, plan), []).append(i)
    return parties


def _train_group(cohort: RunGroup, place: ResumePoint) -> list[Result | GrError]:
    """Train a cohort from `place` on; the statuses say what became of its runs."""
    experiment = cohort.runs[0].experiment
    if experiment.learner.precision == "bf16":
        warn_if_bfloat16_is_emulated(experiment.learner.device)
    for i, run in enumerate(cohort.runs):
        before = (run.states[place].state or {}).get("training")
        now = training_provenance([run.experiment for run in cohort.runs], i)
        run.experiment.training_provenance = merge_training_provenance(
            before, now, over=place.stage == len(experiment.stages)
        )
        run.status.provenance |= run.experiment.training_provenance
    with thread_limit(experiment.threads), deterministic_kernels(experiment.learner.device):
        try:
            pending_losses = _restore_group(cohort, place)
            with heartbeats([run.status for run in cohort.runs]), out_of_memory_as(runs=len(cohort.runs)):
                _train_stages(cohort, place, pending_losses)
        except BaseException as error:
            for run in cohort.runs:
                if run.failure is None or len(cohort.runs) == 1:
                    run.status.write_end(error)
            cohort.observers.close()
            if not isinstance(error, GrError) or isinstance(error, Interrupted) or cohort.active:
                raise
        cohort.for_each_active(_finish_run)
    results: list[Result | GrError] = [
        run.failure or Result(run.folder.path, run.experiment.record, run.experiment.metrics) for run in cohort.runs
    ]
    cohort.observers.finished([run.experiment for run in cohort.runs], results)
    return results


def _restore_group(cohort: RunGroup, place: ResumePoint) -> PendingLosses:
    """Bring the cohort to where its checkpoints were written; the losses since the last row of the history."""
    states = [checkpoints.commit(run.folder, cohort.learner, run.states, place) for run in cohort.runs]
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
    if learner.consolidation_schedule is not None:
        task = learner.consolidation_schedule.last_interval_before(*place)
    return checkpoints.restore(learner, task, sample_passes(experiments, stage), found)


def _finish_run(place: int, run: Run) -> None:
    # A run that had nothing left to train has not written them yet.
    run.folder.write_tables(run.experiment.record, run.experiment.metrics)
    run.status.write("finished")
    run.folder.drop_previous_checkpoint()


def _train_stages(cohort: RunGroup, place: ResumePoint, pending_losses: PendingLosses) -> None:
    learner, view, experiments = cohort.learner, cohort.observers, [run.experiment for run in cohort.runs]
    plan, (first, start) = experiments[0].stages, place
    cohort.for_each_active(lambda i, run: run.folder.write_config(run.experiment.settings.as_yaml()))
    reached = Progress([learner.strategy.num_steps(s.iterations) for s in plan], *place)
    cohort.for_each_active(lambda i, run: setattr(run.status, "progress", reached))
    cohort.for_each_active(lambda i, run: run.status.write("running"))
    if first < len(plan):
        cohort.for_each_active(lambda i, run: setattr(run, "evaluations", prepare_evaluations(run.experiment)))
    view.started(experiments, cohort.folders, reached.steps_per_stage, place)
    if not experiments[0].record.accuracy_rows:
        cohort.measure(after_task=-1, iteration=0, task_finished=True)
        learner.clock.reset()
    with stop_requests() as stop:
        for number, stage in enumerate(plan[first:], first):
            view.stage_started(number, [experiment.stages[number].name for experiment in experiments])
            watch = StepMonitor(cohort, reached, stop, pending_losses)
            stream, samples = batches(experiments, number, start), sample_passes(experiments, number)
            learner.train_task(stage.task, stream, stage.iterations, watch, start, samples)
            watch.close()
            _finish_stage(cohort, stage, stop)
            reached.steps_done, reached.stage = 0, number + 1
            save_checkpoints(cohort, ResumePoint(number + 1, 0))
            view.stage_finished(number, [run.experiment.record.matrix()[-1] for _, run in cohort.active])
            start, pending_losses = 0, {}
            if stop.is_set() and number + 1 < len(plan):
                raise cohort.interrupted()
    cohort.for_each_active(lambda i, run: draw_matrix(run.experiment, run.folder))


def _finish_stage(cohort: RunGroup, stage: Stage, stop: threading.Event) -> None:
    """What a stage that is over has come to: what the evaluations find, its times, a picture of generated samples."""
    learner = cohort.learner
    batch = cohort.runs[0].experiment.settings.config["train"]["batch_size"]
    with interruptible(cohort, stop):
        cohort.measure(stage.task, stage.iterations, task_finished=True)
        row: dict[str, float] = {"task": stage.task}
        row |= learner.clock.timing_row(stage.iterations * batch, len(cohort.runs))
        row["peak_memory_mib"] = peak_memory(learner.device) / 2**20 or float("nan")
        cohort.for_each_active(lambda i, run: run.experiment.record.timing.append(dict(row)))
        cohort.for_each_active(lambda i, run: draw_samples(run.experiment, learner, i, run.folder, stage.task))
