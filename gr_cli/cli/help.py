"""`gr-run --help`: the short page, and the pages of groups, options and settings. Nothing is composed or imported.

gr-run --help                  how to call it, groups and their options, names of settings
gr-run --help strategy         a group: its options, one line each
gr-run strategy=dgr --help     an option: its settings with meaning, default and allowed values
gr-run --help train.epochs     a setting
"""

from __future__ import annotations

import json
import shutil
import textwrap
from collections.abc import Iterator, Sequence
from functools import partial
from itertools import groupby
from typing import Any

from gr_cli.cli.folder_commands import FOLDER_COMMANDS
from gr_cli.cli.overrides import split_config_dirs
from gr_cli.config.groups import NESTED_GROUPS
from gr_cli.config.options import ALL_GROUPS, GROUP_MEANINGS, Option, Options, Setting, shipped_component
from gr_cli.config.run_settings import RUN_SETTINGS, Section
from gr_cli.config.signatures import Component, imported_component
from gr_cli.errors import ConfigError, suggestion

_FOLDER_COMMAND_LINES = "\n".join(line for name, command in FOLDER_COMMANDS.items() for line in command.usage(name))
_COMMAND_WORDS = {
    *FOLDER_COMMANDS,
    *(word for command in FOLDER_COMMANDS.values() for word in command.arguments),
    "trust",
}
_USAGE = f"""\
gr-run: continual learning experiments with generative replay

usage:
  gr-run [GROUP=OPTION ...] [SETTING=VALUE ...] train one run
  gr-run -m strategy.replay_weight=0.5,1,2 ...  a sweep over combinations
{_FOLDER_COMMAND_LINES}
  gr-run benchmark=... inspect=true             show a benchmark's samples
  gr-run --cfg job ...                          print the configuration
  gr-run --config-dir DIR ...                   options of DIR/GROUP/NAME.yaml
  gr-run -sc install=bash                       tab completion (or zsh, fish)
  gr-run --version | --hydra-help
  gr-report [FOLDER ...]                        compare runs

examples:
  gr-run strategy=er scenario=task
  gr-run strategy=dgr generator=conv_vae train.iterations=500
  gr-run benchmark=split_mnist preset=dgr_paper seed=3
  gr-run -m strategy=dgr,er 'seed=range(5)' hydra/launcher=batched

help:
  gr-run --help GROUP          options of a group: gr-run --help strategy
  gr-run GROUP=OPTION --help   settings of an option: gr-run strategy=dgr --help
  gr-run --help SETTING        one setting, or a section: gr-run --help train
"""
_HELP_FLAGS = ("-h", "--help")
# Flags of Hydra with a value of their own.
_VALUE_FLAGS = ("--cfg", "-c", "--package", "-p", "--info", "-i", "-sc", "--shell-completion", "--config-name", "-cn")
_MAX_WIDTH = 118
_MIN_WIDTH = 60

# Names with hyphens, such as `gr-run` and `gr-cli[slurm]`, stay on one line.
wrap = partial(textwrap.wrap, break_on_hyphens=False)


def help_text(argv: Sequence[str]) -> str:
    """The page that a command line with `--help` asks for.

    Raises:
        ConfigError: It names no group, option or setting.
    """
    folders, rest = split_config_dirs([word.removeprefix("--help=") for word in argv])
    rest = [word for i, word in enumerate(rest) if i == 0 or rest[i - 1] not in _VALUE_FLAGS]
    topics = [word.lstrip("+~") for word in rest if not word.startswith("-")]
    topics = [topic for topic in topics if topic.partition("=")[0] not in _COMMAND_WORDS]
    options, width = Options(folders), _width()
    if not topics:
        return "\n".join(_overview(options, width))
    chosen = {group: name.partition(",")[0] for group, _, name in (topic.partition("=") for topic in topics) if name}
    pages: list[str] = []
    for topic in dict.fromkeys(topics):
        name, _, value = topic.partition("=")
        if name in ALL_GROUPS and value:
            named = [options.read(name, option) for option in value.split(",")]
            pages += ["\n".join(_option_page(options, option, chosen, width)) for option in named]
        elif name in ALL_GROUPS:
            pages.append("\n".join(_group_page(options, name, width)))
        else:
            pages.append("\n".join(_settings_page(options, name, chosen, width)))
    return "\n\n".join(dict.fromkeys(pages))


