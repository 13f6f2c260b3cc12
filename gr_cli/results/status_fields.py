"""What status.json may hold: names, kinds and bounds of its fields."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import datetime
from typing import Any

STATES = ("running", "finished", "failed", "interrupted")
PROGRESS = ("task", "tasks", "iteration", "iterations", "done", "total")
MOST_THREADS = 1024


def check_status(status: Mapping[str, Any]) -> None:
    """Raise unless every known field is of its kind. Only `state` has to be there.

    Raises:
        ValueError: names the field, and what it must be.
    """
    for name, (fits, allowed) in _FIELDS.items():
        if (name in status or name == "state") and not fits(status.get(name)):
            raise ValueError(f"`{name}` in status.json must be {allowed}")


def instant(text: object) -> datetime | None:
    """A point in time with its zone; None if `text` is none."""
    try:
        found = datetime.fromisoformat(str(text))
        found.timestamp()
    except (ValueError, OverflowError):
        return None
    return found if found.tzinfo is not None else None


def _is_text(value: Any) -> bool:
    return isinstance(value, str)


def _is_text_or_none(value: Any) -> bool:
    return value is None or isinstance(value, str)


def _is_count(value: Any) -> bool:
    return type(value) is int and value >= 0


def _is_seconds(value: Any) -> bool:
    return type(value) in (int, float) and 0 <= value < 1e10


def _is_time(value: Any) -> bool:
    return isinstance(value, str) and instant(value) is not None


def _is_texts(value: Any) -> bool:
    return isinstance(value, list) and all(map(_is_text, value))


def _is_named_texts(value: Any) -> bool:
    return isinstance(value, Mapping) and all(map(_is_text, value.values()))


def _is_progress(value: Any) -> bool:
    if value is None:
        return True
    if not isinstance(value, Mapping) or not all(_is_count(value.get(name)) for name in PROGRESS):
        return False
    return bool(value["task"] <= value["tasks"] and value["done"] <= value["total"])


def _is_program(value: Any) -> bool:
    counts = ("place", "size")
    return isinstance(value, Mapping) and _is_text(value.get("id")) and all(_is_count(value.get(n)) for n in counts)


_TEXT: tuple[Callable[[Any], bool], str] = (_is_text, "text")
_TIME: tuple[Callable[[Any], bool], str] = (_is_time, "a time with its zone")
_FIELDS: dict[str, tuple[Callable[[Any], bool], str]] = {
    "state": (lambda value: value in STATES, f"one of {', '.join(STATES)}"),
    "reason": (_is_text_or_none, "text or null"),
    "started": _TIME,
    "updated": _TIME,
    "seconds": (_is_seconds, "a number ≥ 0"),
    "progress": (_is_progress, f"null or counts of {', '.join(PROGRESS)}"),
    "program": (_is_program, "an id, a place and a size"),
    "seed": (_is_count, "a whole number ≥ 0"),
    "config_hash": _TEXT,
    "choices": (_is_named_texts, "options by group"),
    "overrides": (_is_texts, "a list of texts"),
    "command": _TEXT,
    "directory": _TEXT,
    "data": (_is_text_or_none, "text or null"),
    "stores_raw_samples": (lambda value: isinstance(value, bool), "true or false"),
    "heartbeat_seconds": (_is_seconds, "a number ≥ 0"),
    "device": _TEXT,
    "threads": (lambda value: _is_count(value) and 1 <= value <= MOST_THREADS, f"a number from 1 to {MOST_THREADS}"),
    "mode": _TEXT,
    "process": (_is_count, "a whole number ≥ 0"),
    "host": _TEXT,
    "commit": (_is_text_or_none, "text or null"),
    "versions": (_is_named_texts, "versions by library"),
}
