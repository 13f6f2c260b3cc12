"""Overrides that make networks small, for tests that don't depend on how well they learn."""

from collections.abc import Mapping
from typing import Any

from gr_cli.cli.compose import compose_settings

GROUPS = ("model", "generator")


def value_text(value: object) -> str:
    """A value in Hydra's syntax."""
    if value is None or isinstance(value, bool):
        return "null" if value is None else str(value).lower()
    return f"[{','.join(map(value_text, value))}]" if isinstance(value, list) else str(value)


def shrunk(node: Mapping[str, Any], prefix: str) -> dict[str, object]:
    """Overrides that reduce the large integers of a node."""
    found: dict[str, object] = {}
    for name, value in node.items():
        if isinstance(value, Mapping):
            found |= shrunk(value, f"{prefix}.{name}")
        elif isinstance(value, list) and any(isinstance(v, int) and v > 16 for v in value):
            found[f"{prefix}.{name}"] = [4] * min(2, len(value))
        elif isinstance(value, int) and value > 16:
            found[f"{prefix}.{name}"] = 4
    return found


def small_networks(*words: str) -> list[str]:
    """Overrides that make the networks of the run described by `words` small; put them before `words`."""
    config = compose_settings(list(words)).config
    small = {path: value for group in GROUPS for path, value in shrunk(config[group] or {}, group).items()}
    small |= {"strategy.projection_dim": 4} if "projection_dim" in config["strategy"] else {}
    return [f"{path}={value_text(value)}" for path, value in small.items()]
