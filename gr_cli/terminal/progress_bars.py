"""Progress bars of runs and sweeps."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Literal

from rich.console import Console
from rich.progress import BarColumn, Progress, ProgressColumn, TaskID, TextColumn

from gr_cli.terminal.format import format_duration, truncate_left

if TYPE_CHECKING:
    from gr_cli.terminal.sweep_progress import SweepProgress

_FIELDS = ("label", "stage", "name", "count", "rate", "left", "losses")


def _text_column(name: str, style: str = "none", justify: Literal["left", "right"] = "left") -> TextColumn:
    return TextColumn(f"{{task.fields[{name}]}}", style, justify, markup=False)


class ProgressBars(Progress):
    """Transient progress bars; other output is printed above them.

    The width of the console decides which columns are shown.

    Args:
        console: Console of the bars.
        several: Whether there are several bars, which then have labels.
    """

    def __init__(self, console: Console, several: bool) -> None:
        width = console.width
        self._label_width = max(16, width // 3)
        available = width - self._label_width if several else width
        bar = BarColumn(24 if width >= 100 else 14 if width > 70 else 8)
        # Columns with the least width of a line in which they are shown.
        columns: list[tuple[int, ProgressColumn]] = [
            (0, _text_column("stage", "bold")),
            (76, _text_column("name")),
            (0, bar),
            (0, _text_column("count", justify="right")),
            (92, _text_column("rate", justify="right")),
            (0, _text_column("left", justify="right")),
            (147, _text_column("losses", "dim")),
        ]
        shown: list[ProgressColumn] = [_text_column("label")] if several else []
        shown += [column for least, column in columns if available >= least]
        # Redirect stderr only if it is a terminal, not a file.
        super().__init__(
            *shown, console=console, transient=True, refresh_per_second=5, redirect_stderr=sys.stderr.isatty()
        )

    def add(self, label: str, total: float | None = None, done: float = 0.0) -> TaskID:
        """Add a bar. Without `total` its length is unknown."""
        texts = dict.fromkeys(_FIELDS, "") | {"label": truncate_left(label, self._label_width)}
        return self.add_task("", total=total, completed=done, **texts)  # type: ignore[arg-type]

    def update_sweep(
        self, bar: TaskID, progress: SweepProgress, active_jobs_done: float, more_ended: int = 0, more_failed: int = 0
    ) -> None:
        """Update the bar of a sweep.

        Args:
            bar: The bar.
            progress: Counts of the sweep.
            active_jobs_done: Completed part of the active jobs, in jobs.
            more_ended: Ended jobs that `progress` does not count yet.
            more_failed: Failed jobs that `progress` does not count yet.
        """
        self.update(
            bar,
            completed=progress.ended + more_ended + active_jobs_done,
            total=progress.total,
            stage=f"{progress.failed + more_failed} failed" if progress.failed + more_failed else "",
            count=f"{progress.ended + more_ended}/{progress.total}"
            if progress.total
            else f"{progress.ended + more_ended}",
            left=format_duration(progress.seconds_left(more_ended + active_jobs_done)),
        )
