"""A run as it is shown: live on a terminal, quiet and plain elsewhere."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from time import monotonic
from typing import TYPE_CHECKING

from rich.console import Console
from rich.table import Table
from rich.text import Text

from gr_cli.errors import GrError, one_line
from gr_cli.results.metrics import Row
from gr_cli.system.messages import tell_failure
from gr_cli.terminal.bars import Bars
from gr_cli.terminal.format import duration, in_short, mean, percent, plural
from gr_cli.training.observer import View

if TYPE_CHECKING:
    from gr_cli.config.settings import Settings
    from gr_cli.evaluation.inspection import Inspection
    from gr_cli.results.record import Result
    from gr_cli.strategies.steps import Position
    from gr_cli.terminal.sweep_progress import Tally
    from gr_cli.training.experiment import Experiment
    from gr_cli.training.learner import Losses
    from gr_cli.training.stages import Place

_FEW = 20  # tasks each of which there is room for
_SECONDS_BETWEEN_LOOKS = 0.25  # reading a loss waits for the device, so do it a few times a second at most


class Terminal(View):
    """Shows a run on `console`; not `live` in a few lines that may stand between those of other runs. A job of the
    sweep that `tally` counts leaves one line. Not `kept`: the folder of the run is thrown away."""

    def __init__(
        self, console: Console | None = None, live: bool = True, tally: Tally | None = None, kept: bool = True
    ) -> None:
        self._live, self._tally, self._kept = live, tally if live else None, kept
        self._console = console or Console(highlight=False, soft_wrap=True)
        self._bars: Bars | None = None
        self._over = self._failed = 0  # of the runs that this terminal shows
        self._stage = ""

    def started(
        self, experiments: Sequence[Experiment], folders: Sequence[Path], steps: Sequence[int], done: Place
    ) -> None:
        self._runs, self._steps, self._stages = len(experiments), list(steps), len(steps)
        if not self._live:
            for folder in folders:
                self._say(f"begins: {folder}")
            return
        self._batch = experiments[0].settings.config["train"]["batch_size"] * self._runs
        finished = sum(steps[: done.stage]) + done.iteration
        self._began = self._looked = monotonic()
        self._first = self._seen = finished
        if self._tally is not None:
            self._tally.begin()
        if self._tally is None or not self._console.is_terminal:
            self._introduce(experiments[0], folders, finished)
        if self._console.is_terminal:
            self._bars = Bars(self._console, several=self._tally is not None)
            if self._tally is not None:
                self._sweep = self._bars.add("all runs")
            self._run = self._bars.add(in_short(folders), sum(steps), finished)
            self._advance(finished)
            self._bars.start()

    def stage_started(self, number: int, names: Sequence[str]) -> None:
        name = one_line(names[0]) if len(set(names)) == 1 else "in an order of each run's own"
        place, beside = (f"task {number + 1}/{self._stages}", f"({name})") if self._stages > 1 else (name, "")
        self._stage = f"{place} {beside}".rstrip()
        if self._bars is not None:
            self._bars.update(self._run, stage=place, name=beside)

    def stepped(self, number: int, position: Position, losses: Losses) -> None:
        now = monotonic()
        if self._bars is None or now - self._looked < _SECONDS_BETWEEN_LOOKS:
            return
        done = sum(self._steps[:number]) + position.iteration + 1
        rate = (done - self._seen) / (now - self._looked) * self._batch
        self._looked, of = now, f"{self._steps[number]:,}"
        seconds = (now - self._began) / max(1, done - self._first) * (sum(self._steps) - done)
        means = {name: float(value.nanmean()) for name, value in losses.items() if name != "total"}
        self._bars.update(
            self._run,
            count=f"{position.iteration + 1:>{len(of)},}/{of}",  # as wide as it will be: columns shall not move
            rate=f"{rate:,.0f} samples/s",
            left=duration(seconds),
            losses="  ".join(f"{name} {value:.3f}" for name, value in means.items()),
        )
        self._advance(done)

    def stage_finished(self, number: int, accuracies: Sequence[Row]) -> None:
        if not self._live or (self._tally is not None and self._console.is_terminal):
            return
        means = list(map(mean, zip(*accuracies, strict=True)))
        shown = " ".join(f"{percent(mean):>5}" for mean in means) + " %"
        if len(means) > _FEW:
            shown = f"{percent(mean(means))} % on average"
            if self._stages > 1:
                shown = f"{percent(means[number])} %, all so far {percent(mean(means[: number + 1]))} % on average"
        whose = "" if self._runs == 1 else f", mean of {len(accuracies)} runs"
        self._say(f"after {self._stage}{whose}: {shown}")

    def failed(self, folder: Path, error: GrError) -> None:
        self._failed += 1
        if self._bars is not None:
            self._advance(self._seen)
        tell_failure(folder, error)

    def finished(self, experiments: Sequence[Experiment], outcomes: Sequence[Result | GrError]) -> None:
        if self._live and any(not isinstance(outcome, GrError) for outcome in outcomes):
            self._advance(sum(self._steps))
        self._over += len(outcomes)
        self.close()
        for outcome in outcomes:
            if isinstance(outcome, GrError):
                continue
            if len(outcomes) == 1 and self._live and self._tally is None:
                self._show(outcome, [task.name for task in experiments[0].benchmark.tasks])
            else:
                self._say(f"finished, {percent(outcome.metrics['average_accuracy']):>5} %: {outcome.folder}")

    def stored(self, settings: Settings, result: Result) -> None:
        self._over += 1
        if not self._live or self._tally is not None:
            self._say(f"finished before, {percent(result.metrics['average_accuracy'])} %: {result.folder}")
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
            table.add_row(*(Text(one_line(cell)) for cell in cells))
        self._console.print(table)
        for warning in found.warnings:
            self._say(f"warning: {warning}", style="yellow")
        where = f"samples of each task are drawn in {found.picture}"
        self._say(where if found.picture else "samples are no images: there is no picture")

    def close(self) -> None:
        if self._bars is not None:
            self._bars.stop()
            self._bars = None

    # --- parts

    def _introduce(self, experiment: Experiment, folders: Sequence[Path], finished: int) -> None:
        """What begins, or goes on after so many `finished` iterations."""
        title, place = experiment.settings.title, ""
        if self._tally is not None:
            first = self._tally.over + self._over + 1
            numbers = f"{first}" if self._runs == 1 else f"{first} to {first + self._runs - 1}"
            place = f"{numbers} of {self._tally.total}: " if self._tally.total else f"{numbers}: "
        if self._runs == 1:
            self._say(f"{place}{title}", style="bold")
        else:
            self._say(f"{place}{self._runs} runs as one program, the first: {title}", style="bold")
        if self._tally is None:
            counts = " · ".join(f"{name} {number:,} parameters" for name, number in experiment.parameters.items())
            threads = plural(experiment.threads, "thread")
            tasks = plural(len(experiment.benchmark.tasks), "task")
            self._say(f"{tasks} · {counts} · {experiment.learner.device} · {threads}")
            if self._kept:
                self._say(str(folders[0]) if self._runs == 1 else f"{folders[0]}, ...", style="dim")
        if finished:
            self._say(f"going on after {finished:,} of {sum(self._steps):,} iterations")

    def _advance(self, done: int) -> None:
        """So many steps are done of the runs under way; the sweep's bar says what that is of all its runs."""
        steps = max(1, sum(self._steps))  # there are none where nothing is learnt by steps
        share, more = done / steps, (done - self._seen) / steps
        self._seen = done
        if self._tally is not None:
            self._tally.trained += self._runs * more
        if self._bars is not None:
            self._bars.update(self._run, completed=done)
            if self._tally is not None:
                self._bars.show_sweep(self._sweep, self._tally, self._runs * share, self._over, self._failed)

    def _say(self, line: str, style: str = "") -> None:
        self._console.print(Text(one_line(line), style=style))

    def _show(self, result: Result, names: Sequence[str] | None) -> None:
        rows = {after: accuracies for after, accuracies in result.record.rows().items() if after >= 0}
        width = max(map(len, rows.values()))
        names = list(map(one_line, names)) if names else [str(i) for i in range(width)]
        if width <= _FEW:
            table = Table(title="test accuracy (%)", title_justify="left", title_style="")
            table.add_column("after task", justify="right")
            for i, name in enumerate(names):
                # Brackets in a name are no markup.
                table.add_column(Text(f"{i}: {name}" if name != str(i) else name), justify="right")
            for after, accuracies in rows.items():
                cells = [Text(percent(a), style="" if j <= after else "dim") for j, a in enumerate(accuracies)]
                table.add_row(str(after), *cells)
            self._console.print(table)
        shown = {
            name: value for name, value in result.metrics.items() if value is not None and "parameters" not in name
        }
        longest, fractions = max(map(len, shown)), result.record.fractions
        for name, value in shown.items():
            shown_value = f"{100 * value:6.2f} %" if name in fractions else f"{value:6.2f}"
            self._say(f"{name.replace('_', ' '):<{longest}}  {shown_value}")
        if self._kept:
            self._say(f"everything is in {result.folder}")
