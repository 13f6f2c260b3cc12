"""Tab completion: groups, options, settings, values and folders, without composing a configuration.

Hydra's own shell scripts (`gr-run -sc install=bash`) call `gr-run -sc query=<shell>` with the line in `COMP_LINE`.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path

from gr_cli.cli.folder_commands import FILE, FOLDER, FOLDER_COMMANDS, FolderCommand
from gr_cli.cli.help import format_value
from gr_cli.cli.overrides import split_config_dirs
from gr_cli.config.options import ALL_GROUPS, Options, Setting
from gr_cli.config.output_root import default_output_root
from gr_cli.errors import ConfigError

_FLAGS = ("--help", "--version", "--cfg", "--package", "--resolve", "--config-dir", "--multirun", "-m", "-sc")
_FLAG_VALUES = {
    "--cfg": ("job", "hydra", "all"),
    "-c": ("job", "hydra", "all"),
    "-sc": tuple(f"{action}={shell}" for action in ("install", "uninstall") for shell in ("bash", "zsh", "fish")),
}
_PROGRAM = re.compile(r"^\s*(?:\S*python[\d.]*\s+-m\s+gr_cli|\S+)(?:\s+|$)")


def print_completions(shell: str) -> None:
    """Print the completions of the line in `COMP_LINE`, in the form that the shell's script reads."""
    line = _PROGRAM.sub("", os.environ.get("COMP_LINE", ""), count=1)
    print(("\n" if shell == "fish" else " ").join(complete(line)))


def complete(line: str) -> list[str]:
    """The completions of the last argument of a command line, which is given without the program's name."""
    *arguments, word = line.split() if line.strip() and not line[-1].isspace() else [*line.split(), ""]
    if arguments and arguments[-1] in _FLAG_VALUES:
        return _starting_with(word, _FLAG_VALUES[arguments[-1]])
    if arguments and arguments[-1] in ("--config-dir", "-cd"):
        return _paths(word, folders_only=True)
    if word.startswith("-"):
        return _starting_with(word, _FLAGS)
    options = Options(split_config_dirs(arguments)[0])
    sign = word[:1] if word[:1] in ("+", "~") else ""
    name, equals, value = word[len(sign) :].partition("=")
    if not equals:
        if (command := _folder_command(arguments)) is not None:
            return _starting_with(name, [f"{each}=" for each in (*command.arguments, "trust")])
        return [f"{sign}{each}" for each in _names(options, _choices(arguments), name)]
    done, comma, last = value.rpartition(",")
    if (command := _folder_command(arguments)) is not None:
        example = command.arguments.get(name)
        paths = _paths(value, folders_only=example == FOLDER) if example in (FILE, FOLDER) else []
        return [f"{name}={path}" for path in paths]
    values = [each for each in _values(options, _choices(arguments), name, last) if each not in done.split(",")]
    return [f"{sign}{name}={done}{comma}{each}" for each in values]


def _folder_command(arguments: Sequence[str]) -> FolderCommand | None:
    """The command on a folder that a line contains."""
    return next(
        (FOLDER_COMMANDS[name] for word in arguments if (name := word.partition("=")[0]) in FOLDER_COMMANDS), None
    )


def _choices(arguments: Sequence[str]) -> dict[str, str]:
    """The options that a line chooses; of several the first."""
    pairs = [word.lstrip("+").partition("=") for word in arguments]
    return {group: option.partition(",")[0] for group, _, option in pairs if group in ALL_GROUPS and option}


def _settings(options: Options, choices: Mapping[str, str]) -> list[Setting]:
    """The settings of a run with these options; those of the default options where there is no such option."""
    try:
        return options.all_settings(options.resolve(choices))
    except ConfigError:
        return options.all_settings(options.resolve({}))


def _names(options: Options, choices: Mapping[str, str], start: str) -> list[str]:
    """Groups and settings that begin with `start`; dotted names up to their next dot."""
    groups = [f"{group}=" for group in (*ALL_GROUPS, *FOLDER_COMMANDS) if group.startswith(start)]
    settings = [s.name for s in _settings(options, choices) if s.name.startswith(start) and "/" not in s.name]
    heads = [re.match(r"[^.]*\.?", name[len(start) :]) for name in settings]
    steps = [start + head[0] for head in heads if head is not None]
    return sorted({*groups, *(step if step.endswith(".") else f"{step}=" for step in steps)})


def _values(options: Options, choices: Mapping[str, str], name: str, start: str) -> list[str]:
    """What a group or setting can be."""
    if name in ALL_GROUPS:
        return _starting_with(start, options.names(name))
    if name in FOLDER_COMMANDS:
        with suppress(ConfigError):
            return _paths(start or str(default_output_root()), folders_only=True)
        return []
    setting = next((s for s in _settings(options, choices) if s.name == name), None)
    if setting is None:
        return []
    if "text" in re.split(r", | or ", setting.allowed) and "/" in (start or format_value(setting.default)):
        return _paths(start)
    listed = setting.values if len(setting.values) > 1 else (*setting.values, format_value(setting.default))
    if setting.allowed.startswith("text"):
        return _starting_with(start, listed) or _paths(start)
    return _starting_with(start, [value for value in listed if " " not in value])


def _starting_with(start: str, values: Iterable[str]) -> list[str]:
    return [value for value in dict.fromkeys(values) if value.startswith(start)]


def _paths(start: str, folders_only: bool = False) -> list[str]:
    """Files and folders whose path begins with `start`; folders end with `/`, but for a run's folder."""
    parent, _, name = start.rpartition("/") if "/" in start or not Path(start).is_dir() else (start, "", "")
    folder = Path(f"{parent}/" if start.startswith("/") or parent else ".").expanduser()
    prefix = f"{parent}/" if parent or start.startswith("/") else ""
    try:
        entries = sorted(entry for entry in folder.iterdir() if entry.name.startswith(name))
    except OSError:
        return []
    if not name:
        entries = [entry for entry in entries if not entry.name.startswith(".")]
    paths = []
    for entry in entries:
        if entry.is_dir():
            is_run = folders_only and (entry / "config.yaml").is_file()
            paths.append(f"{prefix}{entry.name}" if is_run else f"{prefix}{entry.name}/")
        elif not folders_only:
            paths.append(f"{prefix}{entry.name}")
    return paths
