"""Saving runs that are under way, and going on with them."""

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

VERSION = 8
State = dict[str, Any]


class SavedState(NamedTuple):
    """A state from which a run can go on, and which file it is in; there is none for a run that begins."""

    state: State | None = None
    file: str = ""


def is_task_end(learner: Learner, place: ResumePoint | None) -> bool:
    """Whether a state of `place` is one between two tasks, in which no sample of the current task is stored."""
    return place is not None and place != BEGINNING and place.iteration == 0 and learner.consolidation_schedule is None


def checkpoint_state(
    experiment: Experiment, learner: Learner, replica: int, place: ResumePoint, losses: Mapping[str, Tensor]
) -> State:
    """All that a run, a replica of `learner`, needs to go on at `place`; `losses` (R, n) are not in its history yet.

    Raises:
        TrainingError: there are numbers in it that are none.
    """
    mine = unstack(dict(losses), replica)
    _check_finite(learner, replica, place, experiment.stages, mine)
    runs, state = len(learner.random_streams), learner.state_of(replica)
    if place.stage == len(experiment.stages):
        # Nothing will be learnt any more, and moments hold faint copies of single samples: they are their gradients.
        state["optimizers"] = {}
    return {
        "version": VERSION,
        "identity": experiment.settings.identity,
        "config": experiment.settings.config,
        "spec": asdict(experiment.benchmark.spec),
        "device": learner.device.type,
        "data": experiment.dataset_hash,
        **place._asdict(),
        "stages": len(experiment.stages),
        "metrics": experiment.metrics,
        "training": experiment.training_provenance,
        "pending_losses": mine,
        "record": experiment.record.state_dict(),
        "seconds": {name: value / runs for name, value in learner.clock.seconds.items()},
        "learner": state,
    }


def _check_finite(
    learner: Learner, replica: int, place: ResumePoint, stages: Sequence[Any], losses: Mapping[str, Tensor]
) -> None:
    # The place of a stage that is over is the start of the next.
    stage, iteration = place if place.iteration else (place.stage - 1, stages[place.stage - 1].iterations)
    for name, values in losses.items():
        if not isfinite(last := values.double().sum().item()):
            raise TrainingError.diverged(f"loss `{name}`", last, stages[stage].task, iteration)
    if broken := learner.nonfinite_network(replica):
        raise TrainingError.diverged(f"a parameter of the {broken}", float("nan"), stages[stage].task, iteration)


def resumable_states(experiment: Experiment, folder: RunFolder) -> dict[ResumePoint, SavedState]:
    """The states from which a run can go on, by their places, the newest first; that of a beginning comes last.

    A damaged state is named on stderr and left out, if that costs one task at most.

    Raises:
        FolderError: they are damaged, or of another version, configuration or device.
    """
    found, errors = dict[ResumePoint, SavedState](), list[FolderError]()
    for file, state in folder.load_checkpoints().items():
        try:
            if isinstance(state, FolderError):
                raise state
            check_state(state, experiment, folder)
            found.setdefault(ResumePoint(state["stage"], state["iteration"]), SavedState(state, file))
        except FolderError as error:
            errors.append(error)
    damaged = all(isinstance(why, DamagedCheckpointError) for why in errors)
    if errors and not found and (folder.has_previous_checkpoint or not damaged):
        raise errors[0]
    then = "the run goes on from the state before it" if found else "the run begins again, there is no other state"
    for why in errors:
        print_status(f"{str(why).partition(';')[0]}; {then}")
    places = dict(sorted(found.items(), reverse=True))
    return places if folder.has_previous_checkpoint else places | {BEGINNING: SavedState()}


def check_state(state: State, experiment: Experiment, folder: RunFolder) -> None:
    """Refuse a state that is not one of this run.

    Raises:
        FolderError: it is of another version, configuration, device or data.
    """
    check_identity(state, experiment.settings, folder)
    if state["device"] != (kind := experiment.learner.device.type):
        raise FolderError(
            f"{folder.path}: was begun on {state['device']}, whose random numbers {kind} does not have; "
            f"go on there, or use fresh=true"
        )
    if state["data"] != experiment.dataset_hash:
        raise FolderError(
            f"{folder.path}: was begun with other samples or labels than its benchmark has now; "
            "put back those that were there, or use fresh=true"
        )


def check_identity(state: State, settings: Settings, folder: RunFolder) -> None:
    """Refuse a state that is not of the run that `settings` describe.

    Raises:
        FolderError: it is of another version or configuration.
    """
    if state.get("version") != VERSION:
        raise FolderError(f"{folder.path}: its checkpoint is of another version of this program; use fresh=true")
    if others := settings.differences(state["config"]):
        raise FolderError(f"{folder.path}: holds a run of another configuration: {others}; use fresh=true")


def common_resume_points(places: Sequence[Sequence[ResumePoint]]) -> list[ResumePoint]:
    """Where each of several runs goes on, from the places of which it has the state, the newest first.

    All at one place, if there is one that all have: what is trained together finds the same only if it stays together.
    But none begins again for others that have a state, too.
    """
    begins = any(mine[0] == BEGINNING for mine in places)
    for place in places[0]:
        if all(place in mine for mine in places) and (place != BEGINNING or begins):
            return [place] * len(places)
    return [mine[0] for mine in places]


def commit(
    folder: RunFolder, learner: Learner, origins: Mapping[ResumePoint, SavedState], place: ResumePoint
) -> State | None:
    """The state of `place`, which is from now on the newest."""
    state, file = origins[place]
    if file == NEXT:
        current = next((place for place, origin in origins.items() if origin.file == CURRENT), None)
        folder.commit_checkpoint(is_task_end(learner, current))
    elif file == PREVIOUS:
        folder.restore_checkpoint()
    else:
        folder.drop_next_checkpoint()
    return state


def restore(learner: Learner, task: int, samples: SamplePass, states: Sequence[State]) -> PendingLosses:
    """Bring a learner to where `states` were written, in `task`; the losses since the last row of the history."""
    learner.load_states([state["learner"] for state in states], task, samples)
    learner.clock.seconds = {name: value * len(states) for name, value in states[0]["seconds"].items()}
    losses = stack_states([state["pending_losses"] for state in states], learner.device)
    return {name: list(values.unbind(1)) for name, values in losses.items()}
