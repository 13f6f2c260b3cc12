"""Types and bounds of the fields of status.json."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Annotated, Any, Literal

from annotated_types import Ge, Le, Lt, Predicate

from gr_cli.config.annotations import allowed_values
from gr_cli.config.arguments import matches
from gr_cli.results.forgotten import is_forgotten
from gr_cli.types import NonNegativeInt

# Keys of the field `progress`.
PROGRESS_FIELDS = ("tasks_learned", "tasks", "iteration", "iterations", "done", "total")


def check_status(status: Mapping[str, Any]) -> None:
    """Check the types of all known fields. Only `state` is required.

    Raises:
        ValueError: A field has a wrong value; the message names it.
    """
    for name, field_type in _FIELDS.items():
        if (name in status or name == "state") and not matches(status.get(name), field_type):
            raise ValueError(f"`{name}` in status.json must be {allowed_values(field_type)}, as a run writes it")


def parse_time(text: object) -> datetime | None:
    """A time in ISO 8601 format with a time zone; None for any other text."""
    try:
        time = datetime.fromisoformat(str(text))
        time.timestamp()
    except (ValueError, OverflowError):
        return None
    return time if time.tzinfo is not None else None


def _is_progress(value: Mapping[str, int]) -> bool:
    complete = set(PROGRESS_FIELDS) <= set(value)
    return complete and value["tasks_learned"] <= value["tasks"] and value["done"] <= value["total"]


def _is_program(value: Mapping[str, Any]) -> bool:
    return (
        matches(value.get("id"), str)
        and matches(value.get("index"), NonNegativeInt)
        and matches(value.get("size"), NonNegativeInt)
    )


_Time = Annotated[str, Predicate(lambda text: parse_time(text) is not None)]
_Seconds = Annotated[float, Ge(0), Lt(1e10)]
_FIELDS: dict[str, Any] = {
    "state": Literal["running", "finished", "failed", "interrupted", "pruned"],
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
    "single_pass": bool,
    "privacy": dict[str, Any],
    "reference_for": Literal["transfer", "intransigence"] | None,
    "forgotten": list[Annotated[dict[str, Any], Predicate(is_forgotten)]],
    "heartbeat_seconds": _Seconds,
    "device": str,
    "threads": Annotated[int, Ge(1), Le(1024)],
    "mode": str,
    "process": NonNegativeInt,
    "host": str,
    "commit": str | None,
    "versions": dict[str, str],
}
