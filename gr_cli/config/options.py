"""The options of all config groups with their settings, read from YAML and source: for help, completion and reference.

Nothing is composed by Hydra, and no component is imported.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from itertools import takewhile
from pathlib import Path
from typing import Any, Optional

import yaml

from gr_cli.config.annotations import allowed_values, literal_values
from gr_cli.config.docstrings import first_sentence
from gr_cli.config.groups import CONF, CONFIG_GROUPS, GROUPS, NESTED_GROUPS, PROVIDED_ARGUMENTS
from gr_cli.config.run_settings import RUN_SETTINGS_BY_NAME
from gr_cli.config.signatures import Component, read_component
from gr_cli.errors import ConfigError, suggestion

# Groups of Hydra itself, for a sweep.
_SWEEP_GROUPS = {
    "hydra/launcher": "How the runs of a sweep (`-m`) are executed.",
    "hydra/sweeper": "Which runs a sweep (`-m`) has: without an option, all combinations of the listed values.",
}
ALL_GROUPS = (*GROUPS, *_SWEEP_GROUPS)
GROUP_MEANINGS = {group.name: group.meaning for group in CONFIG_GROUPS} | _SWEEP_GROUPS
# Hydra takes launchers and sweepers from the first package only; those of this program lie in the second.
PLUGIN_PACKAGES = ("hydra_plugins.gr_cli.", "gr_cli.cli.")
_COMMENT = re.compile(r"^( *)([\w-]+):(?: +(?:'[^']*'|\"[^\"]*\"|[^#'\"\s][^#]*?))?\s+# ?(.*)$")
_INHERITED = "<inherited>"  # in a defaults list, in place of the option of another group
_GLOBAL = re.compile(r"^\s*#\s*@package\s+_global_\s*$", re.MULTILINE)
_KEY = re.compile(r"^( *)([\w-]+):(?:\s|$)")


@dataclass(frozen=True)
class Setting:
    """A setting as it is typed on the command line.

    Attributes:
        name: Its dotted name; that of a group inside a component with slashes, `strategy/regularizer`.
        default: Its value in the chosen option.
        allowed: What it may be, in short.
        values: The values that are listed one by one, for completion.
        meaning: What it sets.
    """

    name: str
    default: Any
    allowed: str
    values: tuple[str, ...]
    meaning: str


@dataclass(frozen=True)
class Option:
    """An option of a config group: a YAML file.

    Attributes:
        text: The content of the file.
        values: The node that it makes, with what it inherits.
        parents: The options of its own group that it inherits from, the nearest last.
        choices: The options of other groups that it takes; None where it leaves one empty.
        comments: The comments behind the values of its file, by dotted name.
    """

    group: str
    name: str
    text: str
    values: Mapping[str, Any]
    parents: tuple[str, ...]
    choices: Mapping[str, str | None]
    comments: Mapping[str, str]

    @property
    def target(self) -> str:
        """The dotted name of its class or function; empty if it has none."""
        return str(self.values.get("_target_", ""))

    @property
    def heading(self) -> str:
        """What it is: the comment at the top of the file, else the first line of its component's docstring."""
        component = shipped_component(self.target)
        return _heading(self.text) or ("" if component is None else component.summary.rstrip("."))

    @property
    def is_global(self) -> bool:
        """Whether its values are settings of the whole run, as those of a preset."""
        return _GLOBAL.search(self.text) is not None


