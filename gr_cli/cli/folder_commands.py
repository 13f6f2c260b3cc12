"""Commands on the folder of an existing run: one table for the program, its help and tab completion."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import chdir, contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

from gr_cli.cli.overrides import split_config_dirs
from gr_cli.errors import ConfigError, one_line
from gr_cli.system.process import import_torch, resume_garbage_collection

if TYPE_CHECKING:
    from gr_cli.config.settings import Settings

# As the example of an argument: the name of a file, or of a folder.
FILE, FOLDER = "FILE", "FOLDER"
_EXAMPLE_RUN = "outputs/split_digits/er/seed0-1a2b3c4d"
_EXAMPLE_PATHS = {FILE: "samples.npz", FOLDER: "released"}
Train = Callable[["Settings", Path], object]  # trains a run in its folder


@dataclass(frozen=True)
class Call:
    """A command on a folder, as it was typed.

    Attributes:
        path: The folder.
        trust: Names of trusted code and addresses.
        arguments: The command's own arguments by name.
        train: Trains a run in its folder.
    """

    path: Path
    trust: Sequence[str]
    arguments: Mapping[str, str]
    train: Train


@dataclass(frozen=True)
class FolderCommand:
    """A command `<name>=<folder>`.

    Attributes:
        meaning: What it does, for the help page.
        execute: Executes a call; returns the exit code.
        arguments: What the command accepts beside the folder: an example of each argument by name, FILE for files and
            FOLDER for folders.
    """

    meaning: str
    execute: Callable[[Call], int]
    arguments: Mapping[str, str] = field(default_factory=dict)

    def usage(self, name: str) -> list[str]:
        """How it is called, for the help page: a line, and one for its arguments."""
        arguments = " ".join(f"{argument}={example}" for argument, example in self.arguments.items())
        call = f"gr-run {name}=FOLDER{' ...' if arguments else ''}"
        return [f"  {call:<46}{self.meaning}", *([f"    ...: {arguments}"] if arguments else [])]


def folder_command(argv: list[str], train: Train) -> int | None:
    """Execute the command on a folder that a command line contains.

    Returns:
        The exit code; None if there is no such command.
    """
    for name, command in FOLDER_COMMANDS.items():
        if any(word.startswith(f"{name}=") for word in argv):
            call = _parse_folder_command(name, command, argv, train)
            with in_start_directory(call.path) as path:
                return command.execute(replace(call, path=path))
    return None


def _parse_folder_command(name: str, command: FolderCommand, argv: list[str], train: Train) -> Call:
    """Parse `<name>=<folder>`, which may be combined with `trust=`, `--config-dir` and the command's own arguments.

    Trusted are the names of `trust=`, and every `_target_` in the folder of a `--config-dir`.

    Raises:
        ConfigError: There are other arguments, or a folder or file has no name.
    """
    path = _named(name, next(word for word in argv if word.startswith(f"{name}=")).partition("=")[2], _EXAMPLE_RUN)
    config_dirs, rest = split_config_dirs(argv)
    trust = [name for word in rest if word.startswith("trust=") for name in word.partition("=")[2].split(",") if name]
    arguments: dict[str, str] = {}
    others = []
    for word in (word for word in rest if not word.startswith((f"{name}=", "trust="))):
        key, equals, value = word.partition("=")
        if equals and key in command.arguments and key not in arguments:
            # The command is executed in the directory in which the run was started.
            example = _EXAMPLE_PATHS.get(command.arguments[key])
            arguments[key] = value if example is None else str(_named(key, value, example).absolute())
        else:
            others.append(word)
    if others:
        raise ConfigError(name, path, f"can't be combined with other arguments: remove {' '.join(others)}")
    return Call(path, trusted_names(trust, config_dirs), arguments, train)


def _named(argument: str, value: str, example: str) -> Path:
    """The path that is the value of an argument.

    Raises:
        ConfigError: It is empty, which would be the current directory.
    """
    if not value:
        raise ConfigError(argument, value, "is empty and names no path", f"try {argument}={example}")
    return Path(value)


def trusted_names(names: Sequence[str], config_dirs: Sequence[Path]) -> list[str]:
    """Names of trusted code: those given, and every `_target_` in folders of own options."""
    from gr_cli.config.instantiate import targets_in_text

    texts = ["\n".join(file.read_text(encoding="utf-8") for file in folder.rglob("*.yaml")) for folder in config_dirs]
    return [*names, *(target for text in texts for target in targets_in_text(text))]


@contextmanager
def in_start_directory(path: Path) -> Iterator[Path]:
    """Change to the directory in which the run in `path` was started, within the block, if it still exists.

    The relative paths of the run's configuration are relative to that directory. Yields the path of the folder there.
    """
    from gr_cli.results.folder import RunFolder

    status = RunFolder(path).status()
    start = Path(str((status or {}).get("directory", ".")))
    if status is not None:
        import_torch()
    resume_garbage_collection()
    if not (os.path.isdir(start) and os.access(start, os.X_OK)) or start.samefile("."):
        yield path
        return
    path = path.absolute()
    # Absolute, so that no module is imported from the directory that a run's folder names.
    sys.path[:] = [str(Path(entry).absolute()) for entry in sys.path]
    with chdir(start):
        yield path


def _resume(call: Call) -> int:
    """`gr-run resume=<folder>`: continue a run with the configuration in its folder."""
    from gr_cli.results.stored_config import check_code, check_unchanged, stored_settings
    from gr_cli.trackers.trust import require_trusted_address

    settings = stored_settings(call.path, call.trust)
    require_trusted_address(call.path, settings.config, call.trust)
    check_unchanged(call.path)
    check_code(call.path, settings)
    call.train(settings, call.path)
    return 0


def _verify(call: Call) -> int:
    """`gr-run verify=<folder>`: repeat a run in another folder and compare the results."""
    from gr_cli.runner.verify import verify
    from gr_cli.terminal.run_display import TerminalObserver

    verdict = verify(call.path, TerminalObserver(keeps_folder=False), call.trust)
    print("\n".join(map(one_line, verdict.lines)))
    return verdict.exit_code


def _forget(call: Call) -> int:
    """`gr-run forget=<folder> classes=[3] tasks=[1]`: forget classes or tasks of a finished run."""
    from gr_cli.cli.overrides import listed_values
    from gr_cli.runner.forget import forget
    from gr_cli.runner.forget_request import Selection

    classes, tasks = (listed_values(name, call.arguments.get(name, "")) for name in ("classes", "tasks"))
    try:
        numbers = [int(task) for task in tasks]
    except ValueError as error:
        raise ConfigError("tasks", call.arguments["tasks"], "must be whole numbers, from 0", "try tasks=[1]") from error
    file = call.arguments.get("samples")
    selection = Selection(classes, numbers, None if file is None else Path(file), call.arguments.get("label"))
    print("\n".join(map(one_line, forget(call.path, selection, call.trust).lines)))
    return 0


def _release(call: Call) -> int:
    """`gr-run release=<folder> to=<new folder>`: write what the claim of privacy covers to a new folder."""
    from gr_cli.runner.release import release

    to = call.arguments.get("to")
    print("\n".join(map(one_line, release(call.path, None if to is None else Path(to), call.trust).lines)))
    return 0


FOLDER_COMMANDS = {
    "resume": FolderCommand("continue an interrupted run", _resume),
    "verify": FolderCommand("repeat a run and compare", _verify),
    "forget": FolderCommand(
        "drop classes, tasks or samples",
        _forget,
        {"classes": "[3,7]", "tasks": "[2]", "samples": FILE, "label": "3"},
    ),
    "release": FolderCommand("write what its ε covers", _release, {"to": FOLDER}),
}