def _width() -> int:
    return max(_MIN_WIDTH, min(_MAX_WIDTH, shutil.get_terminal_size((80, 24)).columns - 1))


def _overview(options: Options, width: int) -> Iterator[str]:
    """How to call the program, all groups with their options, and the names of the settings."""
    yield _USAGE
    yield "groups (* is the default):"
    defaults = options.defaults()
    for group in ALL_GROUPS:
        names = [f"{name}*" if defaults.get(group) == name else name for name in options.names(group)]
        yield from wrap("  ".join(names), width, initial_indent=f"  {group:<23} ", subsequent_indent=26 * " ")
    yield ""
    yield "settings of the run (more of each with --help NAME):"
    for name, entry in RUN_SETTINGS.items():
        if isinstance(entry, Section):
            keys = "  ".join(f"{name}.{key}" for key in entry.settings)
            yield from wrap(keys, width, initial_indent="  ", subsequent_indent="    ")
    rest = "  ".join(name for name, entry in RUN_SETTINGS.items() if not isinstance(entry, Section))
    yield from wrap(rest, width, initial_indent="  ", subsequent_indent="  ")


def _group_page(options: Options, group: str, width: int) -> Iterator[str]:
    """A group: its options with one line each."""
    yield from wrap(f"{group}: {GROUP_MEANINGS[group]}", width, subsequent_indent="    ")
    yield ""
    default = options.defaults().get(group)
    names = options.names(group)
    column = max(map(len, names)) + 3
    for name in names:
        heading = options.read(group, name).heading or ("Nothing" if name == "none" else "")
        mark = f"{name}*" if name == default else name
        indent = (column + 2) * " "
        yield from wrap(f"{mark:<{column}}{heading}", width, initial_indent="  ", subsequent_indent=indent) or [""]
    yield ""
    if default is not None:
        yield f"* the default. Settings of an option: gr-run {group}={default} --help"
    else:
        yield f"Settings of an option: gr-run {group}={names[0]} --help"
    if inner := [nested for nested in NESTED_GROUPS if nested.startswith(f"{group}/")]:
        yield f"Groups inside it: {', '.join(inner)}"


def _option_page(options: Options, option: Option, chosen: dict[str, str], width: int) -> Iterator[str]:
    """An option: its settings with meaning, default and allowed values."""
    component = _describe(option.target)
    heading = option.heading or (component.summary if component is not None else "")
    yield from wrap(f"{option.group}={option.name}: {heading}", width, subsequent_indent="  ")
    if option.parents:
        base = f"like {option.group}={option.parents[-1]}, but for the values in {option.name}.yaml"
        yield from wrap(base, width, initial_indent="  ", subsequent_indent="  ")
    if taken := [f"{group}={name}" for group, name in option.choices.items() if name and group not in NESTED_GROUPS]:
        yield from wrap(f"takes {' '.join(taken)}", width, initial_indent="  ", subsequent_indent="  ")
    settings = options.settings(option, {k: v for k, v in chosen.items() if k != option.group}, _describe)
    yield ""
    if not settings:
        yield "  It has no settings."
    for setting in settings:
        yield from _setting_lines(setting, width)