class Options:
    """The options of all groups, in the program and in folders of the user's own.

    Args:
        folders: The folders of `--config-dir`.
    """

    def __init__(self, folders: Sequence[Path] = ()) -> None:
        self._files: dict[str, dict[str, Path]] = {}
        for root in (CONF, *folders):
            for group in ALL_GROUPS:
                for path in sorted((root / group).glob("*.yaml")):
                    self._files.setdefault(group, {}).setdefault(path.stem, path)

    def names(self, group: str) -> list[str]:
        """The names of a group's options."""
        return sorted(self._files.get(group, {}))

    def path(self, group: str, name: str) -> Path:
        """The file of an option.

        Raises:
            ConfigError: The group has no such option.
        """
        names = self.names(group)
        if name not in names:
            raise ConfigError(group, name, f"no such option; there are {', '.join(names)}", suggestion(name, names))
        return self._files[group][name]

    def read(self, group: str, name: str, heirs: tuple[str, ...] = ()) -> Option:
        """An option with all that it inherits.

        Args:
            group: The group.
            name: The name of the option.
            heirs: Options that inherit from it, `<group>/<name>`.

        Raises:
            ConfigError: The group has no such option, or its file can't be read as one.
        """
        path = self.path(group, name)
        if f"{group}/{name}" in heirs:
            raise ConfigError(group, name, f"{path} inherits from itself")
        heirs = (*heirs, f"{group}/{name}")
        text, own, defaults = _parse(group, name, path)
        values: dict[str, Any] = {}
        parents: list[str] = []
        choices: dict[str, str | None] = {}
        comments: dict[str, str] = {}
        for key, value in defaults:
            other, _, package = key.partition("@")
            if other == "_self_":
                continue
            if value == _INHERITED:
                base = self.read(group, other, heirs)
                values, parents = _merged(values, base.values), [*parents, *base.parents, other]
                choices, comments = {**choices, **base.choices}, {**comments, **base.comments}
            elif package == "_here_":
                base = self.read(other.strip("/"), str(value), heirs)
                values, comments = _merged(values, base.values), {**comments, **base.comments}
            else:
                choices[other.strip("/") if other.startswith("/") else f"{group}/{other}"] = value
        comments |= yaml_comments(text)
        return Option(group, name, text, _merged(values, own), tuple(parents), choices, comments)

    def settings(
        self,
        option: Option,
        choices: Mapping[str, str] | None = None,
        describe: Callable[[str], Component | None] | None = None,
    ) -> list[Setting]:
        """The settings of an option, and of the groups inside it.

        Args:
            option: The option.
            choices: Options that were chosen for groups inside it.
            describe: Reads a component by its `_target_`; by default from source, without importing it.
        """
        if option.is_global:
            return self._global_settings(option, choices or {})
        prefix = option.group.replace("/", ".")
        provided = PROVIDED_ARGUMENTS.get(option.group.partition("/")[0], ())
        chosen = {**option.choices, **(choices or {})}
        settings = list(_settings(option.values, prefix, "", option.comments, provided, describe or shipped_component))
        component = (describe or shipped_component)(option.target)
        for group in (group for group in NESTED_GROUPS if group.rpartition("/")[0] == option.group):
            inner = group.rpartition("/")[2]
            if group not in chosen:
                continue
            name = chosen[group]
            argument = component.arguments.get(inner) if component is not None else None
            meaning = as_yaml_meaning(argument.meaning if argument is not None else "") or GROUP_MEANINGS[group]
            names = tuple(self.names(group))
            settings.append(Setting(group, name, " | ".join(names), names, meaning))
            if name is not None:
                settings += self.settings(self.read(group, name), None, describe)
        return settings

    def _global_settings(self, option: Option, choices: Mapping[str, str]) -> list[Setting]:
        """The settings of a whole run that an option such as a preset sets."""
        chosen = self.resolve({**{k: v for k, v in option.choices.items() if v is not None}, **choices})
        known = {setting.name: setting for setting in self.all_settings(chosen)}
        return [
            replace(known.get(name, Setting(name, value, "", (), "")), default=value)
            for name, value in flatten(option.values)
            if value is not None
        ]

    def resolve(self, choices: Mapping[str, str]) -> dict[str, str | None]:
        """The options of a run, by group, with those that the chosen preset and the chosen strategy take."""
        chosen: dict[str, str | None] = {**self.defaults(), **choices}
        for group in ("preset", "strategy"):
            name = chosen.get(group)
            if name is not None:
                taken = self.read(group, name).choices
                chosen |= {other: option for other, option in taken.items() if other not in choices}
        return chosen

    def all_settings(self, choices: Mapping[str, str | None]) -> list[Setting]:
        """The settings of a run with these options."""
        settings = run_settings()
        for group in (group for group in ALL_GROUPS if group not in NESTED_GROUPS and group != "preset"):
            name = choices.get(group)
            if name is None or not (option := self.read(group, name)).values or option.is_global:
                continue
            inner = {other: value for other, value in choices.items() if other.startswith(f"{group}/")}
            settings += self.settings(option, {k: v for k, v in inner.items() if v is not None})
        return settings

    def defaults(self) -> dict[str, str]:
        """The options of a run for which nothing is chosen, by group."""
        entries = _config()["defaults"]
        pairs = [next(iter(entry.items())) for entry in entries if isinstance(entry, dict)]
        return {str(group): str(name) for group, name in pairs if group in GROUPS}


