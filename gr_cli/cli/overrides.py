"""What is typed, looked at before Hydra composes it.

Refused in one line: what Hydra would answer with its whole usage, with a traceback, or not at all.
"""

from __future__ import annotations

import re
from argparse import Namespace
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn

from gr_cli.config.groups import GROUPS
from gr_cli.errors import ConfigError

# Parts of Hydra's own configuration that this program depends on, or that promise what it does not do.
_LOCKED_HYDRA_SETTINGS = {
    "hydra.run": "a run's folder is outputs/<benchmark>/...; start gr-run from where you want that",
    "hydra.output_subdir": "config.yaml in the run's folder says everything",
    "hydra.job.chdir": "a run stays where gr-run was started",
    "hydra.callbacks.check_first": "it checks all runs of a sweep before the first one trains",
}


def validate_overrides(argv: Sequence[str]) -> None:
    """Look at flags and overrides as far as that can be done without composing them.

    Raises:
        ConfigError: a word can't be meant. Hydra's own errors of words that are none pass through.
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
        refuse("--experimental-rerun takes no account of what runs leave; use gr-run resume=<folder>")
    if flags.config_path is not None or flags.config_name not in (None, "config"):
        refuse("there is one configuration; what shall differ is a preset, --config-dir DIR preset=NAME")
    for override in OverridesParser.create().parse_overrides(flags.overrides):
        name, shown = override.key_or_group, (override.input_line or "").partition("=")[2] or "nothing"
        if not name:
            raise ConfigError("", shown, "has no name", "write key=value")
        for own, reason in _LOCKED_HYDRA_SETTINGS.items():
            if name == own or name.startswith(f"{own}.") or own.startswith(f"{name}."):
                raise ConfigError(name, shown, "can't be changed", reason)
        if override.is_delete() or override.is_sweep_override() or not (name in GROUPS or "/" in name):
            continue
        option = override.value()
        if not isinstance(option, str) or not option:
            raise ConfigError(name, shown, "must name an option of this group", "see gr-run --help")
    _check_presets(flags)


def _check_presets(flags: Namespace) -> None:
    """Refuse presets in the user's own folder that Hydra would take up as nothing, or where nothing looks."""
    import yaml

    if flags.config_dir is None:
        return
    given = [word.partition("=")[2] for word in flags.overrides if word.lstrip("+").startswith("preset=")]
    for name in re.findall(r"[^\s,()'\"]+", " ".join(given)):
        path = Path(flags.config_dir) / "preset" / f"{name.removesuffix('.yaml')}.yaml"
        try:
            text = path.read_text(encoding="utf-8")
            content = yaml.safe_load(text)
        except (OSError, ValueError, yaml.YAMLError):
            continue  # Hydra's own to find, or to refuse
        if content is None:
            raise ConfigError("preset", name, f"{path} is empty", f"write settings below a first line `{_HEADER}`")
        if not isinstance(content, Mapping):
            raise ConfigError("preset", name, f"{path} must hold settings and values", "a line for each: seed: 3")
        if set(content) - {"defaults"} and not _PACKAGE.search(text):
            raise ConfigError("preset", name, f"{path} lacks its header", f"add as its first line: {_HEADER}")


_HEADER = "# @package _global_"
_PACKAGE = re.compile(r"^\s*#\s*@package\s+_global_\s*$", re.MULTILINE)


_SWEEPER_PARAMS = "hydra.sweeper.params"


def expand_sweeper_params(argv: Sequence[str]) -> list[str]:
    """`words`, in which the parameters of Hydra's sweeper stand as the overrides that it makes of them, before others.

    Hydra itself can't add a parameter on the command line where there are none.
    """
    from hydra.core.override_parser.overrides_parser import OverridesParser
    from hydra.core.override_parser.types import QuotedString

    first = next((place for place, word in enumerate(argv) if "=" in word and not word.startswith("-")), len(argv))
    found, rest = [], []
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
        found += [f"{key}={each.text if isinstance(each, QuotedString) else each}" for key, each in values.items()]
    return [*rest[:first], *found, *rest[first:]] if found else list(argv)
