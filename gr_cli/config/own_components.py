"""Components of one's own: named by `_target_` in an override, or passed as objects from Python.

An object passed from Python is described in the configuration by its name and a hash of its content; the object itself
is carried beside the configuration, in `Settings.live`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any

from gr_cli.config.groups import LIVE_TARGETS, PROVIDED_ARGUMENTS
from gr_cli.config.instantiate import GENERATOR_TRAINING_GROUPS, get_path, signature
from gr_cli.errors import ConfigError

_NAME, _HASH = "live_name", "live_hash"  # settings of a component that stands for an object


@dataclass(frozen=True)
class LivePart:
    """An object passed from Python.

    Attributes:
        path: Dotted name of the settings that it takes the place of, such as `benchmark.source`.
        value: The object.
        name: Its name, for people.
        content_hash: Hash of everything in it that affects results.
    """

    path: str
    value: Any
    name: str
    content_hash: str

    @property
    def overrides(self) -> list[str]:
        """Overrides that describe it in a configuration."""
        values = {_NAME: f"'{self.name}'", _HASH: f"'{self.content_hash}'"}
        return [
            f"{self.path}._target_={LIVE_TARGETS[self.path]}",
            *(f"++{self.path}.{name}={value}" for name, value in values.items()),
        ]


LiveParts = Mapping[str, LivePart]  # by path
LiveValue = Callable[[str, str, str], Any]  # returns the object of a path, a name and a hash
# The objects of the call from Python that is being composed.
live_parts: ContextVar[LiveParts | None] = ContextVar("live_parts", default=None)


def live_value(parts: LiveParts, path: str, name: str, content_hash: str) -> Any:
    """The object that a configuration describes.

    Raises:
        ConfigError: It was not passed, or is another one.
    """
    group, part = path.partition(".")[0], parts.get(path)
    if part is None:
        raise ConfigError(
            group, name, "is an object that was passed from Python", f"repeat that call, with {group}=<the object>"
        )
    if part.content_hash != content_hash:
        raise ConfigError(group, name, "is not the object that the run was started with", "pass the same one")
    return part.value


def recorded_overrides(overrides: Sequence[str], parts: LiveParts) -> list[str]:
    """Overrides as a run records them: `model=MyNet` for an object passed from Python."""
    described = {override: part for part in parts.values() for override in part.overrides}
    names = {path.partition(".")[0]: part.name for path, part in parts.items()}
    recorded = [
        f"{key}={names[key]}" if (key := override.partition("=")[0]) in names else override
        for override in overrides
        if override not in described
    ]
    return [*(f"{group}={name}" for group, name in names.items() if f"{group}={name}" not in recorded), *recorded]


def with_own_targets(
    config: dict[str, Any], choices: Mapping[str, str | None], overrides: Sequence[str]
) -> tuple[dict[str, Any], dict[str, str | None]]:
    """A configuration in which a `_target_` that was overridden replaces the option of its group.

    Of the option's settings it keeps those that it needs and has no default for, and those that overrides give.

    Args:
        config: The configuration, with all interpolations resolved.
        choices: The chosen option of each group; for a group whose target was overridden, the target's name.
        overrides: The overrides as they were typed.

    Raises:
        ConfigError: A target can't be imported.
    """
    given = [override.lstrip("+~").partition("=")[0].replace("/", ".") for override in overrides]
    named = dict(choices)
    for path in [key.removesuffix("._target_") for key in given if key.endswith("._target_")]:
        group = path.partition(".")[0]
        node = get_path(config, path)
        if group not in PROVIDED_ARGUMENTS or not isinstance(node, Mapping):
            continue
        config = _replaced(config, path, _without_defaults(node, path, given))
        if path in LIVE_TARGETS or path == group:
            named[group] = str(node.get(_NAME) or str(node["_target_"]).rpartition(".")[2])
    return config, named


def _without_defaults(node: Mapping[str, Any], path: str, given: Sequence[str]) -> dict[str, Any]:
    arguments = signature(node, path)

    def is_kept(name: str) -> bool:
        is_needed = name in arguments and arguments[name].default is None
        is_given = any(key == f"{path}.{name}" or key.startswith(f"{path}.{name}.") for key in given)
        return is_needed or is_given or (path == "generator" and name in GENERATOR_TRAINING_GROUPS)

    return {name: value for name, value in node.items() if name == "_target_" or is_kept(name)}


def _replaced(config: Mapping[str, Any], path: str, value: Any) -> dict[str, Any]:
    """A copy of a configuration with another value under a dotted name."""
    first, _, rest = path.partition(".")
    return {**config, first: _replaced(config[first], rest, value) if rest else value}
