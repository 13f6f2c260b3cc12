"""The manifest of a sweep, sweep.json: the folders of its jobs, with overrides, seed and identity of each."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gr_cli.config.arguments import matches
from gr_cli.config.settings import Settings
from gr_cli.results.folder import RunFolder
from gr_cli.system.files import write_json
from gr_cli.system.reading import read_json

MANIFEST = "sweep.json"
# A sweep lies two levels below the folder of its runs, `outputs/sweeps/<hash>`, or contains them.
_LEVELS_UP = 2


@dataclass(frozen=True)
class SweepJob:
    """A job that a manifest lists.

    Attributes:
        path: Folder of its run.
        overrides: Overrides of the job.
        seed_and_identity: Seed and identity of the run.
    """

    path: Path
    overrides: tuple[str, ...]
    seed_and_identity: tuple[int, str]


def write_manifest(sweep: Path, jobs: Sequence[tuple[Settings, RunFolder]]) -> None:
    """Write the manifest of a sweep; folders are relative to that of the sweep."""
    entries = {
        Path(os.path.relpath(folder.path, sweep)).as_posix(): {
            "seed": settings.seed,
            "config_hash": settings.identity,
            "overrides": list(settings.overrides),
        }
        for settings, folder in jobs
    }
    write_json(sweep / MANIFEST, {"jobs": entries})


def read_manifest(sweep: Path) -> list[SweepJob]:
    """The jobs of a sweep.

    Raises:
        OSError, ValueError: The manifest can't be read, or names a folder away from the sweep.
    """
    entries: Any = read_json(sweep / MANIFEST).get("jobs")
    if not matches(entries, dict[str, dict[str, Any]]):
        raise ValueError("`jobs` must map folders to seed, config_hash and overrides")
    return [_job(sweep, name, entry) for name, entry in entries.items()]


def _job(sweep: Path, name: str, entry: Any) -> SweepJob:
    seed, identity, overrides = entry.get("seed"), entry.get("config_hash"), entry.get("overrides")
    if type(seed) is not int or type(identity) is not str or not matches(overrides, list[str]):
        raise ValueError(f"lists a job without seed, config_hash and overrides, {name}")
    path = Path(name)
    if path.is_absolute() or ".." in path.parts[_LEVELS_UP:]:
        raise ValueError(f"names a folder away from the sweep, {name}")
    return SweepJob(Path(os.path.normpath(sweep / path)), tuple(overrides), (seed, identity))
