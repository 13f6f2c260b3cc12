"""The shipped options as the Python API names them: YAML read as it is, without Hydra."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

import yaml

from gr_cli.config.arguments import check_value
from gr_cli.config.groups import CONF
from gr_cli.errors import ConfigError, suggestion

STRATEGY_KEY = "continual_strategy"


# YAML 1.1 reads a number with an exponent, but without a point, as text.
_EXPONENT = re.compile(r"[-+]?(\d+\.?\d*|\.\d+)[eE][-+]?\d+")


def plain_dict(settings: Any, path: str) -> dict[str, Any]:
    """`settings` as nested dicts and lists of plain values, whatever kinds of mappings, lists and numbers they were.

    Raises:
        ConfigError: they are no mapping, or hold what is no plain value.
    """
    if not isinstance(settings, Mapping):
        shown = settings if isinstance(settings, (str, int, float, list, tuple)) else type(settings).__name__
        raise ConfigError(path, shown, "must be a mapping of settings")
    try:
        return {str(name): plain_value(value, f"{path}.{name}") for name, value in settings.items()}
    except ConfigError:
        raise
    except Exception as error:  # an interpolation of OmegaConf that leads nowhere, a mapping that holds itself
        why = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise ConfigError(path, type(settings).__name__, f"can't be read ({why})") from error


def plain_value(value: Any, path: str) -> Any:
    """A value of a setting as plain Python: numbers of NumPy and torch, text, lists and mappings of such.

    Raises:
        ConfigError: it is of another kind.
    """
    if isinstance(value, Mapping):
        return plain_dict(value, path)
    if isinstance(value, str):
        return float(value) if _EXPONENT.fullmatch(value) else str(value)
    if callable(getattr(value, "tolist", None)):  # numbers and arrays of NumPy and torch
        value = value.tolist()
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, (int, float)):
        return int(value) if isinstance(value, int) else float(value)  # of an enumeration, too
    if isinstance(value, Sequence) and not isinstance(value, (bytes, bytearray)):
        return [plain_value(entry, f"{path}[{i}]") for i, entry in enumerate(value)]
    raise ConfigError(path, type(value).__name__, "must be null, true or false, a number, text, a list or a mapping")


def option_from_dict(group: str, settings: Any, default: str, path: str) -> dict[str, Any]:
    """The node of `{type: <option>, <parameters>}`, which stands at `path`."""
    parameters = plain_dict({} if settings is None else settings, path)
    return _option_with_parameters(group, f"{path}.type", parameters.pop("type", default), parameters)[0]


def generator_from_dict(settings: Any, default: str, path: str) -> dict[str, Any]:
    """The node of a generator, whose `optimizer` and `gradient_rule` are `{type: <option>, <parameters>}` too, or
    parameters of what it has by itself."""
    node = option_from_dict("generator", settings, default, path)
    for group, option in (("optimizer", "adam"), ("gradient_rule", "none")):
        own = node.get(group)
        if own is None or "_target_" in own:
            continue
        usual = option_from_dict("generator", {"type": settings.get("type", default)}, default, path).get(group)
        if usual is not None and isinstance(own, Mapping) and "type" not in own:
            node |= {group: {**usual, **own}}
        else:
            node |= {group: option_from_dict(group, own, option, f"{path}.{group}")}
    return node


def strategy_from_dict(settings: Any) -> tuple[str, dict[str, Any], Any, str]:
    """The one enabled strategy, its name and its node; the generator's settings if they stand beside it; and the
    generator that it takes."""
    given = plain_dict({} if settings is None else settings, STRATEGY_KEY)
    generator = given.pop("generator", None)
    enabled = {}
    for name, parameters in given.items():
        own = plain_dict({} if parameters is None else parameters, f"{STRATEGY_KEY}.{name}")
        wanted = own.pop("enabled", True)
        check_value(wanted, bool, f"{STRATEGY_KEY}.{name}.enabled")
        if wanted:
            enabled[name] = own
    if len(enabled) > 1:
        raise ConfigError(STRATEGY_KEY, ", ".join(enabled), "only one strategy can be enabled", "leave out the others")
    name, parameters = next(iter(enabled.items()), ("finetune", {}))
    if (regularizer := parameters.get("regularizer")) is not None:
        path = f"{STRATEGY_KEY}.{name}.regularizer"
        own = {"type": regularizer} if isinstance(regularizer, str) else plain_dict(regularizer, path)
        kind = own.pop("type", None)
        parameters["regularizer"] = (
            _option_with_parameters("strategy/regularizer", f"{path}.type", kind, own)[0] or None
        )
    node, takes = _option_with_parameters("strategy", STRATEGY_KEY, name, parameters)
    return name, node, generator, takes or "vae"


def _option_with_parameters(
    group: str, path: str, option: object, parameters: Mapping[str, Any]
) -> tuple[dict[str, Any], str | None]:
    """An option of a group with the caller's parameters, and the generator that it takes if it says so."""
    options = sorted(file.stem for file in (CONF / group).glob("*.yaml"))
    if option not in options:
        raise ConfigError(path, option, f"must be one of {', '.join(options)}", suggestion(str(option), options))
    node, generator = _read_option(group, str(option))
    return {**node, **parameters}, generator


def _read_option(group: str, option: str) -> tuple[dict[str, Any], str | None]:
    """The settings of an option with all that it inherits, and the generator that it takes if it says so."""
    own = yaml.safe_load((CONF / group / f"{option}.yaml").read_text(encoding="utf-8")) or {}
    node: dict[str, Any] = {}
    generator = None
    for part in own.pop("defaults", []):
        if isinstance(part, str):
            if part != "_self_":
                inherited, theirs = _read_option(group, part)
                node, generator = node | inherited, theirs or generator
            continue
        ((name, value),) = part.items()
        if name.startswith("override /generator"):
            generator = value
        elif name.startswith("/"):  # /<group>@_here_
            node |= _read_option(name.strip("/").partition("@")[0], value)[0]
        elif value is not None:
            node[name] = _read_option(f"{group}/{name}", value)[0]
    return node | own, generator
