"""Errors of Hydra and OmegaConf as one line: the setting, its value, what is allowed, a suggestion."""

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

_MAX_SUGGESTIONS = 4  # settings that are suggested at most


def describe_error(error: Exception, overrides: Sequence[str]) -> str:
    """One line about what is wrong with `overrides`, from the error that Hydra or OmegaConf raised."""
    return one_line(_error_text(error, overrides))


def _error_text(error: Exception, overrides: Sequence[str]) -> str:
    text = "\n".join(str(e) for e in (error, error.__cause__) if e is not None)
    if isinstance(error, InterpolationResolutionError):
        return _unresolved_interpolation(error, overrides)
    if match := re.search(r"Could not (?:find|load) '([^']+)'", text):
        return _unknown_option(match[1], text)
    if match := re.search(r"Could not (?:override|append|delete|merge override)[^']*'([^']+)'", text):
        return _unknown_setting(match[1], overrides)
    if match := re.search(r"Error merging override \+*([\w.]+)=|full_key: (\S+)", text):
        return _invalid_value(match[1] or match[2], text, overrides)
    match = re.search(r"[Ee]rror (?:merging|parsing) override '?([^'\n]+)'?", text)
    if override := getattr(error, "override", None) or (match and match[1]):
        return f"{override}: can't be parsed; {_quoting_hint(override)}"
    reason = " ".join((text or type(error).__name__).split())[:300]
    override = _first_failing_override(overrides)
    return f"{override}: can't be composed ({reason})" if override else reason


def _quoting_hint(override: str) -> str:
    """How to quote an override whose value contains characters of Hydra's grammar."""
    from hydra.core.override_parser.overrides_parser import OverridesParser
    from hydra.errors import HydraException

    name, _, value = override.partition("=")
    escaped = value.replace("\\", "\\\\").replace('"', '\\"')
    quoted = f'{name}="{escaped}"'
    with suppress(HydraException):
        if value and not re.fullmatch(r"\w+\(.*\)", value):  # a function of Hydra's grammar
            OverridesParser.create().parse_overrides([quoted])
            return f"quote its value: {shlex.quote(quoted)}"
    return "quote it for the shell, and write key=value"


def _first_failing_override(overrides: Sequence[str]) -> str | None:
    """The first override that does not compose together with those before it."""
    for number, override in enumerate(overrides, 1):
        if not _compose_or_none(overrides[:number]):
            return override
    return None


def _unresolved_interpolation(error: InterpolationResolutionError, overrides: Sequence[str]) -> str:
    """The message for an interpolation that can't be resolved."""
    field, reason = error.full_key or "", str(error).splitlines()[0]
    reason = re.sub(r"^\w+ raised while resolving interpolation: ", "", reason).strip('"')
    value = next((o.partition("=")[2] for o in overrides if o.lstrip("+").partition("=")[0] == field), "")
    return f"{field}={value}: can't be resolved ({reason})"


def _unknown_option(name: str, text: str) -> str:
    """The message for an option that its group does not have."""
    group, _, option = name.rpartition("/")
    options = re.findall(r"^\s+(\S+)$", text.partition("Available options")[2], flags=re.MULTILINE)
    if not group:
        source = re.search(r"In '([^']+)'", text)
        return f"{name}: no such configuration" + (f"; {source[1]} names it in its defaults" if source else "")
    listed = f"; there are {', '.join(options)}" if options else ""
    hint = suggestion(option, options)
    return f"{group}={option}: no such option{listed}" + (f"; {hint}" if hint else "")


