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
from gr_cli.checkpoints import Place
from gr_cli.errors import GrError
from gr_cli.inspection import Inspection
from gr_cli.learner import Losses
from gr_cli.results.metrics import FRACTIONS, Row
from gr_cli.results.record import Result
from gr_cli.settings import Settings
from gr_cli.strategies.base import Position
from gr_cli.view import View

_SECONDS_BETWEEN_LOOKS = 0.25  # reading a loss waits for the device, so do it a few times a second at most


class Terminal(View):
    """Shows a run on `console`; not `live` in a few lines that may stand between those of other runs."""

    def __init__(self, console: Console | None = None, live: bool = True) -> None:
        self._live = live
        self._console = console or Console(highlight=False, soft_wrap=True)
        self._progress: Progress | None = None
        self._looked = 0.0
        self._stage = ""

    def started(
        self, experiments: Sequence[Experiment], folders: Sequence[Path], steps: Sequence[int], done: Place
    ) -> None:
        experiment, self._runs = experiments[0], len(experiments)
        settings, tasks = experiment.settings, experiment.benchmark.tasks
        if not self._live:
            self._steps, self._stages = list(steps), len(steps)
            for folder in folders:
                self._say(f"begins: {folder}")
            return
        if self._runs == 1:
            self._say(settings.title, style="bold")
        else:
            self._say(f"{self._runs} runs as one program, the first: {settings.title}", style="bold")
        counts = " · ".join(f"{name} {number:,} parameters" for name, number in experiment.parameters.items())
        self._say(
            f"{len(tasks)} tasks · {counts} · {experiment.learner.device} · {_plural(experiment.threads, 'thread')}"
        )
        for folder in folders[:1]:
            self._say(str(folder) if self._runs == 1 else f"{folder}, ...", style="dim")
        self._steps, self._stages = list(steps), len(steps)
        self._batch = settings.config["train"]["batch_size"] * self._runs
        finished = sum(steps[: done.stage]) + done.iteration
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

    def stage_started(self, number: int, names: Sequence[str]) -> None:
        name = names[0] if len(set(names)) == 1 else "in an order of each run's own"
        self._stage = f"task {number + 1}/{self._stages} ({name})" if self._stages > 1 else name

    def stepped(self, number: int, position: Position, losses: Losses) -> None:
        now = monotonic()
        if self._progress is None or now - self._looked < _SECONDS_BETWEEN_LOOKS:
            return
        done = sum(self._steps[:number]) + position.iteration + 1
        rate = (done - self._seen) / (now - self._looked) * self._batch
        self._looked, self._seen = now, done
        shown = "  ".join(f"{name} {float(value.nanmean()):.3f}" for name, value in losses.items() if name != "total")
        self._progress.update(
            self._bar,
            completed=done,
            description=self._stage,
            step=f"{position.iteration + 1:,}/{self._steps[number]:,}  {rate:,.0f} samples/s",
            losses=shown,
        )

    def stage_finished(self, number: int, accuracies: Sequence[Row]) -> None:
        if not self._live:
            return
        shown = " ".join(f"{_percent(mean):>5}" for mean in map(_mean, zip(*accuracies, strict=True)))
        whose = "" if self._runs == 1 else f", mean of {len(accuracies)} runs"
        self._say(f"after {self._stage}{whose}: {shown} %")

    def finished(self, experiments: Sequence[Experiment], outcomes: Sequence[Result | GrError]) -> None:
        self.close()
        if len(outcomes) == 1 and isinstance(outcomes[0], Result) and self._live:
            self._show(outcomes[0], [task.name for task in experiments[0].benchmark.tasks])
            return
        for outcome in outcomes:
            if isinstance(outcome, Result):
                self._say(f"finished, {_percent(outcome.metrics['average_accuracy']):>5} %: {outcome.folder}")

    def stored(self, settings: Settings, result: Result) -> None:
        if not self._live:
            self._say(f"finished before, {_percent(result.metrics['average_accuracy'])} %: {result.folder}")
            return
        self._say(f"{settings.title}: finished before; this is what it found (fresh=true runs it again)", style="bold")
        self._show(result, None)

    def show_inspection(self, found: Inspection) -> None:
        """What a benchmark holds."""
        self._say(found.title, style="bold")
        self._say(" · ".join(found.facts))
        held_out = any(task.validation for task in found.tasks)
        table = Table()
        for name in ("task", "classes", "train", *(["validation"] if held_out else []), "test", "values"):
            table.add_column(name, justify="left" if name == "classes" else "right")
        for i, task in enumerate(found.tasks):
            counts = [task.train, *([task.validation] if held_out else []), task.test]
            cells = [str(i), task.classes, *(f"{count:,}" for count in counts), f"{task.low:.4g} to {task.high:.4g}"]
            table.add_row(*(Text(cell) for cell in cells))
        self._console.print(table)
        for warning in found.warnings:
            self._say(f"warning: {warning}", style="yellow")
        where = f"samples of each task are drawn in {found.picture}"
        self._say(where if found.picture else "samples are no images: there is no picture")

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
            shown_value = f"{100 * value:6.2f} %" if name in FRACTIONS else f"{value:6.2f}"
            self._say(f"{name.replace('_', ' '):<{longest}}  {shown_value}")
        self._say(f"everything is in {result.folder}")


def _percent(value: float | None) -> str:
    return "–" if value is None else f"{100 * value:.1f}"


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known else None


def _plural(number: int, word: str) -> str:
    return f"{number} {word}" if number == 1 else f"{number} {word}s"
