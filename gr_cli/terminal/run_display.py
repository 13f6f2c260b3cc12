"""The run observer of the terminal: progress bars on a terminal, plain lines elsewhere, results at the end."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from pathlib import Path
from time import monotonic
from typing import TYPE_CHECKING

from rich.console import Console
from rich.table import Table
from rich.text import Text

from gr_cli.errors import GrError, one_line
from gr_cli.results.folder import RunFolder, without_hash
from gr_cli.results.metrics import MatrixRow
from gr_cli.results.not_covered import EPSILON_METRICS, not_covered_files
from gr_cli.system.messages import print_failure
from gr_cli.terminal.format import active_runs_label, format_duration, format_percent, mean_of_known, with_plural
from gr_cli.terminal.notebook_bars import NotebookBars, is_notebook
from gr_cli.terminal.progress_bars import ProgressBars
from gr_cli.terminal.result_summary import accuracy_table, evaluation_tables, metrics_text
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

_UPDATE_SECONDS = 0.25  # least time between two updates: reading a loss waits for the device


class TerminalObserver(RunObserver):
    """Shows runs on a console. Runs of a sweep get one line each when they end.

    Tasks are numbered from 0, as in the tables of a run.

    Args:
        console: Console to print on; None: stdout.
        live: Whether to show progress; if not, two lines for each run, between which lines of other runs may stand.
        sweep_progress: Counter of the sweep that the runs belong to; None for a single run.
        keeps_folder: Whether the run's folder outlives the command, so that its path is worth printing.
        summary: Whether to print the results of a single run; if not, one line.
    """

    def __init__(
        self,
        console: Console | None = None,
        live: bool = True,
        sweep_progress: SweepProgress | None = None,
        keeps_folder: bool = True,
        summary: bool = True,
    ) -> None:
        self._live, self._sweep_progress, self._keeps_folder = live, sweep_progress if live else None, keeps_folder
        in_notebook = console is None and is_notebook()
        # Plain lines in a notebook: as HTML each would be an output of its own, and cursors can't be moved there.
        self._console = console or Console(
            highlight=False, soft_wrap=True, force_jupyter=False, force_terminal=False if in_notebook else None
        )
        self._has_bars = live and (self._console.is_terminal or in_notebook)
        self._shows_results = live and summary and sweep_progress is None
        self._bars: ProgressBars | None = None
        self._ended = self._failed = 0  # runs of this observer
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
        iterations_done = sum(steps[: resume_point.stage]) + resume_point.iteration
        self._started_at = self._last_update = monotonic()
        self._resumed_at = self._steps_done = iterations_done
        if self._sweep_progress is not None:
            self._sweep_progress.start_timing()
        if self._sweep_progress is None or not self._has_bars:
            self._print_header(experiments[0], folders, iterations_done)
        if self._has_bars:
            several = self._sweep_progress is not None
            self._bars = ProgressBars(self._console, several) if self._console.is_terminal else NotebookBars(several)
            if self._sweep_progress is not None:
                self._sweep_bar = self._bars.add("all runs")
            self._run_bar = self._bars.add(active_runs_label(folders), sum(steps), iterations_done)
            self._update_bars(iterations_done)
            self._bars.start()

    def stage_started(self, stage_index: int, names: Sequence[str]) -> None:
        self._stage_label = name = one_line(names[0]) if len(set(names)) == 1 else "other in each run"
        count = name
        if self._num_stages > 1:
            self._stage_label = f"task {stage_index} ({name})"
            count = f"{stage_index}/{self._num_stages} tasks"
        if self._bars is not None:
            self._bars.update(self._run_bar, stage=count, name=self._stage_label if self._num_stages > 1 else "")

    def stepped(self, stage_index: int, step: TrainingStep, losses: Losses) -> None:
        now = monotonic()
        if self._bars is None or now - self._last_update < _UPDATE_SECONDS:
            return
        done = sum(self._stage_iterations[:stage_index]) + step.iteration + 1
        rate = (done - self._steps_done) / (now - self._last_update) * self._samples_per_step
        self._last_update, iterations = now, f"{self._stage_iterations[stage_index]:,}"
        seconds = (now - self._started_at) / max(1, done - self._resumed_at) * (sum(self._stage_iterations) - done)
        means = {name: float(value.nanmean()) for name, value in losses.items() if name != "total"}
        self._bars.update(
            self._run_bar,
            count=f"{step.iteration + 1:>{len(iterations)},}/{iterations}",  # of constant width
            rate=f"{rate:,.0f} samples/s",
            left=format_duration(seconds),
            losses="  ".join(f"{name} {value:.3f}" for name, value in means.items()),
        )
        self._update_bars(done)

    def stage_finished(self, stage_index: int, accuracies: Sequence[MatrixRow]) -> None:
        if not self._live or (self._sweep_progress is not None and self._has_bars):
            return
        means = list(map(mean_of_known, zip(*accuracies, strict=True)))
        result = f"{format_percent(mean_of_known(means))} %"
        if self._num_stages > 1:
            result = f"{format_percent(means[stage_index])} %"
            if stage_index > 0:
                so_far = means[: stage_index + 1]
                evaluated = [mean for mean in so_far if mean is not None]
                complete = len(evaluated) == len(so_far)
                tasks = f"tasks 0 to {stage_index}" if complete else with_plural(len(evaluated), "evaluated task")
                result += f", mean of {tasks}: {format_percent(mean_of_known(so_far))} %"
        runs = "" if self._num_runs == 1 else f", mean of {len(accuracies)} runs"
        self._print(f"after {self._stage_label}{runs}: {result}")

    def failed(self, folder: Path, error: GrError) -> None:
        self._failed += error.run_state == "failed"
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
            if len(outcomes) == 1 and self._shows_results:
                self._print_result(outcome, [task.name for task in experiments[0].benchmark.tasks])
            else:
                self._print(f"finished, {format_percent(outcome.metrics['average_accuracy']):>5} %: {outcome.folder}")

    def already_finished(self, settings: Settings, result: Result) -> None:
        self._ended += 1
        if not self._shows_results:
            self._print(f"finished before, {format_percent(result.metrics['average_accuracy'])} %: {result.folder}")
            return
        self._print(f"{settings.title}: finished before; its results (fresh=true trains it again):", style="bold")
        self._print_result(result, None)

    def show_inspection(self, inspection: Inspection) -> None:
        """Print the summary of a benchmark that `inspect=true` asks for."""
        self._print(inspection.title, style="bold")
        self._print(" · ".join(inspection.properties))
        held_out = any(task.validation for task in inspection.tasks)
        table = Table()
        for name in ("task", "classes", "train", *(["validation"] if held_out else []), "test", "values"):
            table.add_column(name, justify="left" if name == "classes" else "right", overflow="fold")
        for i, task in enumerate(inspection.tasks):
            counts = [task.train, *([task.validation] if held_out else []), task.test]
            cells = [str(i), task.classes, *(f"{count:,}" for count in counts), f"{task.low:.4g} to {task.high:.4g}"]
            table.add_row(*(Text(one_line(cell)) for cell in cells))
        self._console.print(table, soft_wrap=False)
        for warning in inspection.warnings:
            self._print(f"warning: {warning}", style="yellow")
        if inspection.picture:
            self._print("samples of each task are drawn in")
            self._print(str(inspection.picture))
        else:
            self._print("samples are not images: there is no picture")

    def close(self) -> None:
        if self._bars is not None:
            self._bars.stop()
            self._bars = None

    def _print_header(self, experiment: Experiment, folders: Sequence[Path], iterations_done: int) -> None:
        """Print what is trained, and from which iteration on."""
        title, position = experiment.settings.title, ""
        if self._sweep_progress is not None:
            first = self._sweep_progress.ended + self._ended + 1
            numbers = f"{first}" if self._num_runs == 1 else f"{first} to {first + self._num_runs - 1}"
            position = f"{numbers} of {self._sweep_progress.total}: " if self._sweep_progress.total else f"{numbers}: "
        if self._num_runs == 1:
            self._print(f"{position}{title}", style="bold")
        else:
            self._print(f"{position}{self._num_runs} runs as one program, the first: {title}", style="bold")
        if self._sweep_progress is None:
            counts = " · ".join(f"{name} {number:,} parameters" for name, number in experiment.parameters.items())
            threads = with_plural(experiment.threads, "thread")
            tasks = with_plural(len(experiment.benchmark.tasks), "task")
            self._print(f"{tasks} · {counts} · {experiment.learner.device} · {threads}")
            if self._keeps_folder:
                self._print(str(folders[0]) if self._num_runs == 1 else f"{folders[0]}, ...", style="dim")
        if iterations_done:
            self._print(f"resumed after {iterations_done:,} of {sum(self._stage_iterations):,} iterations")

    def _update_bars(self, steps_done: int) -> None:
        """Set the bars of the active runs and of the sweep to `steps_done` steps of the active runs."""
        num_steps = max(1, sum(self._stage_iterations))  # 0 for strategies without gradient steps
        fraction, added_fraction = steps_done / num_steps, (steps_done - self._steps_done) / num_steps
        self._steps_done = steps_done
        if self._sweep_progress is not None:
            self._sweep_progress.trained_jobs += self._num_runs * added_fraction
        if self._bars is not None:
            self._bars.update(self._run_bar, completed=steps_done)
            if self._sweep_progress is not None:
                self._bars.update_sweep(
                    self._sweep_bar, self._sweep_progress, self._num_runs * fraction, self._ended, self._failed
                )

    def _print(self, line: str, style: str = "") -> None:
        """Print one line, whatever its width."""
        self._console.print(Text(one_line(line), style=style), soft_wrap=True)

    def _print_result(self, result: Result, names: Sequence[str] | None) -> None:
        """Print the accuracy matrix, the metrics, and where the results are."""
        for block in (accuracy_table(result, names, self._console), metrics_text(result), *evaluation_tables(result)):
            if block is not None:
                self._print("")
                self._console.print(block, soft_wrap=False)
        if self._keeps_folder:
            self._print("")
            self._print("results:")
            self._print(str(result.folder))
            self._print(f"compare runs: gr-report {shlex.quote(str(_folder_to_compare(result.folder)))}")
            claims = any(metric in result.metrics for metric in EPSILON_METRICS)
            if claims and (not_covered := not_covered_files(RunFolder(result.folder).status())):
                self._print(f"not covered by the run's ε: {', '.join(not_covered)}")
                self._print(f"write what is: gr-run {shlex.quote(f'release={result.folder}')}")


def _folder_to_compare(folder: Path) -> Path:
    """The folder of the benchmark if the run has a name of this program, else the folder that contains the run."""
    has_own_name = without_hash(folder.name) != folder.name
    return folder.parents[1] if has_own_name and len(folder.parents) > 2 else folder.parent
