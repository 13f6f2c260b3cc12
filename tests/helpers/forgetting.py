"""The learner of a run's folder, and its comparison with another, to the last bit."""

from pathlib import Path

import torch

from gr_cli.results.folder import RunFolder
from gr_cli.results.stored_config import stored_settings
from gr_cli.runner.load import load_learner, load_state
from gr_cli.training.experiment import Experiment
from gr_cli.training.learner import Learner
from helpers.small_runs import assert_same

STATE = ("solver", "generator", "strategy")


def learner_of_folder(folder: Path) -> Learner:
    settings = stored_settings(folder)
    return load_learner(settings, load_state(settings, RunFolder(folder)))


def scores(learner: Learner, experiment: Experiment) -> list[torch.Tensor]:
    """The scores of all test samples of an experiment."""
    with torch.no_grad(), learner.classifier() as score:
        return [score(x, None, task.id) for task in experiment.benchmark.tasks for x, _ in task.test.batches()]


def same_state_and_scores(ours: Learner, theirs: Learner, experiment: Experiment) -> None:
    states = [learner.state_of(0) for learner in (ours, theirs)]
    assert_same(*({name: state[name] for name in STATE} for state in states))
    assert all(map(torch.equal, scores(ours, experiment), scores(theirs, experiment)))
