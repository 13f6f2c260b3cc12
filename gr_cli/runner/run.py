"""Train runs in their folders: for each task train, evaluate and save; resume where a run was interrupted."""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from contextlib import ExitStack

from gr_cli.config.settings import Settings
from gr_cli.errors import GrError, Interrupted, as_failure
from gr_cli.evaluation.base import prepare_evaluations
from gr_cli.evaluation.membership import membership_scores
from gr_cli.privacy.ledger import Ledger
from gr_cli.results.availability import check_available
from gr_cli.results.folder import RunFolder
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
from gr_cli.system.energy import EnergyMeter
from gr_cli.system.memory import out_of_memory_as, peak_memory
from gr_cli.system.signals import signals_as_keyboard_interrupts, stop_requests
from gr_cli.training.batches import batches, sample_passes
from gr_cli.training.experiment import prepare
from gr_cli.training.learner import Learner
from gr_cli.training.observer import Observers, RunObserver
from gr_cli.training.stacking import stack_learners
from gr_cli.training.stages import ResumePoint, Stage


def run(settings: Settings, folder: RunFolder, observer: RunObserver) -> Result:
    """Run one configuration: start it, resume it, or return its stored result if it is finished.

    Args:
        settings: Configuration of the run.
        folder: Its folder.
        observer: Notified of what happens.

    Raises:
        GrError: It could not start, or it failed; status.json has the reason.
        Interrupted: The user stopped it; the same call resumes it.
    """
    outcome = run_together([settings], [folder], observer)[0]
    if isinstance(outcome, GrError):
        raise outcome
    return outcome


def run_together(
    jobs: Sequence[Settings], folders: Sequence[RunFolder], observer: RunObserver
) -> list[Result | GrError]:
    """Run several configurations as replicas of one learner.

    Args:
        jobs: Configurations. Those with equal folders are run once.
        folders: Folder of each.
        observer: Notified of what happens.

    Returns:
        Result of each run, or the error that ended it.

    Raises:
        Interrupted: The user stopped them; the same call resumes them.
    """
    outcomes: dict[int, Result | GrError] = {}
    observers = Observers(observer)
    first_index = {i: [other.path for other in folders].index(folder.path) for i, folder in enumerate(folders)}
    is_single = len(jobs) == 1

    def fail(i: int, error: Exception) -> None:
        outcomes[i] = failure = as_failure(error)
        if not is_single:
            observers.failed(folders[i].path, failure)

    with signals_as_keyboard_interrupts(), flush_denormals(), ExitStack() as stack:
        ready: dict[int, Run] = {}
        for i in dict.fromkeys(first_index.values()):
            try:
                if isinstance(opened := _open_run(jobs[i], folders[i], len(jobs), stack), Run):
                    ready[i] = opened
                else:
                    outcomes[i] = opened
                    observers.already_finished(jobs[i], opened)
            except Exception as error:
                if is_single and not isinstance(error, GrError):
                    raise
                fail(i, error)
        for (resume_point, _), members in _group_by_resume_point(ready).items():
            runs = [ready[i] for i in members]
            try:
                group = RunGroup(runs, stack_learners([run.experiment for run in runs]), observers, is_single)
                outcomes |= zip(members, _train_group(group, resume_point), strict=True)
            except Exception as error:
                if is_single or isinstance(error, Interrupted):
                    raise
                for i in members:
                    fail(i, ready[i].failure or error)
    return [outcomes[first_index[i]] for i in range(len(jobs))]


