"""A run folder, read back."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from gr_cli.errors import FolderError
from gr_cli.settings import Settings


@dataclass(frozen=True)
class LoadedRun:
    """A run as it was left. `matrix` has a row per training and a column per task; networks are in evaluation mode."""

    config: dict[str, Any]
    matrix: list[list[float | None]]
    solver: Any
    generator: Any


def settings_of(path: Path) -> Settings:
    """The settings of the run in `path`, from its config.yaml and status.json.

    Raises:
        FolderError: there is no run.
    """
    from gr_cli.results.folder import RunFolder

    try:
        config = yaml.safe_load((path / "config.yaml").read_text(encoding="utf-8"))
        choices = config.pop("choices")
        config.setdefault("precision", "float32")  # runs of earlier versions do not say
        config.setdefault("augment", {"noise": 0.0, "shift": 0})
        return Settings.checked(config, choices, (RunFolder(path).status() or {}).get("overrides", []))
    except OSError as error:
        raise FolderError(f"{path}: holds no run (config.yaml: {error.strerror})") from error
    except (yaml.YAMLError, UnicodeDecodeError, AttributeError, KeyError, TypeError) as error:
        raise FolderError(f"{path / 'config.yaml'}: is not the configuration of a run of gr-run") from error


def load_run(folder: str | Path) -> LoadedRun:
    """Configuration, accuracy matrix, solver and generator (None if there was none) of the run in `folder`.

    Raises:
        FolderError: there is no run, or no checkpoint yet.
    """
    import torch

    from gr_cli.assembly import build_learner
    from gr_cli.benchmarks.base import Kind
    from gr_cli.results.folder import RunFolder
    from gr_cli.results.record import Record

    settings, saved = settings_of(Path(folder)), RunFolder(Path(folder)).load_checkpoint()
    if saved is None:
        raise FolderError(f"{folder}: holds no checkpoint yet")
    shape = saved["kind"]
    kind = Kind(tuple(shape["shape"]), shape["value_range"], shape["trials"])
    learner = build_learner(settings.config, kind, saved["learner"]["heads"], torch.device("cpu"))
    learner.load_states([saved["learner"]], len(saved["learner"]["heads"]) - 1)
    generator = None if learner.generator is None else learner.strategy.dreamer(0, learner.generator.eval())
    matrix = Record.from_state(saved["record"]).matrix()
    return LoadedRun(settings.config, matrix, learner.solver.eval(), generator)