def _unknown_setting(name: str, overrides: Sequence[str]) -> str:
    """The message for a setting that does not exist: lists those of its node."""
    key = name.split("=")[0]
    value = next((o.partition("=")[2] for o in overrides if o.lstrip("+~").startswith(f"{key}=")), "")
    if "/" in key:
        group, _, inner = key.rpartition("/")
        hint = f"leave it out, or choose another {group}"
        if key not in NESTED_GROUPS:
            hint = _setting_of_hydra(key, value, overrides) or suggestion(key, NESTED_GROUPS)
        return f"{key}={value}: this {group} has no {inner}" + (f"; {hint}" if hint else "")
    parent, _, leaf = key.rpartition(".")
    others = [o for o in overrides if o.lstrip("+~").partition("=")[0] != key]
    if of_hydra := key.startswith("hydra."):  # without values of a sweep, which don't compose
        others = [o for o in others if o.startswith("hydra/")]
    config = _compose_or_defaults(others, of_hydra)
    node = None if parent else config
    with suppress(Exception):
        node = OmegaConf.select(config, parent) if parent else config
    siblings = [str(k) for k in node if not str(k).startswith("_")] if isinstance(node, Mapping) else []
    same_name = _same_name_elsewhere(leaf, parent, config)
    hint = f"did you mean {' or '.join(same_name)}?" if same_name else suggestion(leaf, siblings)
    group = parent.replace(".", "/")
    option = next((o.partition("=")[2] for o in overrides if o.lstrip("+").startswith(f"{group}=")), "")
    chosen = f"{group}={option}" if group in GROUPS and option else ""
    if not siblings and parent:
        return f"{key}={value}: {chosen or parent} has no settings" + (f"; {hint}" if hint else "")
    if own := next((o for o in overrides if o.lstrip("+").startswith(f"{parent}._target_=")), ""):
        return f"{key}={value}: is no setting of the option that {own} replaces; add it: ++{key}={value}"
    of = f" of {chosen}" if chosen else ""
    return f"{key}={value}: no such setting{of}; there are {', '.join(sorted(siblings))}" + (
        f"; {hint}" if hint else ""
    )


def _setting_of_hydra(key: str, value: str, overrides: Sequence[str]) -> str:
    """The setting that is meant by a group of the same name: `hydra.sweeper.sampler` of another program's sweeper."""
    others = [o for o in overrides if o.startswith("hydra/") and o.partition("=")[0] != key]
    setting = key.replace("/", ".")
    with suppress(Exception):
        if setting in _setting_names(_compose_or_defaults(others, hydra=True)):
            return f"write {setting}={value}"
    return ""


def _same_name_elsewhere(leaf: str, parent: str, config: Any) -> list[str]:
    """Settings whose last name is `leaf`: those below `parent`, else all; none if there are too many."""
    names = sorted(name for name in _setting_names(config) if name.rpartition(".")[2] == leaf)
    nearest = [name for name in names if name.startswith(f"{parent}.")] or names
    return nearest if len(nearest) <= _MAX_SUGGESTIONS else []


def _setting_names(node: Any, prefix: str = "") -> list[str]:
    """The dotted names of all settings of a node."""
    if not isinstance(node, DictConfig):
        return [prefix.removesuffix(".")]
    # `_get_node` does not resolve interpolations, which may fail.
    return [name for key in map(str, node) for name in _setting_names(node._get_node(key), f"{prefix}{key}.")]


def _compose_or_defaults(overrides: Sequence[str], hydra: bool = False) -> Any:
    """The composed configuration, with Hydra's own part or not; that without overrides if these don't compose."""
    config = _compose_or_none(overrides, hydra)
    return _compose_or_none([], hydra) if config is None else config


def _compose_or_none(overrides: Sequence[str], hydra: bool = False) -> Any:
    """The composed configuration; None if the overrides don't compose."""
    with suppress(Exception):
        return compose_config(overrides, hydra)
    return None


def compose_config(overrides: Sequence[str], hydra: bool = False) -> DictConfig:
    """The configuration that Hydra composes from overrides.

    Args:
        overrides: The overrides.
        hydra: Include Hydra's own part.

    Raises:
        HydraException: The overrides don't compose.
    """
    from hydra import compose, initialize_config_module
    from hydra.core.global_hydra import GlobalHydra

    GlobalHydra.instance().clear()
    with initialize_config_module("gr_cli.conf", version_base="1.3"):
        return compose("config", overrides=list(overrides), return_hydra_config=hydra)


def _invalid_value(field: str, text: str, overrides: Sequence[str]) -> str:
    """The message for a value that OmegaConf refuses."""
    from gr_cli.config.annotations import allowed_values
    from gr_cli.config.schema import ALLOWED_VALUES

    value = next((o.partition("=")[2] for o in overrides if o.lstrip("+").partition("=")[0] == field), "")
    if field in ALLOWED_VALUES:
        return f"{field}={value}: must be {allowed_values(ALLOWED_VALUES[field])}"
    if inner := sorted(name for name in ALLOWED_VALUES if name.startswith(f"{field}.")):
        return f"{field}={value}: has settings of its own; there are {', '.join(inner)}"
    if field.rpartition(".")[0] in ALLOWED_VALUES:
        return _unknown_setting(field, overrides)
    reason = next(line for line in text.splitlines() if not line.startswith("Error merging override"))
    return f"{field}={value}: {reason}"