def _open_run(settings: Settings, folder: RunFolder, runs_in_group: int, stack: ExitStack) -> Run | Result:
    """A run that is ready to be trained, its folder locked until `stack` is closed; its result if it is finished.

    Raises:
        GrError: It can't be started.
    """
    check_available(folder, settings)
    if (result := stored_result(settings, folder)) is not None:
        return result
    experiment = prepare(settings, runs_in_group=runs_in_group)
    stack.enter_context(folder.locked())
    check_available(folder, settings)  # again: another process may have started a run here meanwhile
    states = checkpoints.resumable_states(experiment, folder)
    if experiment.privacy is not None:
        experiment.ledger = Ledger(experiment.privacy, folder.path)
    return Run(experiment, folder, StatusWriter(folder, provenance(experiment, folder.path)), states)


def _group_by_resume_point(ready: Mapping[int, Run]) -> dict[tuple[ResumePoint, str], list[int]]:
    """Runs that can be trained together: with equal shapes and stages, and a common resume point."""
    by_shape: dict[str, list[int]] = {}
    for i, run in ready.items():
        spec, task_units = run.experiment.benchmark.spec, run.experiment.task_units.tolist()
        sizes = [(stage.iterations, stage.num_processed) for stage in run.experiment.stages]
        shape = str((spec, task_units, sizes, run.experiment.class_size))
        by_shape.setdefault(shape, []).append(i)
    groups: dict[tuple[ResumePoint, str], list[int]] = {}
    for shape, members in by_shape.items():
        resume_points = checkpoints.common_resume_points([list(ready[i].states) for i in members])
        for i, resume_point in zip(members, resume_points, strict=True):
            groups.setdefault((resume_point, shape), []).append(i)
    return groups


def _train_group(group: RunGroup, resume_point: ResumePoint) -> list[Result | GrError]:
    """Train a group from its resume point to the end, and write the final status of each run."""
    experiment = group.runs[0].experiment
    if experiment.learner.precision == "bf16":
        warn_if_bfloat16_is_emulated(experiment.learner.device)
    for i, run in enumerate(group.runs):
        before = (run.states[resume_point].state or {}).get("training")
        now = training_provenance([run.experiment for run in group.runs], i)
        run.experiment.training_provenance = merge_training_provenance(
            before, now, finished=resume_point.stage == len(experiment.stages)
        )
        run.status.provenance |= run.experiment.training_provenance
    with thread_limit(experiment.threads), deterministic_kernels(experiment.learner.device):
        try:
            pending_losses = _restore_group(group, resume_point)
            with heartbeats([run.status for run in group.runs]), out_of_memory_as(runs=len(group.runs)):
                _train_stages(group, resume_point, pending_losses)
        except BaseException as error:
            for run in group.runs:
                if run.failure is None or len(group.runs) == 1:
                    run.status.write_end(error)
            group.observers.close()
            if not isinstance(error, GrError) or isinstance(error, Interrupted) or group.active:
                raise
        group.for_each_active(_finish_run)
    results: list[Result | GrError] = [
        run.failure or Result(run.folder.path, run.experiment.record, run.experiment.metrics) for run in group.runs
    ]
    group.observers.finished([run.experiment for run in group.runs], results)
    return results


def _restore_group(group: RunGroup, resume_point: ResumePoint) -> PendingLosses:
    """Load the checkpoints of `resume_point`; return the losses since the last row of the history."""
    committed = [checkpoints.commit(run.folder, group.learner, run.states, resume_point) for run in group.runs]
    states = [state for state in committed if state is not None]
    if not states:
        return {}
    experiments = [run.experiment for run in group.runs]
    for run, state in zip(group.runs, states, strict=True):
        run.experiment.record = Record.from_state(state["record"])
        run.saved = resume_point
        if state["forgotten"]:
            run.status.provenance["forgotten"] = state["forgotten"]
        run.states.clear()  # frees their memory
    stage = min(resume_point.stage, len(experiments[0].stages) - 1)
    learner, task = group.learner, experiments[0].stages[stage].task
    if learner.consolidation_schedule is not None:
        task = learner.consolidation_schedule.last_interval_before(*resume_point)
    return checkpoints.restore(learner, task, sample_passes(experiments, stage), states)


