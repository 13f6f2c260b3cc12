"""The folder of a run, and whether it can hold the run: it is new, empty or its own, and outside those of others."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path

from gr_cli.config.settings import Settings, result_relevant, short_hash
from gr_cli.errors import FolderError, GrError, OccupiedFolderError
from gr_cli.results.folder import AUDIT_FOLDER, CONFIG_FILE, RunFolder
from gr_cli.results.manifest import MANIFEST
from gr_cli.results.stored_config import read_config
from gr_cli.system.locks import LOCK_FILE

_SWEEP_FILES = (MANIFEST, "study.journal")  # of a sweep, and of a search before its first trial
_REMEDY = "name a new or empty folder"


def run_folder(settings: Settings, path: Path | None = None) -> RunFolder:
    """The folder of a run; an unused one beside it if `fresh` is set.

    Args:
        settings: Settings of the run.
        path: Where it is to lie; None: below `output_root`.
    """
    path = settings.folder() if path is None else path
    return RunFolder(_unused_sibling(path) if settings.config["fresh"] else path)


def _unused_sibling(path: Path) -> Path:
    """The first of `path`, `path-2`, `path-3`, ... that does not exist or is an empty folder."""
    path = path if path.name not in ("", "..") else Path(os.path.abspath(path))
    number, candidate = 1, path
    while os.path.lexists(candidate) and not _is_empty(candidate):
        number += 1
        candidate = path.with_name(f"{path.name}-{number}")
    return candidate


def _is_empty(path: Path) -> bool:
    with suppress(OSError):
        return not os.listdir(path)
    return False


def check_available(folder: RunFolder, settings: Settings) -> None:
    """Check that a run may be started or continued in a folder. Nothing is written.

    Raises:
        FolderError: It can't be read.
        OccupiedFolderError: It is a file, holds another run or other files, or lies in another run's folder.
    """
    path = folder.path
    check_outside_runs(path)
    if settings.names(path):
        return  # named after this run, whose checkpoint is compared when it is read
    if not (names := _names_in(path)) or _is_config_of(path, settings):
        return
    status = folder.status()
    if status is None:
        foreign = [name for name in names if not _is_left_by_start(path / name)]
        if foreign:
            raise OccupiedFolderError(f"{path}: holds files that are not of this run, such as {foreign[0]}; {_REMEDY}")
    elif (status.get("seed"), status.get("config_hash")) != (settings.seed, settings.identity):
        raise OccupiedFolderError(f"{path}: holds another run{_differences(folder, settings)}; {_REMEDY}")


def check_outside_runs(path: Path) -> None:
    """Check that a folder to be written lies in no other run's folder, where no report would see it.

    Raises:
        OccupiedFolderError: It does.
    """
    resolved = Path(os.path.realpath(path))
    for parent in resolved.parents:
        if (parent / AUDIT_FOLDER) in resolved.parents:
            continue  # the shadow runs of gr-audit, which no report is to see
        if os.path.lexists(parent / "status.json") and os.path.lexists(parent / CONFIG_FILE):
            raise OccupiedFolderError(f"{path}: lies in the folder of another run, {parent}; name one outside of it")


def check_sweep_folder(path: Path) -> None:
    """Check that a sweep may be written to a folder: it is new or empty, or holds sweeps and runs only.

    Raises:
        FolderError: It can't be read.
        OccupiedFolderError: It holds other files, such as another program's multirun.yaml, which Hydra would replace.
    """
    names = _names_in(path)
    if any(name in names for name in _SWEEP_FILES):
        return
    foreign = [name for name in names if not _is_left_by_start(path / name) and not _holds_runs(path / name)]
    if foreign:
        raise OccupiedFolderError(f"{path}: holds files that are not of a sweep, such as {foreign[0]}; {_REMEDY}")


def _names_in(path: Path) -> list[str]:
    """The names in a folder, sorted; none if there is no folder.

    Raises:
        FolderError: It can't be read.
        OccupiedFolderError: It is not a folder.
    """
    try:
        return sorted(os.listdir(path))
    except FileNotFoundError:
        return []
    except NotADirectoryError as error:
        raise OccupiedFolderError(f"{path}: is not a folder; {_REMEDY}") from error
    except OSError as error:
        raise FolderError(f"{path}: can't be read ({error.strerror}); {_REMEDY}") from error


def _holds_runs(path: Path) -> bool:
    """Whether a folder is empty, or there are runs in it or below."""
    holds_files = not path.is_dir()
    for _, _, names in os.walk(path):
        if "status.json" in names:
            return True
        holds_files |= bool(names)
    return not holds_files


def _differences(folder: RunFolder, settings: Settings) -> str:
    """The settings in which the run of a folder differs, in brackets; empty if they can't be read."""
    with suppress(OSError, ValueError, LookupError, TypeError, AttributeError, GrError):
        return f" ({settings.differences(read_config(folder.path)[0])})"
    return ""


def _is_config_of(path: Path, settings: Settings) -> bool:
    """Whether config.yaml in a folder is that of a run."""
    with suppress(OSError, ValueError, LookupError, TypeError, AttributeError):
        config, _ = read_config(path)
        return (config.get("seed"), short_hash(result_relevant(config))) == (settings.seed, settings.identity)
    return False


def _is_left_by_start(path: Path) -> bool:
    """Whether a run leaves such a file if it is killed before it writes its configuration."""
    if path.name == "figures":
        with suppress(OSError):
            return not os.listdir(path)
    return path.name == LOCK_FILE or (path.name.startswith(".") and path.name.endswith(".tmp"))
