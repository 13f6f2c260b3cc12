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
from gr_cli.results.metrics import MatrixRow
from gr_cli.system.messages import print_failure
from gr_cli.terminal.format import active_runs_label, format_duration, format_percent, mean_of_known, with_plural
from gr_cli.terminal.progress_bars import ProgressBars
from gr_cli.training.observer import RunObserver

if TYPE_CHECKING:
    from gr_cli.config.settings import Settings
    from gr_cli.evaluation.inspection import Inspection
    from gr_cli.results.record import Result
    from gr_cli.strategies.context import TrainingStep
    from gr_cli.terminal.sweep_progress import SweepProgress
    from gr_cli.training.experiment import Experiment
    from gr_cli.training.learner import Losses
    from gr_cli.training.stages import ResumePoint

_MAX_TASK_COLUMNS = 20  # tasks each of which there is room for
_UPDATE_SECONDS = 0.25  # reading a loss waits for the device, so do it a few times a second at most


class TerminalObserver(RunObserver):
    """Shows a run on `console`; not `live` in a few lines that may stand between those of other runs. A job of the
    sweep that `tally` counts leaves one line. Not `kept`: the folder of the run is thrown away."""

    def __init__(
        self,
        console: Console | None = None,
        live: bool = True,
        sweep_progress: SweepProgress | None = None,
        keeps_folder: bool = True,
    ) -> None:
        self._live, self._sweep_progress, self._keeps_folder = live, sweep_progress if live else None, keeps_folder
        self._console = console or Console(highlight=False, soft_wrap=True)
        self._bars: ProgressBars | None = None
        self._ended = self._failed = 0  # of the runs that this terminal shows
        self._stage_label = ""

    def started(
        self,
        experiments: Sequence[Experiment],
        folders: Sequence[Path],
        steps: Sequence[int],
        resume_point: ResumePoint,
    ) -> None:
        self._num_runs, self._stage_iterations, self._num_stages = len(experiments), list(steps), len(steps)
        if not self._live:
            for folder in folders:
                self._print(f"begins: {folder}")
            return
        self._samples_per_step = experiments[0].settings.config["train"]["batch_size"] * self._num_runs
        finished = sum(steps[: resume_point.stage]) + resume_point.iteration
        self._started_at = self._last_update = monotonic()
        self._resumed_at = self._steps_done = finished
        if self._sweep_progress is not None:
            self._sweep_progress.start_timing()
        if self._sweep_progress is None or not self._console.is_terminal:
            self._print_header(experiments[0], folders, finished)
        if self._console.is_terminal:
            self._bars = ProgressBars(self._console, several=self._sweep_progress is not None)
            if self._sweep_progress is not None:
                self._sweep_bar = self._bars.add("all runs")
            self._run_bar = self._bars.add(active_runs_label(folders), sum(steps), finished)
            self._update_bars(finished)
            self._bars.start()

    def stage_started(self, stage_index: int, names: Sequence[str]) -> None:
        name = one_line(names[0]) if len(set(names)) == 1 else "in an order of each run's own"
        place, beside = (
            (f"task {stage_index + 1}/{self._num_stages}", f"({name})") if self._num_stages > 1 else (name, "")
        )
        self._stage_label = f"{place} {beside}".rstrip()
        if self._bars is not None:
            self._bars.update(self._run_bar, stage=place, name=beside)

    def stepped(self, stage_index: int, step: TrainingStep, losses: Losses) -> None:
        now = monotonic()
        if self._bars is None or now - self._last_update < _UPDATE_SECONDS:
            return
        done = sum(self._stage_iterations[:stage_index]) + step.iteration + 1
        rate = (done - self._steps_done) / (now - self._last_update) * self._samples_per_step
        self._last_update, of = now, f"{self._stage_iterations[stage_index]:,}"
        seconds = (now - self._started_at) / max(1, done - self._resumed_at) * (sum(self._stage_iterations) - done)
        means = {name: float(value.nanmean()) for name, value in losses.items() if name != "total"}
        self._bars.update(
            self._run_bar,
            count=f"{step.iteration + 1:>{len(of)},}/{of}",  # as wide as it will be: columns shall not move
            rate=f"{rate:,.0f} samples/s",
            left=format_duration(seconds),
            losses="  ".join(f"{name} {value:.3f}" for name, value in means.items()),
        )
        self._update_bars(done)

    def stage_finished(self, stage_index: int, accuracies: Sequence[MatrixRow]) -> None:
        if not self._live or (self._sweep_progress is not None and self._console.is_terminal):
            return
        means = list(map(mean_of_known, zip(*accuracies, strict=True)))
        shown = " ".join(f"{format_percent(mean):>5}" for mean in means) + " %"
        if len(means) > _MAX_TASK_COLUMNS:
            shown = f"{format_percent(mean_of_known(means))} % on average"
            if self._num_stages > 1:
                so_far = format_percent(mean_of_known(means[: stage_index + 1]))
                shown = f"{format_percent(means[stage_index])} %, all so far {so_far} % on average"
        whose = "" if self._num_runs == 1 else f", mean of {len(accuracies)} runs"
        self._print(f"after {self._stage_label}{whose}: {shown}")

    def failed(self, folder: Path, error: GrError) -> None:
        self._failed += 1
        if self._bars is not None:
            self._update_bars(self._steps_done)
        print_failure(folder, error)

    def finished(self, experiments: Sequence[Experiment], outcomes: Sequence[Result | GrError]) -> None:
        if self._live and any(not isinstance(outcome, GrError) for outcome in outcomes):
            self._update_bars(sum(self._stage_iterations))
        self._ended += len(outcomes)
        self.close()
        for outcome in outcomes:
            if isinstance(outcome, GrError):
                continue
            if len(outcomes) == 1 and self._live and self._sweep_progress is None:
                self._print_result(outcome, [task.name for task in experiments[0].benchmark.tasks])
            else:
                self._print(f"finished, {format_percent(outcome.metrics['average_accuracy']):>5} %: {outcome.folder}")

    def already_finished(self, settings: Settings, result: Result) -> None:
        self._ended += 1
        if not self._live or self._sweep_progress is not None:
            self._print(f"finished before, {format_percent(result.metrics['average_accuracy'])} %: {result.folder}")
            return
        self._print(
            f"{settings.title}: finished before; this is what it found (fresh=true runs it again)", style="bold"
        )
        self._print_result(result, None)

    def show_inspection(self, found: Inspection) -> None:
        """What a benchmark holds."""
        self._print(found.title, style="bold")
        self._print(" · ".join(found.properties))
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
            self._print(f"warning: {warning}", style="yellow")
        where = f"samples of each task are drawn in {found.picture}"
        self._print(where if found.picture else "samples are no images: there is no picture")

    def close(self) -> None:
        if self._bars is not None:
            self._bars.stop()
            self._bars = None

    # --- parts

    def _print_header(self, experiment: Experiment, folders: Sequence[Path], iterations_done: int) -> None:
        """What begins, or goes on after so many `finished` iterations."""
        title, place = experiment.settings.title, ""
        if self._sweep_progress is not None:
            first = self._sweep_progress.ended + self._ended + 1
            numbers = f"{first}" if self._num_runs == 1 else f"{first} to {first + self._num_runs - 1}"
            place = f"{numbers} of {self._sweep_progress.total}: " if self._sweep_progress.total else f"{numbers}: "
        if self._num_runs == 1:
            self._print(f"{place}{title}", style="bold")
        else:
            self._print(f"{place}{self._num_runs} runs as one program, the first: {title}", style="bold")
        if self._sweep_progress is None:
            counts = " · ".join(f"{name} {number:,} parameters" for name, number in experiment.parameters.items())
            threads = with_plural(experiment.threads, "thread")
            tasks = with_plural(len(experiment.benchmark.tasks), "task")
            self._print(f"{tasks} · {counts} · {experiment.learner.device} · {threads}")
            if self._keeps_folder:
                self._print(str(folders[0]) if self._num_runs == 1 else f"{folders[0]}, ...", style="dim")
        if iterations_done:
            self._print(f"going on after {iterations_done:,} of {sum(self._stage_iterations):,} iterations")

    def _update_bars(self, steps_done: int) -> None:
        """So many steps are done of the runs under way; the sweep's bar says what that is of all its runs."""
        steps = max(1, sum(self._stage_iterations))  # there are none where nothing is learnt by steps
        share, more = steps_done / steps, (steps_done - self._steps_done) / steps
        self._steps_done = steps_done
        if self._sweep_progress is not None:
            self._sweep_progress.trained_jobs += self._num_runs * more
        if self._bars is not None:
            self._bars.update(self._run_bar, completed=steps_done)
            if self._sweep_progress is not None:
                self._bars.update_sweep(
                    self._sweep_bar, self._sweep_progress, self._num_runs * share, self._ended, self._failed
                )

    def _print(self, line: str, style: str = "") -> None:
        self._console.print(Text(one_line(line), style=style))

    def _print_result(self, result: Result, names: Sequence[str] | None) -> None:
        rows = {after: accuracies for after, accuracies in result.record.accuracy_by_training().items() if after >= 0}
        width = max(map(len, rows.values()))
        names = list(map(one_line, names)) if names else [str(i) for i in range(width)]
        if width <= _MAX_TASK_COLUMNS:
            table = Table(title="test accuracy (%)", title_justify="left", title_style="")
            table.add_column("after task", justify="right")
            for i, name in enumerate(names):
                # Brackets in a name are no markup.
                table.add_column(Text(f"{i}: {name}" if name != str(i) else name), justify="right")
            for after, accuracies in rows.items():
                cells = [Text(format_percent(a), style="" if j <= after else "dim") for j, a in enumerate(accuracies)]
                table.add_row(str(after), *cells)
            self._console.print(table)
        shown = {
            name: value for name, value in result.metrics.items() if value is not None and "parameters" not in name
        }
        longest, fractions = max(map(len, shown)), result.record.fraction_metrics
        for name, value in shown.items():
            shown_value = f"{100 * value:6.2f} %" if name in fractions else f"{value:6.2f}"
            self._print(f"{name.replace('_', ' '):<{longest}}  {shown_value}")
        if self._keeps_folder:
            self._print(f"everything is in {result.folder}")
