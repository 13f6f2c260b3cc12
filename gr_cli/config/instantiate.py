"""Instantiation of components: a node of the configuration calls its `_target_`, checked against the signature.

The signature is the schema: an unknown or missing name, a wrong type or a value out of range is a `ConfigError` with
the field's path in the configuration. Sizes that follow from the benchmark are passed to arguments of that name.
"""

from __future__ import annotations

import importlib
import inspect
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cache
from typing import Any, TypeVar

from gr_cli.config.arguments import check_value
from gr_cli.config.groups import CONF, LIVE_TARGETS
from gr_cli.config.signatures import Argument, imported_arguments, read_component
from gr_cli.errors import ConfigError, suggestion

T = TypeVar("T")


def build(node: Mapping[str, Any], path: str, **provided: Any) -> Any:
    """Call `node["_target_"]` with the other entries of the node.

    Args:
        node: The node; entries with a `_target_` of their own are instantiated first.
        path: The dotted name of the node, for messages.
        provided: Values for arguments that the node leaves out or sets to null.

    Raises:
        ConfigError: An entry does not match the signature.
    """
    target = import_target(node.get("_target_"), path)
    parameters = imported_arguments(target)
    call_arguments = _bind_arguments(node, path, provided, parameters)
    for name, value in call_arguments.items():
        if _is_node(value):
            call_arguments[name] = build(value, f"{path}.{name}", **provided)
            annotation = parameters[name].annotation
            check_value(call_arguments[name], annotation, f"{path}.{name}", shown=value["_target_"])
    return target(**call_arguments)


def build_as(expected_type: type[T], node: Mapping[str, Any], path: str, **provided: Any) -> T:
    """Like `build`, for a component of an expected type.

    Raises:
        ConfigError: An entry does not match the signature, or the component is of another type.
    """
    component = build(node, path, **provided)
    if not isinstance(component, expected_type):
        # An object that was passed from Python is named as its caller knows it.
        field, value = (path, node["live_name"]) if "live_name" in node else (f"{path}._target_", node["_target_"])
        problem = f"makes a {type(component).__name__}, and a {expected_type.__name__} is needed"
        raise ConfigError(field, value, problem)
    return component


def check_node(node: Mapping[str, Any], path: str, provided: Iterable[str]) -> None:
    """Check a node against the signature of its `_target_`, without calling it, and without importing shipped ones.

    Raises:
        ConfigError: An entry does not match.
    """
    placeholders = dict.fromkeys(provided)
    for key, value in _bind_arguments(node, path, placeholders, signature(node, path)).items():
        if _is_node(value):
            check_node(value, f"{path}.{key}", placeholders)


# Groups inside the generator's that configure its training and are no arguments of the generator.
GENERATOR_TRAINING_GROUPS = ("optimizer", "gradient_rule")


def split_generator(node: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, dict[str, Any]]]:
    """Split the node of a generator.

    Returns:
        The node of the generator itself, and the nodes of its own optimiser and gradient rule, if any, by name.

    Raises:
        ConfigError: One of these is no mapping of settings.
    """
    rest = {name: value for name, value in node.items() if name not in GENERATOR_TRAINING_GROUPS}
    training = {name: node[name] for name in GENERATOR_TRAINING_GROUPS if node.get(name) is not None}
    for name, value in training.items():
        if not _is_node(value):
            raise ConfigError(
                f"generator.{name}", value, "must name an option of this group", f"try generator/{name}=<option>"
            )
    return rest, training


def _is_node(value: Any) -> bool:
    return isinstance(value, Mapping) and "_target_" in value


def _bind_arguments(
    node: Mapping[str, Any], path: str, provided: Mapping[str, Any], parameters: Mapping[str, Argument]
) -> dict[str, Any]:
    """The checked arguments of a node, whose target has these parameters; nested nodes are not instantiated."""
    arguments: dict[str, Any] = {name: provided[name] for name in parameters if name in provided}
    for name, value in node.items():
        if name == "_target_":
            continue
        field = f"{path}.{name}"
        if name not in parameters:
            choices = [p for p in parameters if (p not in provided or p in node) and not p.startswith("live_")]
            raise ConfigError(
                field, value, f"no such setting; there are {_join_names(choices)}", suggestion(name, choices)
            )
        if value is None and name in arguments:
            continue
        if not _is_node(value):
            check_value(value, parameters[name].annotation, field, parameters[name].default_value)
        arguments[name] = value
    for name, parameter in parameters.items():
        if name not in arguments and parameter.default is None:
            raise ConfigError(f"{path}.{name}", None, f"is needed by {node['_target_']}")
    return arguments


