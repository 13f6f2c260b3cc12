"""Numbers, durations and paths as text for a terminal."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from gr_cli.errors import one_line
from gr_cli.results.folder import without_hash


def format_duration(seconds: float | None) -> str:
    """0:05, 12:34, 1:02:03, or nothing where nobody knows."""
    if seconds is None:
        return ""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def active_runs_label(folders: Sequence[Path]) -> str:
    """Runs under way in a few words: how many there are, or what the name of the only one says but for its hash."""
    return f"{len(folders)} runs as one" if len(folders) > 1 else one_line(without_hash(folders[0].name))


def truncate_left(text: str, width: int) -> str:
    """Its end tells runs apart: the seed stands there."""
    return text if len(text) <= width else "…" + text[1 - width :]


def format_percent(value: float | None) -> str:
    """A fraction in percent, or a dash where there is none."""
    return "–" if value is None else f"{100 * value:.1f}"


def mean_of_known(values: Sequence[float | None]) -> float | None:
    """Mean of those that are there; None of none."""
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known else None


def with_plural(number: int, word: str) -> str:
    """A number of things, with their word in the plural unless there is one."""
    return f"{number} {word}" if number == 1 else f"{number} {word}s"
