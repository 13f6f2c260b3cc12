"""Load the networks of a run from its checkpoint."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import nn

from gr_cli.config.settings import Settings
from gr_cli.errors import FolderError
from gr_cli.generators.base import Generator
from gr_cli.nn.sample_spec import SampleSpec
from gr_cli.results.folder import RunFolder
from gr_cli.results.stored_config import check_unchanged
from gr_cli.runner.checkpoints import State, check_identity
from gr_cli.training.build import build_learner
from gr_cli.training.learner import Learner


class Networks(NamedTuple):
    """The networks of a run, on the CPU and in evaluation mode."""

    solver: nn.Module
    """The classifier."""
    generator: Generator | None
    """The generator that replay samples from; None without a generator."""


def load_networks(settings: Settings, folder: RunFolder) -> Networks:
    """Load the networks from the newest checkpoint of a run, which need not be finished.

    Args:
        settings: Settings of the run.
        folder: Its folder.

    Raises:
        FolderError: There is no checkpoint, a damaged one or one of another run.
    """
    learner = load_learner(settings, load_state(settings, folder))
    generator = None if learner.generator is None else learner.strategy.sampling_generator(0, learner.generator.eval())
    return Networks(learner.solver.eval(), generator)


def load_state(settings: Settings, folder: RunFolder) -> State:
    """The newest checkpoint of a run.

    Raises:
        FolderError: There is none, a damaged one or one of another run.
    """
    saved = folder.load_checkpoint()
    if saved is None:
        raise FolderError(f"{folder.path}: has no checkpoint yet; resume it with gr-run resume={folder.path}")
    check_identity(saved, settings, folder)
    check_unchanged(folder.path)
    return saved


def load_learner(settings: Settings, saved: State) -> Learner:
    """The learner of a run on the CPU, after the tasks of the checkpoint `saved`."""
    spec = SampleSpec(**saved["spec"])
    task_units, class_size = saved["learner"]["task_units"], saved["class_size"]
    learner = build_learner(
        settings.config, spec, task_units, torch.device("cpu"), class_size=class_size, live=settings.live_value
    )
    learner.load_states([saved["learner"]], len(task_units) - 1)
    return learner
