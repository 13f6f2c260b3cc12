"""Validation of the command line before Hydra composes it.

Mistakes that Hydra answers with its usage, a traceback or nothing get one line.
"""

from __future__ import annotations

import re
import shlex
from argparse import Namespace
from collections.abc import Mapping, Sequence
from contextlib import suppress
from itertools import pairwise
from pathlib import Path
from typing import Any, NoReturn

import yaml

from gr_cli.config.groups import GROUPS
from gr_cli.errors import ConfigError

# Settings of Hydra that this program depends on, or that have no effect here.
_LOCKED_HYDRA_SETTINGS = {
    "hydra.output_subdir": "the configuration is in config.yaml in the run's folder",
    "hydra.job.chdir": "a run stays where gr-run was started",
    "hydra.callbacks.check_first": "it checks all runs of a sweep before the first one trains",
}


_SEARCH = "hydra/sweeper=optuna"
_SWEEPER_PARAMS = "hydra.sweeper.params"
_QUOTE_REMEDY = (
    "quote a name with a comma, or use ${hydra.job.num} or ${hydra.job.override_dirname} for names that differ"
)


def split_config_dirs(argv: Sequence[str]) -> tuple[list[Path], list[str]]:
    """The folders that `--config-dir` names, and the other arguments."""
    flags = ("--config-dir", "-cd")
    after = [b for a, b in pairwise(argv) if a in flags]
    joined = [word for word in argv if word.startswith(tuple(f"{flag}=" for flag in flags))]
    folders = [Path(word) for word in (*after, *(word.partition("=")[2] for word in joined))]
    return folders, [word for word in argv if word not in (*flags, *after, *joined)]


def listed_values(name: str, text: str) -> list[str]:
    """The texts in the list `[a, b]` of an argument; the brackets may be left out.

    Raises:
        ConfigError: It is no list of texts.
    """
    values: Any = None
    with suppress(yaml.YAMLError):
        values = yaml.load(text if text.startswith("[") else f"[{text}]", yaml.BaseLoader)
    if not isinstance(values, list) or not all(isinstance(value, str) and value for value in values):
        raise ConfigError(name, text, "must be a list of names or numbers", f"such as {name}=[3,7]")
    return values


def validate_overrides(argv: Sequence[str]) -> None:
    """Check flags and overrides, as far as that is possible without composing them.

    Raises:
        ConfigError: A flag or override is invalid.
        OverrideParseException: An override is not in Hydra's grammar.
    """
    from hydra._internal.utils import get_args_parser
    from hydra.core.override_parser.overrides_parser import OverridesParser

    def refuse(message: str) -> NoReturn:
        raise ConfigError("flags", " ".join(argv), message, "see gr-run --help")

    for word in argv:
        if (shown := word.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")) != word:
            name, _, value = shown.partition("=")
            raise ConfigError(name, value, "holds bytes that are not UTF-8", "write it in UTF-8, or rename the file")
    parser = get_args_parser()
    parser.error = refuse  # type: ignore[method-assign]
    flags = parser.parse_args(argv)
    if flags.experimental_rerun is not None:
        refuse("--experimental-rerun is not supported; use gr-run resume=<folder>")
    if flags.config_path is not None or flags.config_name not in (None, "config"):
        refuse("the configuration can't be replaced; write a preset: --config-dir DIR preset=NAME")
    if _SEARCH in flags.overrides and not (flags.multirun or flags.cfg or "hydra.mode" in " ".join(flags.overrides)):
        raise ConfigError("hydra/sweeper", "optuna", "is for a sweep", "add -m")
    for override in OverridesParser.create().parse_overrides(flags.overrides):
        name, shown = override.key_or_group, (override.input_line or "").partition("=")[2] or "nothing"
        if not name:
            raise ConfigError("", shown, "has no name", "write key=value")
        for locked, reason in _LOCKED_HYDRA_SETTINGS.items():
            if name == locked or name.startswith(f"{locked}.") or locked.startswith(f"{name}."):
                raise ConfigError(name, shown, "can't be changed", reason)
        if override.is_sweep_override() and name.startswith("hydra.") and not name.startswith(_SWEEPER_PARAMS):
            raise ConfigError(name, shown, "must be one value, the same for all runs", _QUOTE_REMEDY)
        if override.is_delete() or override.is_sweep_override() or not (name in GROUPS or "/" in name):
            continue
        option = override.value()
        if not isinstance(option, str) or not option:
            raise ConfigError(name, shown, "must name an option of this group", "see gr-run --help")
    _check_presets(flags)


def _check_presets(flags: Namespace) -> None:
    """Check the presets in the user's own folder: Hydra ignores empty ones, and misplaces those without a header."""
    import yaml

    if flags.config_dir is None:
        return
    values = [word.partition("=")[2] for word in flags.overrides if word.lstrip("+").startswith("preset=")]
    for name in re.findall(r"[^\s,()'\"]+", " ".join(values)):
        path = Path(flags.config_dir) / "preset" / f"{name.removesuffix('.yaml')}.yaml"
        try:
            text = path.read_text(encoding="utf-8")
            content = yaml.safe_load(text)
        except (OSError, ValueError, yaml.YAMLError):
            continue  # Hydra finds it elsewhere, or reports it
        if content is None:
            raise ConfigError("preset", name, f"{path} is empty", f"write settings below a first line `{_HEADER}`")
        if not isinstance(content, Mapping):
            raise ConfigError("preset", name, f"{path} must hold settings and values", "a line for each: seed: 3")
        if set(content) - {"defaults"} and not _PACKAGE.search(text):
            raise ConfigError("preset", name, f"{path} lacks its header", f"add as its first line: {_HEADER}")


_HEADER = "# @package _global_"
_PACKAGE = re.compile(r"^\s*#\s*@package\s+_global_\s*$", re.MULTILINE)


def describe_difference(first: Sequence[str], second: Sequence[str]) -> str:
    """Two jobs of a sweep, by the overrides in which they differ."""
    differing = [(a, b) for a, b in zip(first, second, strict=True) if a != b]
    if not differing:
        return f"{shlex.join(first)} twice"
    return " and ".join(shlex.join(overrides) for overrides in zip(*differing, strict=True))


def expand_sweeper_params(argv: Sequence[str]) -> list[str]:
    """The command line with `hydra.sweeper.params` written as overrides, which come before the others.

    Hydra itself can't add a sweeper parameter on the command line to a configuration without any.
    """
    from hydra.core.override_parser.overrides_parser import OverridesParser
    from hydra.core.override_parser.types import QuotedString

    first = next((i for i, word in enumerate(argv) if "=" in word and not word.startswith("-")), len(argv))
    expanded, rest = [], []
    for word in argv if {"-m", "--multirun"} & set(argv) else []:
        if not word.lstrip("+").startswith((f"{_SWEEPER_PARAMS}=", f"{_SWEEPER_PARAMS}.")):
            rest.append(word)
            continue
        (override,) = OverridesParser.create().parse_overrides([word])
        value: Any = word.partition("=")[2] if override.is_sweep_override() else override.value()
        name = override.key_or_group.removeprefix(_SWEEPER_PARAMS).removeprefix(".")
        values = {name: value} if name else value
        if not isinstance(values, dict):
            raise ConfigError(
                _SWEEPER_PARAMS, value, "must be values by setting", f"write +{_SWEEPER_PARAMS}.seed='\"0,1\"'"
            )
        expanded += [f"{key}={each.text if isinstance(each, QuotedString) else each}" for key, each in values.items()]
    return [*rest[:first], *expanded, *rest[first:]] if expanded else list(argv)