def _settings_page(options: Options, name: str, chosen: dict[str, str], width: int) -> Iterator[str]:
    """A setting by its dotted name, or all settings of a section.

    Raises:
        ConfigError: There is none of this name.
    """
    groups = {group: option for group, option in chosen.items() if group in ALL_GROUPS}
    settings = options.all_settings(options.resolve(groups))
    selected = [setting for setting in settings if setting.name == name or setting.name.startswith(f"{name}.")]
    if not selected and (others := _settings_of_options(options, name)):
        for having, own_settings in others:
            yield from wrap(f"with {_list_options(having)}:", width)
            for setting in own_settings:
                yield from _setting_lines(setting, width)
        return
    if not selected:
        names = [setting.name for setting in settings]
        topics = dict.fromkeys([*ALL_GROUPS, *RUN_SETTINGS, *names])
        parent = name.rpartition(".")[0]
        near = [other for other in names if parent and other.startswith(f"{parent}.")]
        listed = ", ".join(near or [*ALL_GROUPS, *RUN_SETTINGS])
        every = [*names, *(setting.name for _, of_options in _settings_of_options(options) for setting in of_options)]
        leaf = [other for other in dict.fromkeys(every) if other.rpartition(".")[2] == name.rpartition(".")[2]]
        hint = f"did you mean {' or '.join(leaf)}?" if leaf else suggestion(name, topics)
        raise ConfigError("--help", name, f"no such group or setting; there are {listed}", hint)
    section = RUN_SETTINGS.get(name)
    if isinstance(section, Section):
        yield from wrap(f"{name}: {section.meaning}", width, subsequent_indent="  ")
        yield ""
    for setting in selected:
        yield from _setting_lines(setting, width)


def _settings_of_options(options: Options, name: str = "") -> list[tuple[list[Option], list[Setting]]]:
    """A setting, or all of a section, as the options of all groups have it; those that have it alike together.

    Args:
        options: The options.
        name: Name of the setting or section; by default all settings.
    """
    alike: dict[tuple[tuple[str, str, str], ...], tuple[list[Option], list[Setting]]] = {}
    for group in (group for group in ALL_GROUPS if group != "preset"):
        if name and not f"{name}.".startswith(f"{group.replace('/', '.')}."):
            continue
        for option in (options.read(group, other) for other in options.names(group)):
            settings = [s for s in options.settings(option) if not name or f"{s.name}.".startswith(f"{name}.")]
            if settings:
                key = tuple((s.name, s.allowed, s.meaning) for s in settings)
                alike.setdefault(key, ([], settings))[0].append(option)
    return list(alike.values())


def _list_options(options: Sequence[Option]) -> str:
    """Options as they are typed; if there are several, the first has the defaults."""
    names = [
        f"{group}={', '.join(o.name for o in of_group)}" for group, of_group in groupby(options, lambda o: o.group)
    ]
    return " or ".join(names) + (f" (defaults of {options[0].name})" if len(options) > 1 else "")


def _setting_lines(setting: Setting, width: int) -> Iterator[str]:
    """A setting as `name=default`, what is allowed, and the meaning below."""
    head = f"  {setting.name}={format_value(setting.default)}"
    if setting.allowed:
        gap = max(2, 46 - len(head)) * " "
        if len(head) + len(gap) + len(setting.allowed) <= width:
            yield f"{head}{gap}{setting.allowed}"
        else:
            yield from _wrapped(head, width)
            yield from wrap(setting.allowed, width, initial_indent="      ", subsequent_indent="      ")
    else:
        yield from _wrapped(head, width)
    yield from wrap(setting.meaning, width, initial_indent="      ", subsequent_indent="      ")


def _wrapped(head: str, width: int) -> list[str]:
    """A setting and its default, on more than one line if need be."""
    return wrap(head.strip(), width, initial_indent="  ", subsequent_indent="      ")


def format_value(value: Any) -> str:
    """A value as it is typed in YAML."""
    if value is None or isinstance(value, bool):
        return json.dumps(value)
    if isinstance(value, list):
        return f"[{', '.join(map(format_value, value))}]"
    return "{}" if value == {} else str(value)


def _describe(target: str) -> Component | None:
    """A component by its `_target_`; one of the user's own is imported.

    Raises:
        ConfigError: It can't be imported.
    """
    component = shipped_component(target)
    if component is not None or not target or target.startswith("hydra_plugins."):
        return component
    try:
        return imported_component(target)
    except Exception as error:  # whatever the module raises
        raise ConfigError("_target_", target, f"can't be imported ({error})") from error
