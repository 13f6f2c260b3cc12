"""Which jobs of a sweep can be trained as one program: those that differ in nothing but what replicas may differ in."""

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

# Settings that may differ from run to run of a program besides those that are marked as such.
_FREE_SETTINGS = ("seed", "fresh")


def group_compatible(jobs: Sequence[Settings]) -> list[list[int]]:
    """The places of the jobs, those together that can be replicas of one program as far as settings tell."""
    groups: dict[str, list[int]] = {}
    for place, settings in enumerate(jobs):
        groups.setdefault(_compatibility_key(settings), []).append(place)
    return list(groups.values())


def _compatibility_key(settings: Settings) -> str:
    """What must be the same for all replicas of a program."""
    config = {name: value for name, value in settings.config.items() if name not in _FREE_SETTINGS}
    for group in STACKABLE_GROUPS:
        if config[group] is not None:
            free = fields_marked(config[group], group, VariesPerReplica)
            config[group] = _with_placeholders(config[group], free)
    # Each replica has its own optimisers; they only need the same moments.
    config["optimizer"] = _optimizer_key(config["optimizer"])
    if config["generator"] is not None and config["generator"].get("optimizer") is not None:
        config["generator"]["optimizer"] = _optimizer_key(settings.config["generator"]["optimizer"])
    return json.dumps(config, sort_keys=True)


def _optimizer_key(optimizer: Mapping[str, Any]) -> list[str]:
    """The kind of an optimiser and the names of its moments."""
    moments = build_as(Optimizer, optimizer, "optimizer").init_state([])  # type: ignore[type-abstract]
    return [optimizer["_target_"], *sorted(moments)]


def _with_placeholders(node: Mapping[str, Any], free: Sequence[str], prefix: str = "") -> dict[str, Any]:
    """A node with a placeholder for the numbers of these dotted names; null is no number, and stays."""
    return {
        k: _with_placeholders(v, free, f"{prefix}{k}.")
        if isinstance(v, Mapping)
        else "a number"
        if f"{prefix}{k}" in free and _is_number(v)
        else v
        for k, v in node.items()
    }


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def differing_settings(jobs: Sequence[Settings]) -> list[str]:
    """The settings in which jobs differ, by their paths."""
    leaves = [flatten(settings.config) for settings in jobs]
    names = dict.fromkeys(name for found in leaves for name in found)
    return [name for name in names if len({json.dumps(found.get(name)) for found in leaves}) > 1]


def even_chunks(items: Sequence[int], width: int) -> list[list[int]]:
    """`places` cut into as few parts of at most `width` as possible, as even as possible, in order."""
    count = -(-len(items) // width)
    bounds = [round(i * len(items) / count) for i in range(count + 1)]
    return [list(items[a:b]) for a, b in pairwise(bounds)]
