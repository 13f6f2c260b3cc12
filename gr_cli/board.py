"""What a terminal shows of runs that other processes train."""

from __future__ import annotations

import os
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, TextIO

from rich.console import Console, ConsoleDimensions, Group, RenderableType
from rich.live import Live
from rich.text import Text

from gr_cli.console import Bar, Bars, duration, fitting, in_short, percent, shortened, show_sweep
from gr_cli.errors import one_line

if TYPE_CHECKING:
    from gr_cli.cli.sweep import Tally
    from gr_cli.results.progress import Watched

_STYLES = {"running": "bold", "finished": "green", "failed": "red", "killed": "red", "interrupted": "yellow"}


class Board:
    """Shows runs in a table that is renewed."""

    def __init__(self, console: Console | None = None) -> None:
        self._console = console or Console(highlight=False)
        self._live = Live(console=self._console, auto_refresh=False, vertical_overflow="crop")

    def __enter__(self) -> Board:
        self._live.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._live.stop()

    def show(self, summary: str, runs: Sequence[Watched]) -> None:
        """What became of the runs by now, the most interesting ones first."""
        self._live.update(self._table(summary, runs), refresh=True)

    def _table(self, summary: str, runs: Sequence[Watched]) -> RenderableType:
        why = [run for run in runs if run.reason][:3]
        room = max(3, self._console.height - 4 - len(why))  # counts, heads, what is left out, and the cursor

        def rows(width: int) -> list[dict[str, RenderableType]]:
            cells: list[dict[str, RenderableType]] = []
            for run in runs[:room]:
                at = run.progress
                cells.append(
                    {
                        "run": Text(shortened(run.name, max(16, width - 52))),
                        "state": Text(run.state, style=_STYLES.get(run.state, "dim")),
                        "task": Text(f"{at['task']}/{at['tasks']}" if at else ""),
                        "iteration": Text(f"{at['iteration']:,}/{at['iterations']:,}" if at else ""),
                        "accuracy": Text("" if run.accuracy is None else f"{percent(run.accuracy)} %"),
                        "time": Text(duration(run.seconds)),
                        "left": Text(duration(run.left)),
                    }
                )
            return cells

        numbers = ("task", "iteration", "accuracy", "time", "left")
        parts: list[RenderableType] = [Text(summary, style="bold")]
        parts.append(fitting(self._console, rows, ("iteration", "time", "task"), numbers, headed=True))
        if len(runs) > room:
            parts.append(Text(f"and {len(runs) - room} more", style="dim"))
        for run in why:
            told = Text(
                f"{shortened(run.name, 28)}: {one_line(run.reason)}", style="red", no_wrap=True, overflow="ellipsis"
            )
            parts.append(told)
        return Group(*parts)


class Course:
    """Shows how a sweep goes on in other processes: a bar for all of it, one for each run or program under way, and
    lines above these. `terminal`: where."""

    def __init__(self, terminal: TextIO) -> None:
        self._console = _Aside(file=terminal, highlight=False, soft_wrap=True)
        self._measure()
        self._sweep = Bar("all runs")
        self._bars = Bars(self._console, [self._sweep], redirected=False)

    def __enter__(self) -> Course:
        self._bars.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._bars.stop()

    def say(self, line: str) -> None:
        """A line that stays."""
        self._console.print(Text.from_ansi(line))

    def show(self, tally: Tally, running: Sequence[Watched]) -> None:
        """How far the sweep is, and what is under way."""
        self._measure()
        programs: dict[str | Path, list[Watched]] = {}
        for run in running:
            programs.setdefault(run.program or run.path, []).append(run)
        room = max(1, self._console.height - 4)  # the sweep, what is left out, and the cursor
        bars = [_bar(runs) for runs in list(programs.values())[:room]]
        if len(programs) > room:
            bars.append(Bar(f"and {len(programs) - room} more"))
        show_sweep(self._sweep, tally, sum(run.share for run in running))
        self._bars.bars = [self._sweep, *bars]

    def _measure(self) -> None:
        """Take the size of this terminal: rich would ask for that of stdin, which may be something else."""
        with suppress(OSError):
            self._console.size = ConsoleDimensions(*os.get_terminal_size(self._console.file.fileno()))


def _bar(runs: Sequence[Watched]) -> Bar:
    """Runs under way that are trained as one, or one alone."""
    run, known = runs[0], [run.accuracy for run in runs if run.accuracy is not None]
    bar, at = Bar(in_short([run.path for run in runs]), run.share, 1.0), run.progress
    if at:
        bar.texts |= {
            "stage": f"task {at['task']}/{at['tasks']}" if at["tasks"] > 1 else "",
            "left": duration(run.left),
        }
    if known:
        bar.texts |= {"losses": f"{percent(sum(known) / len(known))} % so far"}
    return bar


class _Aside(Console):
    """A console on a terminal that is no longer where this process itself writes."""

    def show_cursor(self, show: bool = True) -> bool:
        """Never hide it: however this process ends, the terminal is left as it was."""
        return True
