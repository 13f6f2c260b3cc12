"""Progress bars."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from rich.console import Console, RenderableType
from rich.live import Live
from rich.measure import Measurement
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from gr_cli.terminal.format import duration, shortened

if TYPE_CHECKING:
    from gr_cli.terminal.sweep_progress import Tally


@dataclass
class Bar:
    """A bar with what stands beside it, by column. No `total`: nobody knows how long it will be."""

    label: str
    done: float = 0.0
    total: float | None = None
    texts: dict[str, str] = field(default_factory=dict)


def show_sweep(bar: Bar, tally: Tally, current: float, over: int = 0, failed: int = 0) -> None:
    """Let the bar of a sweep say how far it is: `over` jobs more than `tally` counts, and `failed` ones, and `current`
    jobs' worth of those under way."""
    bar.done, bar.total = tally.over + over + current, tally.total
    bar.texts |= {
        "stage": f"{tally.failed + failed} failed" if tally.failed + failed else "",
        "count": f"{tally.over + over}/{tally.total}" if tally.total else f"{tally.over + over}",
        "left": duration(tally.left(over + current)),
    }


class Bars:
    """Bars that are renewed until they are stopped, and are gone then. What is printed meanwhile comes above them."""

    def __init__(self, console: Console, bars: Sequence[Bar]) -> None:
        self._console, self.bars = console, bars
        self._live = Live(
            get_renderable=self._table,
            console=console,
            transient=True,
            refresh_per_second=5,
            vertical_overflow="crop",
            redirect_stderr=sys.stderr.isatty(),  # what goes to a file shall go there
        )
        self.start, self.stop = self._live.start, self._live.stop

    def _table(self) -> Table:
        return fitting(self._console, self._rows, ("losses", "rate", "name", "bar"), right=("count", "rate", "left"))

    def _rows(self, width: int) -> list[dict[str, RenderableType]]:
        """What stands in the columns, as far as it has to be cut for so many characters."""
        long = 24 if width >= 100 else 14 if width > 70 else 8
        return [
            {
                "label": Text(shortened(bar.label, max(16, width // 3))),
                "stage": Text(bar.texts.get("stage", ""), style="bold"),
                "name": Text(bar.texts.get("name", "")),
                "bar": ProgressBar(bar.total, bar.done, width=long, pulse=False),
                **{name: Text(bar.texts.get(name, "")) for name in ("count", "rate", "left")},
                "losses": Text(bar.texts.get("losses", ""), style="dim"),
            }
            for bar in self.bars
        ]


def fitting(
    console: Console,
    rows: Callable[[int], Sequence[Mapping[str, RenderableType]]],
    given_up: Sequence[str],
    right: Sequence[str] = (),
    headed: bool = False,
) -> Table:
    """Rows as a table of the columns in which anything stands, without the first ones of `given_up` if all of them are
    wider than the console."""
    cells = rows(console.width)
    names = [name for name in cells[0] if any(not isinstance(row[name], Text) or row[name] for row in cells)]
    for number in range(len(given_up) + 1):
        kept = [name for name in names if name not in given_up[:number]]
        table = Table(box=None, show_header=headed, padding=(0, 1, 0, 0), pad_edge=False, header_style="dim")
        for name in kept:
            table.add_column(name, justify="right" if name in right else "left", no_wrap=True)
        for row in cells:
            table.add_row(*(row[name] for name in kept))
        # Unlike `Console.measure`, without the console's width as a limit.
        if Measurement.get(console, console.options.update(width=1000), table).maximum <= console.width:
            break
    return table