def signature(node: Mapping[str, Any], path: str) -> dict[str, Argument]:
    """The arguments of the `_target_` of a node: from its source for one of this package, else by importing it."""
    target = node.get("_target_")
    component = read_component(target) if isinstance(target, str) else None
    return imported_arguments(import_target(target, path)) if component is None else component.arguments


def has_unread_target(config: Mapping[str, Any]) -> bool:
    """Whether a component in a configuration must be imported to know its signature."""
    return any(isinstance(target, str) and read_component(target) is None for target in _targets(config))


def accepts_argument(node: Mapping[str, Any], path: str, name: str) -> bool:
    """Whether the `_target_` of a node has an argument of this name."""
    return name in signature(node, path)


def fields_marked(node: Mapping[str, Any], path: str, mark: type) -> list[str]:
    """The settings of a node whose annotation has a mark of `gr_cli.types`, such as `VariesPerReplica`.

    Those of nested nodes are dotted names.
    """
    arguments = signature(node, path)
    own = [name for name, each in arguments.items() if mark in getattr(each.annotation, "__metadata__", ())]
    inner = [f"{k}.{name}" for k, v in node.items() if _is_node(v) for name in fields_marked(v, f"{path}.{k}", mark)]
    return own + inner


def get_path(node: Mapping[str, Any], name: str) -> Any:
    """The entry of a node under a dotted name; None if there is none."""
    first, _, rest = name.partition(".")
    return get_path(node[first], rest) if rest and first in node else node.get(first)


def import_target(target: object, path: str) -> Callable[..., Any]:
    """Import the class or function that a `_target_` names.

    Raises:
        ConfigError: It can't be imported or called.
    """
    if not isinstance(target, str) or "." not in target:
        raise ConfigError(f"{path}._target_", target, "must be the dotted name of a class or function")
    module, _, name = target.rpartition(".")
    try:
        function = getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError, TypeError, ValueError) as error:
        remedy = "check its name, and that the folder of a module of your own is in the environment variable PYTHONPATH"
        raise ConfigError(f"{path}._target_", target, f"can't be imported ({error})", remedy) from error
    if not callable(function):
        raise ConfigError(f"{path}._target_", target, "is neither a class nor a function")
    try:
        inspect.signature(function)
    except ValueError as error:
        raise ConfigError(f"{path}._target_", target, "does not say which settings it takes") from error
    result: Callable[..., Any] = function
    return result


def foreign_targets(config: Mapping[str, Any]) -> list[str]:
    """Every `_target_` in a configuration that no shipped option of its group has; nothing is imported.

    Those that stand for objects passed from Python count as shipped.
    """
    foreign: list[str] = []
    for group, node in config.items():
        shipped = {*shipped_targets(group), *_live_targets(group)}
        foreign += [str(target) for target in _targets(node) if not (isinstance(target, str) and target in shipped)]
    return foreign


def _live_targets(group: str) -> list[str]:
    return [target for path, target in LIVE_TARGETS.items() if path.partition(".")[0] == group]


def _targets(node: Any) -> list[Any]:
    if isinstance(node, (list, tuple)):
        return [target for entry in node for target in _targets(entry)]
    if not isinstance(node, Mapping):
        return []
    own = [node["_target_"]] if "_target_" in node else []
    return own + [target for name, entry in node.items() if name != "_target_" for target in _targets(entry)]


_TARGET = re.compile(r"""^\s*_target_:\s*["']?([\w.]+)""", re.MULTILINE)
# An entry of a defaults list that includes an option of another group: `- /optimizer@_here_: adam`.
_INCLUDED_GROUP = re.compile(r"^\s*-\s*/(\w+)@_here_:", re.MULTILINE)


def targets_in_text(text: str) -> list[str]:
    """The `_target_` of every node in the text of a YAML file."""
    return _TARGET.findall(text)


@cache
def shipped_targets(group: str) -> frozenset[str]:
    """The `_target_` of every shipped option of a group, of the groups inside it, and of those that it includes."""
    options = (CONF / group).rglob("*.yaml") if group.isidentifier() else ()
    text = "\n".join(path.read_text(encoding="utf-8") for path in options)
    return frozenset(targets_in_text(text)).union(*map(shipped_targets, set(_INCLUDED_GROUP.findall(text))))


def _join_names(names: Sequence[str]) -> str:
    return ", ".join(sorted(names)) if names else "none"
