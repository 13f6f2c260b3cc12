"""One line for each way in which a command line can fail to become a configuration."""

from __future__ import annotations

import re
import shlex
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import InterpolationResolutionError

from gr_cli.config.groups import GROUPS, NESTED_GROUPS
from gr_cli.errors import one_line, suggestion

_MAX_SUGGESTIONS = 4  # places that are named where a setting could have been meant


def describe_error(error: Exception, overrides: Sequence[str]) -> str:
    """What is wrong with `overrides`, from what Hydra or OmegaConf raised: field, value, what is allowed."""
    return one_line(_error_text(error, overrides))


def _error_text(error: Exception, overrides: Sequence[str]) -> str:
    text = "\n".join(str(e) for e in (error, error.__cause__) if e is not None)
    if isinstance(error, InterpolationResolutionError):
        return _unresolved_interpolation(error, overrides)
    if found := re.search(r"Could not (?:find|load) '([^']+)'", text):
        return _unknown_option(found[1], text)
    if found := re.search(r"Could not (?:override|append|delete|merge override)[^']*'([^']+)'", text):
        return _unknown_setting(found[1], overrides)
    if found := re.search(r"Error merging override \+*([\w.]+)=|full_key: (\S+)", text):
        return _invalid_value(found[1] or found[2], text, overrides)
    found = re.search(r"[Ee]rror (?:merging|parsing) override '?([^'\n]+)'?", text)
    if override := getattr(error, "override", None) or (found and found[1]):
        return f"{override}: can't be understood; {_quoting_hint(override)}"
    reason = " ".join((text or type(error).__name__).split())[:300]
    guilty = _first_failing_override(overrides)
    return f"{guilty}: can't be taken up ({reason})" if guilty else reason


def _quoting_hint(override: str) -> str:
    """How to write an override whose value has characters that Hydra reads as signs."""
    from hydra.core.override_parser.overrides_parser import OverridesParser
    from hydra.errors import HydraException

    name, _, value = override.partition("=")
    escaped = value.replace("\\", "\\\\").replace('"', '\\"')
    quoted = f'{name}="{escaped}"'
    with suppress(HydraException):
        if value and not re.fullmatch(r"\w+\(.*\)", value):  # which is meant as a function of Hydra's grammar
            OverridesParser.create().parse_overrides([quoted])
            return f"quote its value: {shlex.quote(quoted)}"
    return "quote it for the shell, and write key=value"


def _first_failing_override(overrides: Sequence[str]) -> str | None:
    """The first override with which those before it don't compose any more."""
    for number, override in enumerate(overrides, 1):
        if not _compose_or_none(overrides[:number]):
            return override
    return None


def _unresolved_interpolation(error: InterpolationResolutionError, overrides: Sequence[str]) -> str:
    """A value refers to something that is not there, or is of another kind."""
    field, reason = error.full_key or "", str(error).splitlines()[0]
    reason = re.sub(r"^\w+ raised while resolving interpolation: ", "", reason).strip('"')
    value = next((o.partition("=")[2] for o in overrides if o.lstrip("+").partition("=")[0] == field), "")
    return f"{field}={value}: can't be resolved ({reason})"


def _unknown_option(name: str, text: str) -> str:
    group, _, option = name.rpartition("/")
    options = re.findall(r"^\s+(\S+)$", text.partition("Available options")[2], flags=re.MULTILINE)
    if not group:
        by = re.search(r"In '([^']+)'", text)
        return f"{name}: no such configuration" + (f"; {by[1]} names it in its defaults" if by else "")
    listed = f"; there are {', '.join(options)}" if options else ""
    hint = suggestion(option, options)
    return f"{group}={option}: no such option{listed}" + (f"; {hint}" if hint else "")


