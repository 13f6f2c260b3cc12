"""Load a release: the networks that `gr-run release=<run>` wrote, checked against the manifest."""

from __future__ import annotations

import copy
import io
from collections.abc import Collection, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from gr_cli.config.instantiate import foreign_targets
from gr_cli.errors import FolderError
from gr_cli.generators.base import Ensemble, Generator
from gr_cli.nn.sample_spec import SampleSpec
from gr_cli.results.release_manifest import CONFIG, NETWORKS, Manifest, read_release
from gr_cli.results.stored_config import check_trust
from gr_cli.strategies.base import Strategy
from gr_cli.system.reading import read_error_reason, read_yaml
from gr_cli.training.build import build_learner
from gr_cli.training.learner import Learner

# What is not released of the settings: the seed of initial weights, all of which are replaced, and the draw of members.
_NOT_RELEASED = {"seed": 0, "membership": {"draw": None}}


class Release:
    """Networks released from a run, on the CPU and in evaluation mode.

    Attributes:
        folder: Folder of the release.
        manifest: Its files, tasks, ε and δ, and what is claimed of them.
        config: Settings of the networks.
    """

    def __init__(self, folder: Path, trust: Collection[str] = ()) -> None:
        self.folder = folder.absolute()
        self.manifest, contents = read_release(folder)
        try:
            self.config = read_yaml(folder / CONFIG)
            self._states = {
                name: _states(contents[file]) for name, file in NETWORKS.items() if file in self.manifest.files
            }
        except (OSError, ValueError) as error:
            raise FolderError(
                f"{folder}: was not written by gr-run release= ({read_error_reason(error)}); name a folder that was"
            ) from error
        check_trust(folder, foreign_targets({k: v for k, v in self.config.items() if k != "choices"}), trust)

    def __repr__(self) -> str:
        return f"Release({str(self.folder)!r}, {self.manifest.claim})"

    @property
    def claim(self) -> str:
        """What is claimed of the files, in a sentence."""
        return self.manifest.claim

    @cached_property
    def classes(self) -> tuple[str, ...]:
        """Name of the class of each output unit; of the first task where tasks share their units."""
        names: dict[int, str] = {}
        for task in self.manifest.tasks:
            for i, name in enumerate(task.classes):
                names.setdefault(task.first_unit + i, name)
        return tuple(names[unit] for unit in sorted(names))

    @property
    def generator(self) -> Any:
        """The generator; None if none was released."""
        if "generator" not in self._states:
            return None
        members = self._members
        return members[0] if len(members) == 1 else Ensemble(members)

    @property
    def solver(self) -> nn.Module | None:
        """The solver; None if it was not released, as for a generative classifier, which trains none."""
        return self._learner.solver.eval() if "solver" in self._states else None

    def scores(self, x: Tensor, task: int | None = None) -> Tensor:
        """The scores (N, U) of samples (N, ...) by output unit, as the run's own classifier gives them.

        Args:
            x: Samples as the run had them.
            task: Their task; None: the last one, whose classifier knows all classes.

        Raises:
            FolderError: No classifier was released.
        """
        if "solver" not in self._states and type(self._learner.strategy).classifier is Strategy.classifier:
            raise FolderError(f"{self.folder}: holds no solver, and its generator does not classify")
        last = len(self.manifest.tasks) - 1
        with self._learner.classifier() as classifier:
            return classifier(x, None, last if task is None else task)

    def classify(self, x: Tensor, task: int | None = None) -> list[str]:
        """The class of each sample (N, ...) by name, among those of all tasks, or of one.

        Args:
            x: Samples as the run had them.
            task: Task of the samples, in the task-incremental scenario; None: not known.
        """
        learner, last = self._learner, len(self.manifest.tasks) - 1
        units = (
            learner.task_units.any(0)
            if task is None
            else learner.scenario.testing_units(learner.task_units, task, last)
        )
        chosen = self.scores(x, task).masked_fill(~units, -torch.inf).argmax(-1)
        return [self.classes[unit] for unit in chosen.tolist()]

    @cached_property
    def _learner(self) -> Learner:
        spec, units = _spec(self.manifest), _task_units(self.manifest)
        learner = build_learner(self.config | _NOT_RELEASED, spec, units, torch.device("cpu"))
        state = learner.state_of(0) | {"optimizers": {}}
        if "generator" in self._states:
            state["generator"] = self._states["generator"][-1]
        if "solver" in self._states:
            state["solver"] = self._states["solver"][0]
        learner.load_states([state], len(units) - 1)
        if learner.generator is not None:
            learner.generator.eval()
        return learner

    @cached_property
    def _members(self) -> list[Generator]:
        template = self._learner.generator
        assert template is not None
        members = []
        for state in self._states["generator"]:
            member = copy.deepcopy(template)
            member.load_state_dict(member.expand_state(state))
            members.append(member.eval())
        return members


def load_release(folder: str | Path, trust: str | Collection[str] = ()) -> Release:
    """Networks that `gr-run release=<run>` released, after a check of all files against their hashes.

    Args:
        folder: Folder of the release.
        trust: Dotted names of components, or of packages that contain them, that may be imported although they are not
            part of this program.

    Raises:
        FolderError: There is no release, one of its files is missing or was changed, or it names code that is not
            trusted.
    """
    return Release(Path(folder), [trust] if isinstance(trust, str) else trust)


def _states(content: bytes) -> list[dict[str, Tensor]]:
    """The states in the file of a network."""
    try:
        states: list[dict[str, Tensor]] = torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)[
            "states"
        ]
    except Exception as error:  # whatever unpickling raises
        raise ValueError(f"a file of weights can't be read: {type(error).__name__}") from error
    return states


def _spec(manifest: Manifest) -> SampleSpec:
    spec, value_range = manifest.spec, manifest.spec["value_range"]
    return SampleSpec(**{**spec, "value_range": None if value_range is None else tuple(value_range)})


def _task_units(manifest: Manifest) -> Tensor:
    """The output units of each task: bool (T, U)."""
    counts: Sequence[tuple[int, int]] = [(task.first_unit, len(task.classes)) for task in manifest.tasks]
    units = torch.zeros(len(counts), max(first + number for first, number in counts), dtype=torch.bool)
    for row, (first, number) in zip(units, counts, strict=True):
        row[first : first + number] = True
    return units
