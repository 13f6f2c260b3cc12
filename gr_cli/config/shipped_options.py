"""Options of the Python API, `{"type": <option>, ...}`, as nodes of the configuration; read without Hydra."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any

from gr_cli.config.arguments import check_value
from gr_cli.config.options import Options
from gr_cli.errors import ConfigError, suggestion

STRATEGY_KEY = "continual_strategy"


# YAML 1.1 reads a number with an exponent and no point as text.
_EXPONENT = re.compile(r"[-+]?(\d+\.?\d*|\.\d+)[eE][-+]?\d+")


def plain_dict(settings: Any, path: str) -> dict[str, Any]:
    """Settings as nested dicts and lists of plain values.

    Args:
        settings: Any mapping, with any mappings, sequences and numbers in it.
        path: The dotted name of the settings, for messages.

    Raises:
        ConfigError: They are no mapping, or contain something else than plain values.
    """
    if not isinstance(settings, Mapping):
        shown = settings if isinstance(settings, (str, int, float, list, tuple)) else type(settings).__name__
        raise ConfigError(path, shown, "must be a mapping of settings")
    try:
        return {str(name): plain_value(value, f"{path}.{name}") for name, value in settings.items()}
    except ConfigError:
        raise
    except Exception as error:  # an unresolvable interpolation of OmegaConf, a mapping that contains itself
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise ConfigError(path, type(settings).__name__, f"can't be read ({reason})") from error


def plain_value(value: Any, path: str) -> Any:
    """The value of a setting as plain Python, converted from NumPy and torch.

    Raises:
        ConfigError: It is no number, text, boolean, null, list or mapping.
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
    """The node of an option of a group.

    Args:
        group: The group.
        settings: `{"type": <option>, <setting>: <value>, ...}`.
        default: The option without a `type`.
        path: The dotted name of the settings, for messages.

    Raises:
        ConfigError: There is no such option.
    """
    parameters = plain_dict({} if settings is None else settings, path)
    return _option_with_parameters(group, f"{path}.type", parameters.pop("type", default), parameters)[0]


def generator_from_dict(settings: Any, default: str, path: str) -> dict[str, Any]:
    """The node of a generator, as `option_from_dict` makes it.

    Its `optimizer` and `gradient_rule` are `{"type": <option>, ...}`, too; without a `type` they change settings of
    the option that the generator's own YAML file chooses.
    """
    node = option_from_dict("generator", settings, default, path)
    for group, option in (("optimizer", "adam"), ("gradient_rule", "none")):
        own = node.get(group)
        if own is None or "_target_" in own:
            continue
        chosen = option_from_dict("generator", {"type": settings.get("type", default)}, default, path).get(group)
        if chosen is not None and isinstance(own, Mapping) and "type" not in own:
            node |= {group: {**chosen, **own}}
        else:
            node |= {group: option_from_dict(group, own, option, f"{path}.{group}")}
    return node


def strategy_from_dict(settings: Any) -> tuple[str, dict[str, Any], Any, str]:
    """The enabled strategy of `{<strategy>: {<setting>: <value>, ...}, "generator": {...}}`.

    Returns:
        The strategy's name, its node, the settings of the generator or None, and the strategy's default generator.

    Raises:
        ConfigError: More than one strategy is enabled, or there is none of this name.
    """
    strategies = plain_dict({} if settings is None else settings, STRATEGY_KEY)
    generator = strategies.pop("generator", None)
    enabled = {}
    for name, parameters in strategies.items():
        own = plain_dict({} if parameters is None else parameters, f"{STRATEGY_KEY}.{name}")
        is_enabled = own.pop("enabled", True)
        check_value(is_enabled, bool, f"{STRATEGY_KEY}.{name}.enabled")
        if is_enabled:
            enabled[name] = own
    if len(enabled) > 1:
        raise ConfigError(STRATEGY_KEY, ", ".join(enabled), "only one strategy can be enabled", "leave out the others")
    name, parameters = next(iter(enabled.items()), ("finetune", {}))
    if (regularizer := parameters.get("regularizer")) is not None:
        path = f"{STRATEGY_KEY}.{name}.regularizer"
        own = {"type": regularizer} if isinstance(regularizer, str) else plain_dict(regularizer, path)
        option = own.pop("type", None)
        parameters["regularizer"] = (
            _option_with_parameters("strategy/regularizer", f"{path}.type", option, own)[0] or None
        )
    node, default_generator = _option_with_parameters("strategy", STRATEGY_KEY, name, parameters)
    return name, node, generator, default_generator or "vae"


def _option_with_parameters(
    group: str, path: str, option: object, parameters: Mapping[str, Any]
) -> tuple[dict[str, Any], str | None]:
    """The node of an option with the caller's parameters, and the generator that the option chooses, if any."""
    options = _options().names(group)
    if option not in options:
        raise ConfigError(path, option, f"must be one of {', '.join(options)}", suggestion(str(option), options))
    node, generator = _read_option(group, str(option))
    return {**node, **parameters}, generator


def _read_option(group: str, option: str) -> tuple[dict[str, Any], str | None]:
    """The node of an option with the options of the groups inside it, and the generator that it chooses, if any."""
    read = _options().read(group, option)
    node = dict(read.values)
    for inner, choice in read.choices.items():
        if inner.startswith(f"{group}/") and choice is not None:
            node[inner.removeprefix(f"{group}/")] = _read_option(inner, choice)[0]
    return node, read.choices.get("generator")


@cache
def _options() -> Options:
    return Options()
