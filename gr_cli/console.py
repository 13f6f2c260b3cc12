"""The terminal: the only place that knows rich. Live on a terminal, quiet and plain elsewhere."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from time import monotonic

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

from gr_cli.assembly import Experiment
from gr_cli.learner import Losses
from gr_cli.results.metrics import Row
from gr_cli.results.record import Result
from gr_cli.settings import Settings
from gr_cli.strategies.base import Position
from gr_cli.view import View

_SECONDS_BETWEEN_LOOKS = 0.25  # reading a loss waits for the device, so do it a few times a second at most


class Terminal(View):
    """Shows a run on `console`."""

    def __init__(self, console: Console | None = None) -> None:
        self._console = console or Console(highlight=False, soft_wrap=True)
        self._progress: Progress | None = None
        self._looked = 0.0
        self._stage = ""

    def started(self, experiment: Experiment, folder: Path, steps: Sequence[int], done: tuple[int, int]) -> None:
        settings, tasks = experiment.settings, experiment.benchmark.tasks
        self._say(settings.title, style="bold")
        counts = " · ".join(f"{name} {number:,} parameters" for name, number in experiment.parameters.items())
        self._say(
            f"{len(tasks)} tasks · {counts} · {experiment.learner.device} · {_plural(experiment.threads, 'thread')}"
        )
        self._say(str(folder), style="dim")
        self._steps, self._stages = list(steps), len(steps)
        self._batch = settings.config["train"]["batch_size"]
        finished = sum(steps[: done[0]]) + done[1]
        if finished:
            self._say(f"going on after {finished:,} of {sum(steps):,} iterations")
        if self._console.is_terminal:
            self._progress = Progress(
                TextColumn("[bold]{task.description}"),
                BarColumn(bar_width=24),
                TextColumn("{task.fields[step]}"),
                TimeRemainingColumn(compact=True),
                TextColumn("{task.fields[losses]}", style="dim"),
                console=self._console,
                transient=True,
                refresh_per_second=5,
            )
            self._bar = self._progress.add_task("", total=sum(steps), completed=finished, step="", losses="")
            self._progress.start()
        self._looked, self._seen = monotonic(), finished

    def stage_started(self, number: int, name: str) -> None:
        self._stage = f"task {number + 1}/{self._stages} ({name})" if self._stages > 1 else name

    def stepped(self, number: int, position: Position, losses: Losses) -> None:
        now = monotonic()
        if self._progress is None or now - self._looked < _SECONDS_BETWEEN_LOOKS:
            return
        done = sum(self._steps[:number]) + position.iteration + 1
        rate = (done - self._seen) / (now - self._looked) * self._batch
        self._looked, self._seen = now, done
        shown = "  ".join(f"{name} {float(value):.3f}" for name, value in losses.items() if name != "total")
        self._progress.update(
            self._bar,
            completed=done,
            description=self._stage,
            step=f"{position.iteration + 1:,}/{self._steps[number]:,}  {rate:,.0f} samples/s",
            losses=shown,
        )

    def stage_finished(self, number: int, name: str, accuracies: Row) -> None:
        shown = " ".join(f"{_percent(accuracy):>5}" for accuracy in accuracies)
        self._say(f"after {self._stage}: {shown} %")

    def finished(self, experiment: Experiment, result: Result) -> None:
        self.close()
        self._show(result, [task.name for task in experiment.benchmark.tasks])

    def stored(self, settings: Settings, result: Result) -> None:
        self._say(f"{settings.title}: finished before; this is what it found (fresh=true runs it again)", style="bold")
        self._show(result, None)

    def close(self) -> None:
        if self._progress is not None:
            self._progress.stop()
            self._progress = None

    # --- parts

    def _say(self, line: str, style: str = "") -> None:
        self._console.print(Text(line, style=style))

    def _show(self, result: Result, names: Sequence[str] | None) -> None:
        rows = {after: accuracies for after, accuracies in result.record.rows().items() if after >= 0}
        width = max(map(len, rows.values()))
        names = names or [str(i) for i in range(width)]
        if width <= 20:
            table = Table(title="test accuracy (%)", title_justify="left", title_style="")
            table.add_column("after task", justify="right")
            for i, name in enumerate(names):
                table.add_column(f"{i}: {name}" if name != str(i) else name, justify="right")
            for after, accuracies in rows.items():
                cells = [Text(_percent(a), style="" if j <= after else "dim") for j, a in enumerate(accuracies)]
                table.add_row(str(after), *cells)
            self._console.print(table)
        shown = {
            name: value for name, value in result.metrics.items() if value is not None and "parameters" not in name
        }
        longest = max(map(len, shown))
        for name, value in shown.items():
            self._say(f"{name.replace('_', ' '):<{longest}}  {100 * value:6.2f} %")
        self._say(f"everything is in {result.folder}")


def _percent(value: float | None) -> str:
    return "–" if value is None else f"{100 * value:.1f}"


def _plural(number: int, word: str) -> str:
    return f"{number} {word}" if number == 1 else f"{number} {word}s"
