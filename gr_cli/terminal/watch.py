"""`gr-report --watch`: follow runs that other processes train."""

from __future__ import annotations

import sys
import time
from collections import Counter
from collections.abc import Mapping, Sequence
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

_POLL_SECONDS = 1.0  # time between two readings of the folders
_STYLES = {
    "running": "bold",
    "finished": "green",
    "failed": "red",
    "killed": "red",
    "interrupted": "yellow",
    "pruned": "dim",
}


class WatchLines:
    """Display without a terminal: a line for each change, until the reader of stdout leaves."""

    def __init__(self) -> None:
        self._printed: dict[Path, str] = {}

    def show(self, summary: str, runs: Sequence[WatchedRun]) -> None:
        """Print what has changed. The first call prints counts, and only runs that are active or have failed."""
        is_first = not self._printed
        if is_first:
            print(summary, flush=True)
        for run in runs:
            line = _state_line(run)
            if line != self._printed.get(run.path) and not (
                is_first and run.state in ("finished", WAITING, NOT_STARTED)
            ):
                print(one_line(f"{line}: {run.path}"), flush=True)
            self._printed[run.path] = line
        if stdout_closed():
            raise KeyboardInterrupt


class WatchTable(Live):
    """Display on a terminal: a table that is redrawn in place."""

    def __init__(self, console: Console | None = None) -> None:
        console = console or Console(highlight=False)
        super().__init__(console=console, auto_refresh=False, vertical_overflow="crop")

    def show(self, summary: str, runs: Sequence[WatchedRun]) -> None:
        """Redraw the table of `runs`; the first ones are shown if there is no room for all."""
        self.update(self._table(summary, runs), refresh=True)

    def _table(self, summary: str, runs: Sequence[WatchedRun]) -> RenderableType:
        failed = [run for run in runs if run.reason][:3]
        num_rows = max(3, self.console.height - 4 - len(failed))  # minus summary, header, omitted runs and cursor
        width = self.console.width
        table = Table(box=None, padding=(0, 1, 0, 0), pad_edge=False, header_style="dim")
        for name in ("run", "state"):
            table.add_column(name, no_wrap=True)
        for name in ("tasks", *(["iteration"] if width >= 80 else []), "accuracy", "time", "left"):
            table.add_column(name, justify="right", no_wrap=True)
        for run in runs[:num_rows]:
            counts = ["", ""]
            if progress := run.progress:
                counts = [_task_count(progress), f"{progress['iteration']:,}/{progress['iterations']:,}"]
            accuracy = "" if run.accuracy is None else f"{format_percent(run.accuracy)} %"
            table.add_row(
                Text(truncate_left(run.name, max(16, width - 52))),
                Text(run.state, style=_STYLES.get(run.state, "dim")),
                *(counts if width >= 80 else counts[:1]),
                accuracy,
                format_duration(run.seconds),
                format_duration(run.seconds_left),
            )
        rows: list[RenderableType] = [Text(summary, style="bold"), table]
        if len(runs) > num_rows:
            rows.append(Text(f"and {len(runs) - num_rows} more", style="dim"))
        for run in failed:
            line = f"{truncate_left(run.name, 28)}: {one_line(run.reason)}"
            rows.append(Text(line, style="red", no_wrap=True, overflow="ellipsis"))
        return Group(*rows)


def watch(roots: Sequence[Path], display: WatchLines | WatchTable, poll_seconds: float = _POLL_SECONDS) -> int:
    """Display the runs below `roots` until no run is active and no sweep is in progress.

    Folders that do not exist yet, or have no runs, are waited for, with a line on stderr.

    Returns:
        The exit code: 0 if all runs are finished, or the user leaves earlier by Ctrl-C; else 1.

    Raises:
        KeyboardInterrupt: Ctrl-C came before there was any run.
    """
    watcher, announced, runs = RunWatcher(), set[str](), list[WatchedRun]()
    try:
        while True:
            discovered, existing = DiscoveredRuns(), [root for root in roots if root.is_dir()]
            # Test the locks before reading the runs, so that one that begins and ends in between is not missed.
            folders = list(candidate_folders(existing, discovered))
            sweep_active = any(is_locked(sweep) for sweep in discovered.sweeps)
            runs = watcher.poll(folders, sweep_active, discovered.unreadable)
            missing = [f"{root}: no such folder yet" for root in roots if root not in existing]
            if not (runs or missing):
                missing = [f"{', '.join(map(str, roots))}: no run there yet"]
            for line in missing:
                if line not in announced:
                    print(one_line(f"gr-report: waiting for {line}"), file=sys.stderr)
                    announced.add(line)
            if runs:
                counts = Counter(run.state for run in runs)
                display.show(" · ".join(f"{number} {state}" for state, number in counts.items()), runs)
            if not (missing or sweep_active or runs[0].state == "running"):
                return 0 if all(run.state == "finished" for run in runs) else 1
            time.sleep(poll_seconds)
    except KeyboardInterrupt:
        if runs:
            return 0
        raise


def _state_line(run: WatchedRun) -> str:
    """State of a run in one line, which changes only when a task ends or the state changes."""
    parts = [run.state]
    if run.progress and run.state != "finished":
        parts.append(f"{_task_count(run.progress)} tasks")
    if run.accuracy is not None:
        parts.append(f"{100 * run.accuracy:.1f} %")
    if run.reason:
        parts.append(f"({run.reason})")
    return ", ".join(parts)


def _task_count(progress: Mapping[str, int]) -> str:
    """How many tasks are learned, of how many."""
    return f"{progress['tasks_learned']}/{progress['tasks']}"
