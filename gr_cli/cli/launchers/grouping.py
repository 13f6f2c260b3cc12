"""Grouping of jobs that can be replicas of one program, because they differ only in settings that replicas may."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

from gr_cli.config.groups import STACKABLE_GROUPS
from gr_cli.config.instantiate import build_as, fields_marked
from gr_cli.config.settings import Settings, flatten
from gr_cli.optimizers import Optimizer
from gr_cli.types import VariesPerReplica

# Settings that may differ between replicas, besides those of type `VariesPerReplica`.
_FREE_SETTINGS = ("seed", "fresh")


def group_compatible(jobs: Sequence[Settings]) -> list[list[int]]:
    """Indices of the jobs, grouped by settings that replicas of one program must share."""
    groups: dict[str, list[int]] = {}
    for i, settings in enumerate(jobs):
        groups.setdefault(_compatibility_key(settings), []).append(i)
    return list(groups.values())


def _compatibility_key(settings: Settings) -> str:
    """The settings that replicas of a program must share, as text."""
    config = {name: value for name, value in settings.config.items() if name not in _FREE_SETTINGS}
    config["membership"] = {**config["membership"], "draw": config["membership"]["draw"] is not None}
    for group in STACKABLE_GROUPS:
        if config[group] is not None:
            varying = fields_marked(config[group], group, VariesPerReplica)
            config[group] = _with_placeholders(config[group], varying)
    # Each replica has its own optimizer; they only need moments of the same names.
    config["optimizer"] = _optimizer_key(config["optimizer"])
    if config["generator"] is not None and config["generator"].get("optimizer") is not None:
        config["generator"]["optimizer"] = _optimizer_key(settings.config["generator"]["optimizer"])
    return json.dumps(config, sort_keys=True)


def _optimizer_key(optimizer: Mapping[str, Any]) -> list[str]:
    """The class of an optimizer and the names of its moments."""
    moments = build_as(Optimizer, optimizer, "optimizer").init_state([])  # type: ignore[type-abstract]
    return [optimizer["_target_"], *sorted(moments)]


def _with_placeholders(node: Mapping[str, Any], varying: Sequence[str], prefix: str = "") -> dict[str, Any]:
    """A configuration node in which numbers of the dotted names `varying` are replaced; null is kept."""
    return {
        k: _with_placeholders(v, varying, f"{prefix}{k}.")
        if isinstance(v, Mapping)
        else "a number"
        if f"{prefix}{k}" in varying and _is_number(v)
        else v
        for k, v in node.items()
    }


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def differing_settings(jobs: Sequence[Settings]) -> list[str]:
    """Dotted names of the settings in which jobs differ."""
    configs = [flatten(settings.config) for settings in jobs]
    names = dict.fromkeys(name for config in configs for name in config)
    return [name for name in names if len({json.dumps(config.get(name)) for config in configs}) > 1]


def even_chunks(items: Sequence[int], width: int) -> list[list[int]]:
    """Split `items`, in order, into the smallest number of chunks of at most `width`, of nearly equal lengths."""
    count = -(-len(items) // width)
    bounds = [round(i * len(items) / count) for i in range(count + 1)]
    return [list(items[a:b]) for a, b in pairwise(bounds)]
