"""Saving runs that are under way, and going on with them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import isfinite
from typing import Any, NamedTuple

from torch import Tensor

from gr_cli.assembly import Experiment
from gr_cli.errors import FolderError, TrainingError
from gr_cli.learner import Learner
from gr_cli.replicas import part_of, together
from gr_cli.results.folder import RunFolder
from gr_cli.results.record import OpenRow
from gr_cli.settings import completed
from gr_cli.strategies.base import Pass

VERSION = 4
State = dict[str, Any]


class Place(NamedTuple):
    """Where runs go on: a stage, and an iteration in it."""

    stage: int
    iteration: int


START = Place(0, 0)


def state_of(
    experiment: Experiment, learner: Learner, replica: int, place: Place, losses: Mapping[str, Tensor]
) -> State:
    """All that a run, a replica of `learner`, needs to go on at `place`; `losses` (R, n) are not in its history yet.

    Raises:
        TrainingError: there are numbers in it that are none.
    """
    mine = part_of(dict(losses), replica)
    _check_finite(learner, replica, place, experiment.stages, mine)
    kind, runs, state = experiment.benchmark.kind, len(learner.draws), learner.state_of(replica)
    if place.stage == len(experiment.stages):
        # Nothing will be learnt any more, and moments hold faint copies of single samples: they are their gradients.
        state["optimizers"] = {}
    return {
        "version": VERSION,
        "identity": experiment.settings.identity,
        "config": experiment.settings.config,
        "kind": {"shape": kind.shape, "value_range": kind.value_range, "trials": kind.trials},
        "device": learner.device.type,
        "data": experiment.data,
        **place._asdict(),
        "open_row": mine,
        "record": experiment.record.state_dict(),
        "seconds": {name: value / runs for name, value in learner.clock.seconds.items()},
        "learner": state,
    }


def _check_finite(
    learner: Learner, replica: int, place: Place, stages: Sequence[Any], losses: Mapping[str, Tensor]
) -> None:
    # The place of a stage that is over is the start of the next.
    stage, iteration = place if place.iteration else (place.stage - 1, stages[place.stage - 1].iterations)
    for name, values in losses.items():
        if not isfinite(last := values.double().sum().item()):
            raise TrainingError.diverged(f"loss `{name}`", last, stages[stage].task, iteration)
    if broken := learner.not_finite(replica):
        raise TrainingError.diverged(f"a parameter of the {broken}", float("nan"), stages[stage].task, iteration)


def available(experiment: Experiment, folder: RunFolder) -> dict[Place, State | None]:
    """The states from which a run can go on, by their places, the newest first; None is the state of a beginning.

    Raises:
        FolderError: they are of another version, configuration or device.
    """
    found: dict[Place, State | None] = {}
    for state in folder.load_checkpoints():
        _check(state, experiment, folder)
        found[Place(state["stage"], state["iteration"])] = state
    # A first state that was not adopted: others that were trained with this run may have none.
    return found if folder.adopted else found | {START: None}


def _check(state: State, experiment: Experiment, folder: RunFolder) -> None:
    if state.get("version") != VERSION:
        raise FolderError(f"{folder.path}: its checkpoint is of another version of this program; use fresh=true")
    if others := experiment.settings.differences(completed(state["config"])):
        raise FolderError(f"{folder.path}: holds a run of another configuration: {others}; use fresh=true")
    if state["device"] != (kind := experiment.learner.device.type):
        raise FolderError(
            f"{folder.path}: was begun on {state['device']}, whose random numbers {kind} does not have; "
            f"go on there, or use fresh=true"
        )
    if state.get("data", experiment.data) != experiment.data:  # earlier versions don't say
        raise FolderError(
            f"{folder.path}: was begun with other samples or labels than its benchmark has now; "
            "put back those that were there, or use fresh=true"
        )


def common_places(places: Sequence[Sequence[Place]]) -> list[Place]:
    """Where each of several runs goes on, from the places of which it has the state, the newest first.

    All at one place, if there is one that all have: what is trained together finds the same only if it stays together.
    """
    for place in places[0]:
        if all(place in mine for mine in places):
            return [place] * len(places)
    return [mine[0] for mine in places]


def settle(folder: RunFolder, states: Mapping[Place, State | None], place: Place) -> State | None:
    """The state of `place`, which is from now on the only one."""
    if next(iter(states)) == place:
        folder.adopt_checkpoint()
    else:
        folder.drop_next_checkpoint()
    return states[place]


def take_up(learner: Learner, task: int, samples: Pass, states: Sequence[State]) -> OpenRow:
    """Bring a learner to where `states` were written, in `task`; the losses since the last row of the history."""
    learner.load_states([state["learner"] for state in states], task, samples)
    learner.clock.seconds = {name: value * len(states) for name, value in states[0]["seconds"].items()}
    losses = together([state["open_row"] for state in states], learner.device)
    return {name: list(values.unbind(1)) for name, values in losses.items()}
