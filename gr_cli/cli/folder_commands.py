"""Commands on the folder of an existing run: one table for the program, its help and tab completion."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Sequence
from contextlib import chdir
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from gr_cli.cli.overrides import split_config_dirs
from gr_cli.errors import AuditError, ConfigError, IncompleteAuditError, one_line
from gr_cli.system.process import import_torch, resume_garbage_collection

if TYPE_CHECKING:
    from gr_cli.config.settings import Settings

Train = Callable[["Settings", Path], object]  # trains a run in its folder
Command = Callable[[Path, Sequence[str], Train], int]


@dataclass(frozen=True)
class FolderCommand:
    """A command `<name>=<folder>`.

    Attributes:
        meaning: What it does, for the help page.
        execute: Called with the folder, the names of trusted code and addresses, and the function that trains;
            returns the exit code.
    """

    meaning: str
    execute: Command


def folder_command(argv: list[str], train: Train) -> int | None:
    """Execute the command on a folder that a command line contains.

    Returns:
        The exit code; None if there is no such command.
    """
    for name, command in FOLDER_COMMANDS.items():
        if any(word.startswith(f"{name}=") for word in argv):
            return _in_start_directory(command.execute, *_parse_folder_command(name, argv), train)
    return None


def _parse_folder_command(name: str, argv: list[str]) -> tuple[Path, list[str]]:
    """Parse `<name>=<folder>`, which may be combined with `trust=` and `--config-dir` only.

    Returns:
        The folder, and the names of trusted code and addresses: those of `trust=`, and every `_target_` in the folder
        of a `--config-dir`.

    Raises:
        ConfigError: There are other arguments.
    """
    from gr_cli.config.instantiate import targets_in_text

    path = Path(next(word for word in argv if word.startswith(f"{name}=")).partition("=")[2])
    config_dirs, rest = split_config_dirs(argv)
    trust = [name for word in rest if word.startswith("trust=") for name in word.partition("=")[2].split(",") if name]
    others = [word for word in rest if not word.startswith((f"{name}=", "trust="))]
    if others:
        raise ConfigError(name, path, f"can't be combined with other arguments: remove {' '.join(others)}")
    for folder in config_dirs:
        trust += targets_in_text("\n".join(file.read_text(encoding="utf-8") for file in folder.rglob("*.yaml")))
    return path, trust


def _in_start_directory(command: Command, path: Path, trust: Sequence[str], train: Train) -> int:
    """Execute a command in the directory in which the run was started, if it still exists.

    The relative paths of the run's configuration are relative to that directory.
    """
    from gr_cli.results.folder import RunFolder

    status = RunFolder(path).status()
    start = Path(str((status or {}).get("directory", ".")))
    if status is not None:
        import_torch()
    resume_garbage_collection()
    if not (os.path.isdir(start) and os.access(start, os.X_OK)) or start.samefile("."):
        return command(path, trust, train)
    path = path.absolute()
    # Absolute, so that no module is imported from the directory that a run's folder names.
    sys.path[:] = [str(Path(entry).absolute()) for entry in sys.path]
    with chdir(start):
        return command(path, trust, train)


def _resume(path: Path, trust: Sequence[str], train: Train) -> int:
    """`gr-run resume=<folder>`: continue a run with the configuration in its folder."""
    from gr_cli.results.stored_config import check_code, check_unchanged, stored_settings
    from gr_cli.trackers.trust import require_trusted_address

    settings = stored_settings(path, trust)
    require_trusted_address(path, settings.config, trust)
    check_unchanged(path)
    check_code(path, settings)
    train(settings, path)
    return 0


def _verify(path: Path, trust: Sequence[str], train: Train) -> int:
    """`gr-run verify=<folder>`: repeat a run in another folder and compare the results."""
    from gr_cli.runner.verify import verify
    from gr_cli.terminal.run_display import TerminalObserver

    verdict = verify(path, TerminalObserver(keeps_folder=False), trust)
    print("\n".join(map(one_line, verdict.lines)))
    return verdict.exit_code


def _audit(path: Path, trust: Sequence[str], train: Train) -> int:
    """`gr-run audit=<folder>`: count the training samples in a run's folder, and compare with its own statement."""
    from gr_cli.evaluation.audit import audit

    result = audit(path, trust)
    print("\n".join(map(one_line, str(result).splitlines())))
    if result.violated:
        raise AuditError(f"{path}: {result.verdict}")
    if result.incomplete:
        unread_path, reason = min(result.unread.items())
        raise IncompleteAuditError(
            f"{path}: {len(result.unread)} of its parts could not be read, such as {unread_path} ({reason}); "
            "remove them, or make them readable"
        )
    return 0


FOLDER_COMMANDS = {
    "resume": FolderCommand("continue an interrupted run", _resume),
    "verify": FolderCommand("repeat a run and compare", _verify),
    "audit": FolderCommand("search a run for raw samples", _audit),
}
