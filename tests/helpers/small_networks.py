"""Small networks for runs of which tests ask something else than how well they learn."""

from collections.abc import Mapping
from typing import Any

from gr_cli.cli.compose import compose_settings

GROUPS = ("model", "generator")


def value_text(value: object) -> str:
    """A value as Hydra reads it."""
    if value is None or isinstance(value, bool):
        return "null" if value is None else str(value).lower()
    return f"[{','.join(map(value_text, value))}]" if isinstance(value, list) else str(value)


def shrunk(node: Mapping[str, Any], prefix: str) -> dict[str, object]:
    """The large whole numbers of a node, made small."""
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
    """Words that make the networks small of the run that `words` describe: to be put before these, which count more."""
    config = compose_settings(list(words)).config
    small = {path: value for group in GROUPS for path, value in shrunk(config[group] or {}, group).items()}
    return [f"{path}={value_text(value)}" for path, value in small.items()]
