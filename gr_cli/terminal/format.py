"""Numbers, durations and paths as text for a terminal."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from gr_cli.errors import one_line
from gr_cli.results.folder import without_hash


def format_duration(seconds: float | None) -> str:
    """As 0:05, 12:34 or 1:02:03; empty if unknown."""
    if seconds is None:
        return ""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def active_runs_label(folders: Sequence[Path]) -> str:
    """Label of the active runs: their number, or the name of the only one without its hash."""
    return f"{len(folders)} runs as one" if len(folders) > 1 else one_line(without_hash(folders[0].name))


def truncate_left(text: str, width: int) -> str:
    """`text` shortened at its beginning, because names of runs differ at their ends (the seed)."""
    return text if len(text) <= width else "…" + text[1 - width :]


def format_percent(value: float | None) -> str:
    """A fraction in percent; a dash for None."""
    return "–" if value is None else f"{100 * value:.1f}"


def mean_of_known(values: Sequence[float | None]) -> float | None:
    """Mean of the values that are not None; None if all are."""
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known else None


def with_plural(number: int, word: str) -> str:
    """As `1 task` or `2 tasks`."""
    return f"{number} {word}" if number == 1 else f"{number} {word}s"