def _parse(group: str, name: str, path: Path) -> tuple[str, dict[str, Any], list[tuple[str, str | None]]]:
    """The text of an option's file, its values, and the entries of its defaults list.

    Raises:
        ConfigError: It can't be read as YAML, holds no mapping, or has another kind of defaults list.
    """
    try:
        text = path.read_text(encoding="utf-8")
        content = yaml.safe_load(text) or {}
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise ConfigError(group, name, f"{path} can't be read ({' '.join(str(error).split())})") from error
    if not isinstance(content, dict):
        raise ConfigError(group, name, f"{path} must hold settings and values", "a line for each: seed: 3")
    defaults: list[tuple[str, str | None]] = []
    entries = content.pop("defaults", None) or []
    for entry in entries if isinstance(entries, list) else [entries]:
        if isinstance(entry, str):
            defaults.append((entry, _INHERITED))
        elif isinstance(entry, dict) and len(entry) == 1:
            ((key, value),) = entry.items()
            defaults.append((re.sub(r"^(override|optional)\s+", "", str(key)), value))
        else:
            raise ConfigError(group, name, f"{path} has a defaults list with {entry}", "write `- option` in each line")
    return text, content, defaults


def _settings(
    node: Mapping[str, Any],
    prefix: str,
    inner: str,
    comments: Mapping[str, str],
    provided: Sequence[str],
    describe: Callable[[str], Component | None],
) -> Iterator[Setting]:
    """The settings of a node; `inner` is its own dotted name in the file that the comments are of."""
    component = describe(str(node.get("_target_", "")))
    for name, value in node.items():
        argument = component.arguments.get(name) if component is not None else None
        comment = comments.get(f"{inner}{name}", "")
        if name == "_target_" or (argument is None and name in provided):
            continue
        if isinstance(value, Mapping) and value:
            yield from _settings(value, f"{prefix}.{name}", f"{inner}{name}.", comments, provided, describe)
            continue
        annotation = Any if argument is None else argument.annotation
        meaning = as_yaml_meaning((argument.meaning if argument is not None else "") or comment)
        if annotation is not Any and name in provided:
            annotation = Optional[annotation]  # null: the program passes a value of its own
        allowed = "" if annotation is Any else allowed_values(annotation)
        yield Setting(f"{prefix}.{name}", value, allowed, literal_values(annotation), meaning)


def run_settings() -> list[Setting]:
    """The settings of a run outside its components, with the defaults of `conf/config.yaml`."""
    config = _config()
    settings = []
    for name, setting in RUN_SETTINGS_BY_NAME.items():
        section, _, key = name.rpartition(".")
        default = config[section][key] if section else config[key]
        values = literal_values(setting.allowed)
        settings.append(Setting(name, default, allowed_values(setting.allowed), values, setting.meaning))
    return settings


@cache
def _config() -> dict[str, Any]:
    """The content of `conf/config.yaml`."""
    content: dict[str, Any] = yaml.safe_load((CONF / "config.yaml").read_text(encoding="utf-8"))
    return content


def shipped_component(target: str) -> Component | None:
    """The component of a `_target_`, read from its source; None if it is of another package."""
    package, own = PLUGIN_PACKAGES
    return read_component(target.replace(package, own, 1) if target.startswith(package) else target)


def as_yaml_meaning(meaning: str) -> str:
    """A meaning as a sentence, with `None` written as in YAML."""
    text = re.sub(r"\bNone\b(?! of)", "null", meaning)
    end = "" if not text or text.endswith((".", ")", "`")) else "."
    return f"{text[:1].upper()}{text[1:]}{end}"


def _merged(base: Mapping[str, Any], other: Mapping[str, Any]) -> dict[str, Any]:
    """Two nodes as Hydra merges them: mappings by their entries, everything else replaced."""
    merged = dict(base)
    for name, value in other.items():
        old = merged.get(name)
        merged[name] = _merged(old, value) if isinstance(old, Mapping) and isinstance(value, Mapping) else value
    return merged


def _heading(text: str) -> str:
    """The first sentence of the comment at the top of an option's file."""
    lines = [line for line in text.splitlines() if not line.startswith("# @")]
    comment = takewhile(lambda line: re.match("# [^ ]", line), lines)  # an indented line is a command
    return first_sentence(" ".join(line.removeprefix("# ") for line in comment))


def flatten(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """The values of nested mappings by their dotted names."""
    for name, value in values.items():
        if isinstance(value, Mapping):
            yield from flatten(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value


def yaml_comments(text: str) -> dict[str, str]:
    """The comments behind the values of a YAML file, by the dotted names of the values."""
    comments: dict[str, str] = {}
    stack: list[tuple[int, str]] = []
    for line in text.splitlines():
        key = _KEY.match(line)
        if key is None:
            continue
        while stack and stack[-1][0] >= len(key[1]):
            stack.pop()
        stack.append((len(key[1]), key[2]))
        if comment := _COMMENT.match(line):
            comments[".".join(name for _, name in stack)] = comment[3].strip()
    return comments
