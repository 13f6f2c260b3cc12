"""What status.json may hold: kinds and bounds of its fields."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Annotated, Any, Literal

from annotated_types import Ge, Le, Lt, Predicate

from gr_cli.config.arguments import describe, matches
from gr_cli.types import NonNegativeInt

PROGRESS_FIELDS = ("tasks_learned", "tasks", "iteration", "iterations", "done", "total")


def check_status(status: Mapping[str, Any]) -> None:
    """Raise unless every known field is of its kind. Only `state` has to be there.

    Raises:
        ValueError: names the field.
    """
    for name, kind in _FIELDS.items():
        if (name in status or name == "state") and not matches(status.get(name), kind):
            raise ValueError(f"`{name}` in status.json must be {describe(kind)}, as a run writes it")


def parse_time(text: object) -> datetime | None:
    """A point in time with its zone; None if `text` is none."""
    try:
        found = datetime.fromisoformat(str(text))
        found.timestamp()
    except (ValueError, OverflowError):
        return None
    return found if found.tzinfo is not None else None


def _is_progress(value: Mapping[str, int]) -> bool:
    named = set(PROGRESS_FIELDS) <= set(value)
    return named and value["tasks_learned"] <= value["tasks"] and value["done"] <= value["total"]


def _is_program(value: Mapping[str, Any]) -> bool:
    return (
        matches(value.get("id"), str)
        and matches(value.get("place"), NonNegativeInt)
        and matches(value.get("size"), NonNegativeInt)
    )


_Time = Annotated[str, Predicate(lambda text: parse_time(text) is not None)]
_Seconds = Annotated[float, Ge(0), Lt(1e10)]
_FIELDS: dict[str, Any] = {
    "state": Literal["running", "finished", "failed", "interrupted"],
    "reason": str | None,
    "started": _Time,
    "updated": _Time,
    "seconds": _Seconds,
    "progress": Annotated[dict[str, NonNegativeInt], Predicate(_is_progress)] | None,
    "program": Annotated[dict[str, Any], Predicate(_is_program)],
    "seed": NonNegativeInt,
    "config_hash": str,
    "choices": dict[str, str],
    "overrides": list[str],
    "command": str,
    "directory": str,
    "data": str | None,
    "stores_raw_samples": bool,
    "heartbeat_seconds": _Seconds,
    "device": str,
    "threads": Annotated[int, Ge(1), Le(1024)],
    "mode": str,
    "process": NonNegativeInt,
    "host": str,
    "commit": str | None,
    "versions": dict[str, str],
}
