"""Checkpoints of a run: content, validation, choice of the resume point, and restoring."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from math import isfinite
from typing import Any, NamedTuple

from torch import Tensor

from gr_cli.config.settings import Settings
from gr_cli.errors import DamagedCheckpointError, FolderError, TrainingError
from gr_cli.nn.replicas import stack_states, unstack
from gr_cli.results.folder import CURRENT, NEXT, PREVIOUS, RunFolder
from gr_cli.results.history import PendingLosses
from gr_cli.strategies.context import SamplePass
from gr_cli.system.messages import print_status
from gr_cli.training.experiment import Experiment
from gr_cli.training.learner import Learner
from gr_cli.training.stages import BEGINNING, ResumePoint

VERSION = 13  # format of checkpoints
State = dict[str, Any]


class SavedState(NamedTuple):
    """A checkpoint from which a run can resume."""

    state: State | None = None
    """Content of the checkpoint; None for the beginning of a run."""
    file: str = ""
    """Name of its file."""


def is_task_end(learner: Learner, resume_point: ResumePoint | None) -> bool:
    """Whether a checkpoint of `resume_point` is from the end of a task: no sample of a task in training is in it."""
    return (
        resume_point is not None
        and resume_point != BEGINNING
        and resume_point.iteration == 0
        and learner.consolidation_schedule is None
    )


def checkpoint_state(
    experiment: Experiment, learner: Learner, replica: int, resume_point: ResumePoint, losses: Mapping[str, Tensor]
) -> State:
    """The checkpoint of one run of a group.

    Args:
        experiment: The run.
        learner: Learner of the group.
        replica: Index of the run in the group.
        resume_point: Where training will resume.
        losses: Losses (R, n) since the last row of the history, by name.

    Raises:
        TrainingError: A loss or parameter is not finite.
    """
    pending_losses = unstack(dict(losses), replica)
    _check_finite(learner, replica, resume_point, experiment.stages, pending_losses)
    num_runs, learner_state = len(learner.random_streams), learner.state_of(replica)
    if resume_point.stage == len(experiment.stages):
        # Training is over, and moments are averages of gradients, which reveal single samples.
        learner_state["optimizers"] = {}
    return {
        "version": VERSION,
        "identity": experiment.settings.identity,
        "config": experiment.settings.config,
        "spec": asdict(experiment.benchmark.spec),
        "class_size": experiment.class_size,
        "device": learner.device.type,
        "data": experiment.dataset_hash,
        "tasks": _classes_of_tasks(experiment),
        "shared_fits": [fit._asdict() for fit in experiment.shared_fits],
        "forgotten": [],
        **resume_point._asdict(),
        "stages": len(experiment.stages),
        "metrics": experiment.metrics,
        "training": experiment.training_provenance,
        "pending_losses": pending_losses,
        "record": experiment.record.state_dict(),
        "seconds": {name: value / num_runs for name, value in learner.clock.seconds.items()},
        "learner": learner_state,
    }


def _classes_of_tasks(experiment: Experiment) -> list[dict[str, Any]]:
    """For each task the names of its classes, and the output unit of the first: the others follow."""
    benchmark, scenario = experiment.benchmark, experiment.learner.scenario
    offsets = scenario.unit_offsets(benchmark.class_counts, benchmark.repeated_tasks)
    return [
        {"classes": list(task.classes), "first_unit": offset}
        for task, offset in zip(benchmark.tasks, offsets, strict=True)
    ]


def _check_finite(
    learner: Learner, replica: int, resume_point: ResumePoint, stages: Sequence[Any], losses: Mapping[str, Tensor]
) -> None:
    stage, iteration = resume_point
    if iteration == 0:  # the end of the stage before
        stage, iteration = stage - 1, stages[stage - 1].iterations
    for name, values in losses.items():
        if not isfinite(total := values.double().sum().item()):
            raise TrainingError.diverged(f"loss `{name}`", total, stages[stage].task, iteration)
    if network := learner.nonfinite_network(replica):
        raise TrainingError.diverged(f"a parameter of the {network}", float("nan"), stages[stage].task, iteration)


def resumable_states(experiment: Experiment, folder: RunFolder) -> dict[ResumePoint, SavedState]:
    """The checkpoints from which a run can resume, the newest first; the beginning comes last.

    A damaged checkpoint is reported on stderr and skipped, if no more than one task has to be trained again.

    Raises:
        FolderError: All are damaged, or one is of another version, configuration, device or data set.
    """
    states, errors = dict[ResumePoint, SavedState](), list[FolderError]()
    for file, state in folder.load_checkpoints().items():
        try:
            if isinstance(state, FolderError):
                raise state
            check_state(state, experiment, folder)
            states.setdefault(ResumePoint(state["stage"], state["iteration"]), SavedState(state, file))
        except FolderError as error:
            errors.append(error)
    only_damaged = all(isinstance(error, DamagedCheckpointError) for error in errors)
    if errors and not states and (folder.has_previous_checkpoint or not only_damaged):
        raise errors[0]
    consequence = (
        "the run resumes from the checkpoint before it"
        if states
        else "the run starts again, there is no other checkpoint"
    )
    for skipped in errors:
        print_status(f"{str(skipped).partition(';')[0]}; {consequence}")
    newest_first = dict(sorted(states.items(), reverse=True))
    return newest_first if folder.has_previous_checkpoint else newest_first | {BEGINNING: SavedState()}


def check_state(state: State, experiment: Experiment, folder: RunFolder) -> None:
    """Check that a checkpoint belongs to a run.

    Raises:
        FolderError: It is of another version, configuration, device or data set.
    """
    check_identity(state, experiment.settings, folder)
    if state["device"] != (device := experiment.learner.device.type):
        raise FolderError(
            f"{folder.path}: was started on {state['device']}, whose random numbers differ from those of {device}; "
            f"resume it there, or use fresh=true"
        )
    if state["data"] != experiment.dataset_hash:
        raise FolderError(
            f"{folder.path}: was started with other samples or labels than its benchmark has now; "
            "restore them, or use fresh=true"
        )


def check_identity(state: State, settings: Settings, folder: RunFolder) -> None:
    """Check that a checkpoint is of the run that `settings` describe.

    Raises:
        FolderError: It is of another version or configuration.
    """
    if state.get("version") != VERSION:
        raise FolderError(f"{folder.path}: its checkpoint is of another version of this program; use fresh=true")
    if differences := settings.differences(state["config"]):
        raise FolderError(f"{folder.path}: is a run of another configuration: {differences}; use fresh=true")


def common_resume_points(available: Sequence[Sequence[ResumePoint]]) -> list[ResumePoint]:
    """Choose where each run of a group resumes.

    All runs resume at one point if there is one that all have: results are reproduced exactly only by the same group.
    But no run that has a checkpoint starts from the beginning for the sake of the others.

    Args:
        available: Resume points of each run, the newest first.

    Returns:
        A resume point for each run.
    """
    one_is_at_beginning = any(points[0] == BEGINNING for points in available)
    for point in available[0]:
        if all(point in points for points in available) and (point != BEGINNING or one_is_at_beginning):
            return [point] * len(available)
    return [points[0] for points in available]


def commit(
    folder: RunFolder, learner: Learner, states: Mapping[ResumePoint, SavedState], resume_point: ResumePoint
) -> State | None:
    """Make the checkpoint of `resume_point` the newest one of the folder, and return it."""
    state, file = states[resume_point]
    if file == NEXT:
        current = next((point for point, saved in states.items() if saved.file == CURRENT), None)
        folder.commit_checkpoint(is_task_end(learner, current))
    elif file == PREVIOUS:
        folder.restore_checkpoint()
    else:
        folder.drop_next_checkpoint()
    return state


def restore(learner: Learner, task: int, samples: SamplePass, states: Sequence[State]) -> PendingLosses:
    """Load checkpoints of all runs of a group into its learner.

    Args:
        learner: Learner of the group.
        task: Task in training, from 0.
        samples: Training samples of that task.
        states: Checkpoint of each run.

    Returns:
        Losses since the last row of the history.
    """
    learner.load_states([state["learner"] for state in states], task, samples)
    learner.clock.seconds = {name: value * len(states) for name, value in states[0]["seconds"].items()}
    losses = stack_states([state["pending_losses"] for state in states], learner.device)
    return {name: list(values.unbind(1)) for name, values in losses.items()}
