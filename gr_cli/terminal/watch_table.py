"""What a terminal shows of runs that other processes train."""

from __future__ import annotations

from collections.abc import Sequence
from types import TracebackType
from typing import TYPE_CHECKING

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.text import Text

from gr_cli.errors import one_line
from gr_cli.terminal.bars import fitting
from gr_cli.terminal.format import duration, percent, shortened

if TYPE_CHECKING:
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
