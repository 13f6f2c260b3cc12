"""Load a run from its folder: configuration, accuracy matrix and networks."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from gr_cli.errors import FolderError
from gr_cli.nn.sample_spec import SampleSpec
from gr_cli.results.folder import RunFolder
from gr_cli.results.record import Record
from gr_cli.results.stored_config import check_unchanged, stored_settings
from gr_cli.runner.checkpoints import check_identity
from gr_cli.training.build import build_learner


@dataclass(frozen=True)
class LoadedRun:
    """A loaded run. Networks are on the CPU and in evaluation mode.

    Attributes:
        config: Configuration.
        matrix: Test accuracy in [0, 1]: a row per training, a column per task; None where a task was not evaluated.
        solver: The classifier, a `torch.nn.Module`.
        generator: The generator that replay samples from; None without a generator.
    """

    config: dict[str, Any]
    matrix: list[list[float | None]]
    solver: Any
    generator: Any


def load_run(folder: str | Path, trust: str | Collection[str] = ()) -> LoadedRun:
    """Load a run from its folder.

    Args:
        folder: Folder of the run. It need not be finished; its newest checkpoint is loaded.
        trust: Dotted names of components, or of packages that contain them, that may be imported although they are not
            part of this program.

    Raises:
        FolderError: There is no run, no checkpoint, a damaged one or one of another run, or the folder names code that
            is not trusted.
    """

    trust = [trust] if isinstance(trust, str) else trust  # a string is a collection of its letters
    settings, run = stored_settings(Path(folder), trust), RunFolder(Path(folder))
    saved = run.load_checkpoint()
    if saved is None:
        raise FolderError(f"{folder}: has no checkpoint yet; resume it with gr-run resume={folder}")
    check_identity(saved, settings, run)
    check_unchanged(run.path)
    spec = SampleSpec(**saved["spec"])
    task_units, class_size = saved["learner"]["task_units"], saved["class_size"]
    learner = build_learner(settings.config, spec, task_units, torch.device("cpu"), class_size=class_size)
    learner.load_states([saved["learner"]], len(saved["learner"]["task_units"]) - 1)
    generator = None if learner.generator is None else learner.strategy.sampling_generator(0, learner.generator.eval())
    matrix = Record.from_state(saved["record"]).matrix()
    return LoadedRun(settings.config, matrix, learner.solver.eval(), generator)
