"""What is typed, looked at before Hydra composes it.

Refused in one line: what Hydra would answer with its whole usage, with a traceback, or not at all.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NoReturn

from gr_cli.compose import GROUPS
from gr_cli.errors import ConfigError

# Parts of Hydra's own configuration that this program depends on, or that promise what it does not do.
_FIXED = {
    "hydra.run": "a run's folder is outputs/<benchmark>/...; start gr-run from where you want that",
    "hydra.output_subdir": "config.yaml in the run's folder says everything",
    "hydra.job.chdir": "a run stays where gr-run was started",
    "hydra.callbacks.check_first": "it checks all runs of a sweep before the first one trains",
}


def check_words(words: Sequence[str]) -> None:
    """Look at flags and overrides as far as that can be done without composing them.

    Raises:
        ConfigError: a word can't be meant. Hydra's own errors of words that are none pass through.
    """
    from hydra._internal.utils import get_args_parser
    from hydra.core.override_parser.overrides_parser import OverridesParser

    def refuse(message: str) -> NoReturn:
        raise ConfigError("flags", " ".join(words), message, "see gr-run --help")

    parser = get_args_parser()
    parser.error = refuse  # type: ignore[method-assign]
    flags = parser.parse_args(words)
    if flags.experimental_rerun is not None:
        refuse("--experimental-rerun takes no account of what runs leave; use gr-run resume=<folder>")
    if flags.config_path is not None or flags.config_name not in (None, "config"):
        refuse("there is one configuration; what shall differ is a preset, --config-dir DIR preset=NAME")
    for override in OverridesParser.create().parse_overrides(flags.overrides):
        name, shown = override.key_or_group, (override.input_line or "").partition("=")[2] or "nothing"
        if not name:
            raise ConfigError("", shown, "has no name", "write key=value")
        for own, reason in _FIXED.items():
            if name == own or name.startswith(f"{own}.") or own.startswith(f"{name}."):
                raise ConfigError(name, shown, "can't be changed", reason)
        if override.is_delete() or override.is_sweep_override() or not (name in GROUPS or "/" in name):
            continue
        option = override.value()
        if not isinstance(option, str) or not option:
            raise ConfigError(name, shown, "must name an option of this group", "see gr-run --help")


_PARAMS = "hydra.sweeper.params"


def with_sweeper_params(words: Sequence[str]) -> list[str]:
    """`words`, in which the parameters of Hydra's sweeper stand as the overrides that it makes of them, before others.

    Hydra itself can't add a parameter on the command line where there are none.
    """
    from hydra.core.override_parser.overrides_parser import OverridesParser
    from hydra.core.override_parser.types import QuotedString

    first = next((place for place, word in enumerate(words) if "=" in word and not word.startswith("-")), len(words))
    found, rest = [], []
    for word in words if {"-m", "--multirun"} & set(words) else []:
        if not word.lstrip("+").startswith((f"{_PARAMS}=", f"{_PARAMS}.")):
            rest.append(word)
            continue
        (override,) = OverridesParser.create().parse_overrides([word])
        value: Any = word.partition("=")[2] if override.is_sweep_override() else override.value()
        name = override.key_or_group.removeprefix(_PARAMS).removeprefix(".")
        values = {name: value} if name else value
        if not isinstance(values, dict):
            raise ConfigError(_PARAMS, value, "must be values by setting", f"write +{_PARAMS}.seed='\"0,1\"'")
        found += [f"{key}={each.text if isinstance(each, QuotedString) else each}" for key, each in values.items()]
    return [*rest[:first], *found, *rest[first:]] if found else list(words)
