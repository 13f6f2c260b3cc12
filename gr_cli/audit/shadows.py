"""Shadow runs: the audited configuration on other halves of its training samples."""

from __future__ import annotations

import copy
import os
import sys
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stdout, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from gr_cli._version import __version__
from gr_cli.config.settings import Settings, flatten
from gr_cli.errors import ConfigError, FolderError, TrainingError, suggestion
from gr_cli.results.audits import AUDIT_FILE, MEMBERSHIP_FILE
from gr_cli.results.folder import AUDIT_FOLDER, RunFolder
from gr_cli.results.stored_config import check_code, check_unchanged, stored_settings
from gr_cli.system.files import make_folder
from gr_cli.system.reading import read_json

MIN_SHADOWS = 6  # without the target and its complement, two runs have each sample, and two have not
_SHARE = 0.5  # of the samples of a class that a shadow is trained on
# What shadows don't need; it changes nothing in training. A few test samples are enough to see that they learn.
_NOT_MEASURED: Mapping[str, Any] = {
    "evaluate.generated_samples": None,
    "evaluate.every": None,
    "evaluate.samples": 100,
    "prune_below": None,
}


@dataclass(frozen=True)
class Shadows:
    """The shadow runs of an audited run.

    Attributes:
        run: Folder of the audited run.
        settings: Settings of the audited run.
        jobs: Settings of the shadows, one for each draw.
        overrides: What differs from the audited run, as it was typed.
        folder: Folder of the shadows and of the tables.
    """

    run: Path
    settings: Settings
    jobs: Sequence[Settings]
    overrides: Sequence[str]
    folder: Path

    @property
    def folders(self) -> list[RunFolder]:
        """Folders of the shadows."""
        return [RunFolder(self.folder / f"draw_{self.draw(job):03}") for job in self.jobs]

    @property
    def draws(self) -> list[int]:
        """Their membership draws."""
        return list(map(self.draw, self.jobs))

    @staticmethod
    def draw(job: Settings) -> int:
        """The membership draw of a shadow."""
        return int(job.config["membership"]["draw"])

    @property
    def unfinished(self) -> list[RunFolder]:
        """The folders of shadows that are not finished."""
        return [folder for folder in self.folders if folder.state() != "finished"]


def check_number(number: int) -> None:
    """Raise a ConfigError unless `number` shadows can be attacked."""
    if number < MIN_SHADOWS or number % 2:
        problem = f"must be even, because draws are complementary in pairs, and at least {MIN_SHADOWS}"
        raise ConfigError("--shadows", number, problem)


def plan_shadows(
    run: Path, number: int, candidates: int | None, overrides: Sequence[str], trust: Collection[str] = ()
) -> Shadows:
    """The shadows of a run: its configuration with overrides, and a membership draw each. Nothing is written.

    Args:
        run: Folder of the audited run.
        number: Number of shadows.
        candidates: Samples of each class of a task that are attacked; None: all.
        overrides: `name=value` for settings that differ from the audited run.
        trust: Names of code that the run's settings may import.

    Raises:
        FolderError: There is no run, or it is a shadow itself.
        ConfigError: An override is not allowed, or the number of shadows.
    """
    check_number(number)
    settings = stored_settings(run, trust)
    check_unchanged(run)
    check_code(run, settings)
    if settings.config["membership"]["draw"] is not None:
        raise FolderError(f"{run}: is a run on a part of its samples; audit the run on all of them")
    config = with_overrides(settings.config, overrides)
    for name, value in _NOT_MEASURED.items():
        _set(config, name, value)
    _set(config, "canaries.count", None)
    config |= {"tracker": None, "fresh": False}
    jobs = []
    for draw in range(number):
        membership = {"draw": draw, "share": _SHARE, "candidates": candidates}
        choices = {group: choice for group, choice in settings.choices.items() if group != "tracker"}
        job = Settings.validated(copy.deepcopy(config) | {"membership": membership}, choices, overrides)
        jobs.append(replace(job, live=settings.live))
    return Shadows(run, settings, jobs, tuple(overrides), run / AUDIT_FOLDER / jobs[0].identity)


def with_overrides(config: Mapping[str, Any], overrides: Sequence[str]) -> dict[str, Any]:
    """A copy of a configuration with other values of some settings.

    Raises:
        ConfigError: There is no such setting, or an override is not `name=value`.
    """
    import yaml

    changed, names = copy.deepcopy(dict(config)), flatten(config)
    for override in overrides:
        name, equals, text = override.partition("=")
        if not equals or name not in names or name.split(".")[0] in ("membership", "seed"):
            problem = "is no setting of this run that shadows may change"
            raise ConfigError("overrides", override, problem, suggestion(name, names) or "try train.iterations=500")
        try:
            value = yaml.safe_load(text)
        except yaml.YAMLError as error:
            raise ConfigError("overrides", override, "has no value that can be read", "try name=5") from error
        if isinstance(value, str):
            with suppress(ValueError):
                value = float(value)  # YAML takes 1e-3, without a dot, for a text
        _set(changed, name, value)
    return changed


def _set(config: dict[str, Any], name: str, value: Any) -> None:
    *groups, leaf = name.split(".")
    for group in groups:
        config = config[group]
    config[leaf] = value


def train_shadows(shadows: Shadows) -> None:
    """Train the shadows that are not finished, as replicas of one program where that is faster.

    The same call continues what was interrupted. Progress is printed on stderr.

    Raises:
        Stop: The user stopped them.
        TrainingError: Some failed.
    """
    if not shadows.unfinished:
        return
    from gr_cli.cli.launchers.batched import BatchedLauncher
    from gr_cli.cli.sweep import begin_sweep
    from gr_cli.system.process import import_torch

    import_torch()
    make_folder(shadows.folder)
    (shadows.folder / AUDIT_FILE).unlink(missing_ok=True)  # its tables are of other shadows
    sweep = begin_sweep()
    sweep.progress.total = len(shadows.jobs)
    try:
        with _stdout_as_stderr():
            BatchedLauncher().train(shadows.jobs, shadows.folders, shadows.folder)
    finally:
        begin_sweep()
    if unfinished := shadows.unfinished:
        raise TrainingError(
            f"{shadows.folder}: {len(unfinished)} of {len(shadows.jobs)} shadow runs did not finish, such as "
            f"{unfinished[0].path.name}; the same command continues them"
        )


@contextmanager
def _stdout_as_stderr() -> Iterator[None]:
    """Send what this process and its children print to stderr: stdout is for the table."""
    sys.stdout.flush()
    stdout = os.dup(1)
    try:
        os.dup2(2, 1)
        with redirect_stdout(sys.stderr):
            yield
    finally:
        os.dup2(stdout, 1)
        os.close(stdout)


def provenance(shadows: Shadows) -> dict[str, Any]:
    """Which run and which shadows the tables are of, and the version that computed them."""
    return {
        "config_hash": shadows.settings.identity,
        "seed": shadows.settings.seed,
        "overrides": list(shadows.overrides),
        "candidates_per_class": shadows.jobs[0].config["membership"]["candidates"],
        "draws": shadows.draws,
        "shadow_config_hashes": [job.identity for job in shadows.jobs],
        "version": __version__,
    }


def has_tables(shadows: Shadows) -> bool:
    """Whether the tables of these shadows, all finished, have been written by this version."""
    if shadows.unfinished or not (shadows.folder / MEMBERSHIP_FILE).exists():
        return False
    with suppress(OSError, ValueError):
        return read_json(shadows.folder / AUDIT_FILE) == provenance(shadows)
    return False
