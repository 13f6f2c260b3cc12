"""The manifest of a sweep, sweep.json: the folders of its jobs, with overrides, seed and identity of each."""

from __future__ import annotations

import os
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gr_cli.config.arguments import matches
from gr_cli.config.settings import Settings
from gr_cli.errors import FolderError
from gr_cli.results.folder import RunFolder
from gr_cli.system.files import write_json
from gr_cli.system.locks import is_locked, waiting_mutex
from gr_cli.system.messages import print_status
from gr_cli.system.reading import MAX_TABLE_BYTES, read_error_reason, read_json

MANIFEST = "sweep.json"
NOT_STARTED, NOT_RUN = "not started", "not run"  # states of a job without a run
# A sweep lies two levels below the folder of its runs, `outputs/sweeps/<hash>`, or contains them.
_LEVELS_UP = 2


@dataclass(frozen=True)
class SweepJob:
    """A job that a manifest lists.

    Attributes:
        sweep: Folder of the sweep.
        path: Folder of its run.
        overrides: Overrides of the job.
        seed_and_identity: Seed and identity of the run.
    """

    sweep: Path
    path: Path
    overrides: tuple[str, ...]
    seed_and_identity: tuple[int, str]

    @property
    def pending_state(self) -> str:
        """`not started`; `not run` once the sweep's command has ended."""
        return NOT_STARTED if is_locked(self.sweep) else NOT_RUN


def write_manifest(sweep: Path, jobs: Sequence[tuple[Settings, RunFolder]]) -> None:
    """Add jobs to the manifest of a sweep. Folders in it are relative to that of the sweep.

    Jobs of earlier sweeps in the same folder stay in it, except those that have not started and have the folder or the
    overrides of one of `jobs`.

    Raises:
        FolderError: There is a manifest that can't be read.
    """
    added = {
        path: SweepJob(sweep, path, tuple(settings.overrides), (settings.seed, settings.identity))
        for settings, folder in jobs
        for path in [Path(os.path.normpath(sweep / os.path.relpath(folder.path, sweep)))]
    }
    with waiting_mutex(sweep / f".{MANIFEST}.lock", lambda: None):
        kept = _earlier_jobs(sweep, added)
        entries = {
            Path(os.path.relpath(path, sweep)).as_posix(): {
                "seed": job.seed_and_identity[0],
                "config_hash": job.seed_and_identity[1],
                "overrides": list(job.overrides),
            }
            for path, job in {**kept, **added}.items()
        }
        write_json(sweep / MANIFEST, {"jobs": entries})


def _earlier_jobs(sweep: Path, added: Mapping[Path, SweepJob]) -> dict[Path, SweepJob]:
    """The listed jobs that others are added to; a line reports those whose folders get another run."""
    try:
        listed = read_manifest(sweep)
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        raise FolderError(
            f"{sweep / MANIFEST}: can't be read ({read_error_reason(error)}); remove it, or name another folder"
        ) from error
    repeated = {job.overrides for job in added.values()}
    kept = {
        job.path: job
        for job in listed
        if job.path in added or job.overrides not in repeated or os.path.lexists(job.path / "status.json")
    }
    displaced = [
        job
        for job in listed
        if job.overrides not in repeated and job.seed_and_identity != added.get(job.path, job).seed_and_identity
    ]
    if displaced:
        jobs = "1 job" if len(displaced) == 1 else f"{len(displaced)} jobs"
        print_status(
            f"{sweep / MANIFEST}: no longer lists {jobs} of an earlier sweep that had not started, because others have "
            f"the same folder, such as {displaced[0].path} ({shlex.join(displaced[0].overrides)})"
        )
    return kept


def read_manifest(sweep: Path) -> list[SweepJob]:
    """The jobs of a sweep.

    Raises:
        OSError, ValueError: The manifest can't be read, or names a folder away from the sweep.
    """
    entries: Any = read_json(sweep / MANIFEST, MAX_TABLE_BYTES).get("jobs")
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
    return SweepJob(sweep, Path(os.path.normpath(sweep / path)), tuple(overrides), (seed, identity))
