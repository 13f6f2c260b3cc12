"""A run, loaded from its folder into Python."""

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
    """A run as it was left. `matrix` has a row per training and a column per task; networks are in evaluation mode."""

    config: dict[str, Any]
    matrix: list[list[float | None]]
    solver: Any
    generator: Any


def load_run(folder: str | Path, trust: str | Collection[str] = ()) -> LoadedRun:
    """Configuration, accuracy matrix, solver and generator (None if there was none) of the run in `folder`.

    `trust`: dotted names of components, or packages of them, that are not of this program and may be imported.

    Raises:
        FolderError: there is no run, no checkpoint yet, one that is damaged or of another run, or it names code that is
            not trusted.
    """

    trust = [trust] if isinstance(trust, str) else trust  # else each of its letters would be trusted
    settings, run = stored_settings(Path(folder), trust), RunFolder(Path(folder))
    saved = run.load_checkpoint()
    if saved is None:
        raise FolderError(f"{folder}: holds no checkpoint yet; go on with gr-run resume={folder}")
    check_identity(saved, settings, run)
    check_unchanged(run.path)
    spec = SampleSpec(**saved["spec"])
    learner = build_learner(settings.config, spec, saved["learner"]["task_units"], torch.device("cpu"))
    learner.load_states([saved["learner"]], len(saved["learner"]["task_units"]) - 1)
    generator = None if learner.generator is None else learner.strategy.sampling_generator(0, learner.generator.eval())
    matrix = Record.from_state(saved["record"]).matrix()
    return LoadedRun(settings.config, matrix, learner.solver.eval(), generator)