def _finish_run(replica: int, run: Run) -> None:
    # A run that resumed at the end of its last stage has not written its tables yet.
    run.folder.write_tables(run.experiment.record, run.experiment.metrics)
    run.status.write("finished")
    run.folder.drop_previous_checkpoint()


def _train_stages(group: RunGroup, resume_point: ResumePoint, pending_losses: PendingLosses) -> None:
    learner, observers, experiments = group.learner, group.observers, [run.experiment for run in group.runs]
    stages, (first_stage, start) = experiments[0].stages, resume_point
    group.for_each_active(lambda i, run: run.folder.write_config(run.experiment.settings.as_yaml()))
    progress = Progress([learner.strategy.num_steps(stage.iterations) for stage in stages], *resume_point)
    group.for_each_active(lambda i, run: setattr(run.status, "progress", progress))
    group.for_each_active(lambda i, run: run.status.write("running"))
    if first_stage < len(stages):
        group.for_each_active(lambda i, run: setattr(run, "evaluations", prepare_evaluations(run.experiment)))
    observers.started(experiments, group.folders, progress.steps_per_stage, resume_point)
    if not experiments[0].record.accuracy_rows:
        group.measure(after_task=-1, iteration=0, task_finished=True)
        learner.clock.reset()
    if 0 < first_stage < len(stages):
        group.prune(stages[first_stage - 1].task)  # as the interrupted process did, or would have done
    meter = EnergyMeter(learner.device)
    with stop_requests() as stop:
        for i, stage in enumerate(stages[first_stage:], first_stage):
            observers.stage_started(i, [experiment.stages[i].name for experiment in experiments])
            monitor = StepMonitor(group, progress, stop, pending_losses)
            stream, samples = batches(experiments, i, start), sample_passes(experiments, i)
            group.record_accesses(ResumePoint(i, start))
            learner.train_task(stage.task, stream, stage.iterations, monitor, start, samples)
            monitor.close()
            _finish_stage(group, stage, stop, meter, is_continued=start > 0)
            progress.steps_done, progress.stage = 0, i + 1
            save_checkpoints(group, ResumePoint(i + 1, 0))
            observers.stage_finished(i, [run.experiment.record.matrix()[-1] for _, run in group.active])
            if i + 1 < len(stages):
                group.prune(stage.task)
            start, pending_losses = 0, {}
            if stop.is_set() and i + 1 < len(stages):
                raise group.interrupted()
    group.for_each_active(lambda i, run: draw_matrix(run.experiment, run.folder))


def _write_membership_scores(run: Run, learner: Learner, replica: int, task: int) -> None:
    """Write the scores of all candidates after `task`, if the run has a membership draw or canaries."""
    if any(each.candidates is not None for each in run.experiment.benchmark.tasks):
        with learner.clock.measure("evaluation"):
            membership_scores(run.experiment, learner, replica, task).save(run.folder.path)


def _finish_stage(group: RunGroup, stage: Stage, stop: threading.Event, meter: EnergyMeter, is_continued: bool) -> None:
    """Evaluate after a stage, record its timing and energy, and draw generated samples."""
    learner = group.learner
    with interruptible(group, stop):
        group.measure(stage.task, stage.iterations, task_finished=True)
        group.for_each_active(lambda i, run: _write_membership_scores(run, learner, i, stage.task))
        energy = meter.read()
        row: dict[str, float] = {"task": stage.task}
        row |= learner.clock.timing_row(stage.num_processed, len(group.runs))
        row["peak_memory_mib"] = peak_memory(learner.device) / 2**20 or float("nan")
        if not is_continued:  # else an earlier process used a part that was not stored
            row |= {name: joules / len(group.runs) for name, joules in energy.items()}
        group.for_each_active(lambda i, run: run.experiment.record.timing.append(dict(row)))
        group.for_each_active(lambda i, run: draw_samples(run.experiment, learner, i, run.folder, stage.task))
