"""Runs that other processes train, looked at until none is under way any more."""

from __future__ import annotations

import sys
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.table import Table
from rich.text import Text

from gr_cli.errors import one_line
from gr_cli.results.discovery import NOT_STARTED, DiscoveredRuns, candidate_folders
from gr_cli.results.progress import WAITING, RunWatcher, WatchedRun
from gr_cli.system.locks import is_locked
from gr_cli.system.output import stdout_closed
from gr_cli.terminal.format import format_duration, format_percent, truncate_left

_POLL_SECONDS = 1.0  # seconds between two looks
_STYLES = {"running": "bold", "finished": "green", "failed": "red", "killed": "red", "interrupted": "yellow"}


class WatchLines:
    """Where there is no terminal: a line for each change, for as long as anybody reads them."""

    def __init__(self) -> None:
        self._printed: dict[Path, str] = {}

    def show(self, summary: str, runs: Sequence[WatchedRun]) -> None:
        """All runs as they are now; at first, what needs no watching is only counted."""
        first = not self._printed
        if first:
            print(summary, flush=True)
        for run in runs:
            line = _state_line(run)
            if line != self._printed.get(run.path) and not (first and run.state in ("finished", WAITING, NOT_STARTED)):
                print(one_line(f"{line}: {run.path}"), flush=True)
            self._printed[run.path] = line
        if stdout_closed():
            raise KeyboardInterrupt


class WatchTable(Live):
    """On a terminal: a table that is renewed."""

    def __init__(self, console: Console | None = None) -> None:
        console = console or Console(highlight=False)
        super().__init__(console=console, auto_refresh=False, vertical_overflow="crop")

    def show(self, summary: str, runs: Sequence[WatchedRun]) -> None:
        """What became of the runs by now, the most interesting ones first."""
        self.update(self._table(summary, runs), refresh=True)

    def _table(self, summary: str, runs: Sequence[WatchedRun]) -> RenderableType:
        why = [run for run in runs if run.reason][:3]
        room = max(3, self.console.height - 4 - len(why))  # counts, heads, what is left out, and the cursor
        width = self.console.width
        table = Table(box=None, padding=(0, 1, 0, 0), pad_edge=False, header_style="dim")
        for name in ("run", "state"):
            table.add_column(name, no_wrap=True)
        for name in ("task", *(["iteration"] if width >= 80 else []), "accuracy", "time", "left"):
            table.add_column(name, justify="right", no_wrap=True)
        for run in runs[:room]:
            at = run.progress
            counts = [f"{at['task']}/{at['tasks']}", f"{at['iteration']:,}/{at['iterations']:,}"] if at else ["", ""]
            accuracy = "" if run.accuracy is None else f"{format_percent(run.accuracy)} %"
            table.add_row(
                Text(truncate_left(run.name, max(16, width - 52))),
                Text(run.state, style=_STYLES.get(run.state, "dim")),
                *(counts if width >= 80 else counts[:1]),
                accuracy,
                format_duration(run.seconds),
                format_duration(run.seconds_left),
            )
        parts: list[RenderableType] = [Text(summary, style="bold"), table]
        if len(runs) > room:
            parts.append(Text(f"and {len(runs) - room} more", style="dim"))
        for run in why:
            told = Text(
                f"{truncate_left(run.name, 28)}: {one_line(run.reason)}", style="red", no_wrap=True, overflow="ellipsis"
            )
            parts.append(told)
        return Group(*parts)


def watch(roots: Sequence[Path], display: WatchLines | WatchTable, poll_seconds: float = _POLL_SECONDS) -> int:
    """Show the runs below `roots` until none is under way and no sweep goes on; 0 if all of them are finished, or who
    looks on leaves before, else 1. What is not there yet is waited for, and that is said.

    Raises:
        KeyboardInterrupt: who waited leaves, and there was no run at all.
    """
    watcher, awaited, runs = RunWatcher(), set[str](), list[WatchedRun]()
    try:
        while True:
            found, there = DiscoveredRuns(), [root for root in roots if root.is_dir()]
            # Asked before the runs are looked at: one that begins and ends in between is not missed.
            places = list(candidate_folders(there, found))
            goes_on = any(is_locked(sweep) for sweep in found.sweeps)
            runs = watcher.poll(places, goes_on, found.unreadable)
            missing = [f"{root}: no such folder yet" for root in roots if root not in there]
            if not (runs or missing):
                missing = [f"{', '.join(map(str, roots))}: no run there yet"]
            for line in missing:
                if line not in awaited:
                    print(one_line(f"gr-report: waits for {line}"), file=sys.stderr)
                    awaited.add(line)
            if runs:
                counts = Counter(run.state for run in runs)
                display.show(" · ".join(f"{number} {state}" for state, number in counts.items()), runs)
            if not (missing or goes_on or runs[0].state == "running"):
                return 0 if all(run.state == "finished" for run in runs) else 1
            time.sleep(poll_seconds)
    except KeyboardInterrupt:
        if runs:
            return 0
        raise


def _state_line(run: WatchedRun) -> str:
    """A run in a few words, which change when there is something to tell."""
    words = [run.state]
    if run.progress and run.state != "finished":
        words.append(f"task {run.progress['task']}/{run.progress['tasks']}")
    if run.accuracy is not None:
        words.append(f"{100 * run.accuracy:.1f} %")
    if run.reason:
        words.append(f"({run.reason})")
    return ", ".join(words)
