"""A program: runs that are trained together, in whatever process."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from gr_cli.cli.sweep import current_sweep
from gr_cli.config.settings import Settings
from gr_cli.errors import GrError, Interrupted, Pruned, as_failure
from gr_cli.results.folder import RunFolder
from gr_cli.system.messages import print_failure

if TYPE_CHECKING:
    from gr_cli.results.record import Result

Scores = list[float | None]
"""For each run the value of its objective: None without one or if the run was pruned, NaN if it failed."""
Program = tuple[Sequence[Settings], Sequence[RunFolder], Path]
"""Settings and folders of the runs, and folder of the sweep."""
ProgramsByIndex = Mapping[int, Program]
ProgramResults = Iterator[tuple[int, Scores | Interrupted]]


def run_program(
    jobs: Sequence[Settings], folders: Sequence[RunFolder], sweep: Path, directory: Path | None = None
) -> Scores | Interrupted:
    """Run jobs as one program; a failure is printed, and does not end the other jobs.

    Args:
        jobs: Settings of the runs.
        folders: Folders of the runs.
        sweep: Folder of the sweep.
        directory: Working directory, in a worker process; None in the process of the command.

    Returns:
        The score of each run, or the interruption.
    """
    from gr_cli.runner.run import run_together
    from gr_cli.system.memory import keep_freed_memory
    from gr_cli.terminal.run_display import TerminalObserver
    from gr_cli.trackers.observer import TrackerObserver
    from gr_cli.training.observer import Observers

    try:
        if directory is not None:
            os.chdir(directory)
        terminal = TerminalObserver(live=directory is None, sweep_progress=current_sweep().progress)
        if len(jobs) > 1:
            keep_freed_memory()
        outcomes = run_together(jobs, folders, Observers(terminal, TrackerObserver(sweep)))
    except Interrupted as error:
        return error
    except Exception as error:
        return failure_scores(folders, error)
    if isinstance(outcomes[0], GrError) and len(jobs) == 1:  # of several runs, the terminal has printed it already
        print_failure(folders[0].path, outcomes[0])
    return [_score(settings, outcome) for settings, outcome in zip(jobs, outcomes, strict=True)]


def _score(settings: Settings, outcome: Result | GrError) -> float | None:
    if isinstance(outcome, GrError):
        return None if isinstance(outcome, Pruned) else float("nan")
    return outcome.value(settings.config["objective"])


def failure_scores(folders: Sequence[RunFolder], error: Exception) -> Scores:
    """Scores of a program that failed as a whole, after printing the error for each run."""
    for folder in folders:
        print_failure(folder.path, as_failure(error))
    return [float("nan")] * len(folders)