def _unknown_setting(name: str, overrides: Sequence[str]) -> str:
    """`name` is no field: say which there are beside it, in the configuration that the other overrides give."""
    key = name.split("=")[0]
    value = next((o.partition("=")[2] for o in overrides if o.lstrip("+~").startswith(f"{key}=")), "")
    if "/" in key:
        group, _, part = key.rpartition("/")
        hint = suggestion(key, NESTED_GROUPS)
        return f"{key}={value}: this {group} takes no {part}" + (
            f"; {hint}" if hint and key not in NESTED_GROUPS else ""
        )
    parent, _, leaf = key.rpartition(".")
    config = _compose_or_defaults([o for o in overrides if o.lstrip("+~").partition("=")[0] != key])
    node = None if parent else config
    with suppress(Exception):
        node = OmegaConf.select(config, parent) if parent else config
    siblings = [str(k) for k in node if not str(k).startswith("_")] if isinstance(node, Mapping) else []
    elsewhere = _same_name_elsewhere(leaf, parent, config)
    hint = f"did you mean {' or '.join(elsewhere)}?" if elsewhere else suggestion(leaf, siblings)
    group = parent.replace(".", "/")
    option = next((o.partition("=")[2] for o in overrides if o.lstrip("+").startswith(f"{group}=")), "")
    chosen = f"{group}={option}" if group in GROUPS and option else ""
    if not siblings and parent:
        return f"{key}={value}: {chosen or parent} has no settings" + (f"; {hint}" if hint else "")
    of = f" of {chosen}" if chosen else ""
    return f"{key}={value}: no such setting{of}; there are {', '.join(sorted(siblings))}" + (
        f"; {hint}" if hint else ""
    )


def _same_name_elsewhere(leaf: str, parent: str, config: Any) -> list[str]:
    """Where else a setting is called `leaf`: below `parent` if there is one, or anywhere, unless in too many places."""
    found = sorted(name for name in _setting_names(config) if name.rpartition(".")[2] == leaf)
    near = [name for name in found if name.startswith(f"{parent}.")] or found
    return near if len(near) <= _MAX_SUGGESTIONS else []


def _setting_names(node: Any, prefix: str = "") -> list[str]:
    """The full names of all settings."""
    if not isinstance(node, DictConfig):
        return [prefix.removesuffix(".")]
    # What refers to another setting is not looked up: it may lead nowhere.
    return [name for key in map(str, node) for name in _setting_names(node._get_node(key), f"{prefix}{key}.")]


def _compose_or_defaults(overrides: Sequence[str]) -> Any:
    """What the overrides compose to; the defaults if they don't."""
    found = _compose_or_none(overrides)
    return _compose_or_none([]) if found is None else found


def _compose_or_none(overrides: Sequence[str]) -> Any:
    """What the overrides compose to; None if they don't."""
    with suppress(Exception):
        return compose_config(overrides)
    return None


def compose_config(overrides: Sequence[str], hydra: bool = False) -> DictConfig:
    """What Hydra composes of these overrides, with its own part if `hydra`; its errors pass through."""
    from hydra import compose, initialize_config_module
    from hydra.core.global_hydra import GlobalHydra

    GlobalHydra.instance().clear()
    with initialize_config_module("gr_cli.conf", version_base="1.3"):
        return compose("config", overrides=list(overrides), return_hydra_config=hydra)


def _invalid_value(field: str, text: str, overrides: Sequence[str]) -> str:
    from gr_cli.config.arguments import describe
    from gr_cli.config.schema import ALLOWED_VALUES

    value = next((o.partition("=")[2] for o in overrides if o.lstrip("+").partition("=")[0] == field), "")
    if field in ALLOWED_VALUES:
        return f"{field}={value}: must be {describe(ALLOWED_VALUES[field])}"
    if parts := sorted(name for name in ALLOWED_VALUES if name.startswith(f"{field}.")):
        return f"{field}={value}: has settings of its own; there are {', '.join(parts)}"
    if field.rpartition(".")[0] in ALLOWED_VALUES:
        return _unknown_setting(field, overrides)
    reason = next(line for line in text.splitlines() if not line.startswith("Error merging override"))
    return f"{field}={value}: {reason}"
