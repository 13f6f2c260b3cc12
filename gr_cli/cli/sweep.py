"""The sweep of this process: its runs, their progress, and the summary at its end."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from gr_cli.config.override_text import override_of
from gr_cli.errors import one_line
from gr_cli.terminal.sweep_progress import SweepProgress

if TYPE_CHECKING:
    from gr_cli.cli.job_composer import JobComposer
    from gr_cli.config.settings import Settings
    from gr_cli.results.folder import RunFolder

_DAMAGED = "damaged"


@dataclass
class Sweep:
    """The sweep of this process. Without a sweep, or if the sweeper searches adaptively, it has no jobs at first.

    Attributes:
        run_folder: Folder of a single run; None if this program names it.
        jobs: The overrides of each run by its folder, in order.
        keeps_own_folders: Whether this program names the folders of the runs.
        folder: Folder of the sweep, if its jobs are known beforehand or it is a search.
        remedy: What to do about runs that did not finish.
        flags: Flags that the commands of its runs need: `--config-dir` if the command line has it.
        in_process: Whether the launcher trains the runs in this process.
        progress: Counts of ended and failed runs.
        composer: Composes its jobs, if they are known beforehand.
        resources: Contexts that are closed after the last run: the lock of the folder, the lifeline of the workers.
    """

    run_folder: Path | None = None
    jobs: dict[Path, list[str]] = field(default_factory=dict)
    keeps_own_folders: bool = True
    folder: Path | None = None
    remedy: str = "the same command repeats these"
    flags: Sequence[str] = ()
    in_process: bool = True
    progress: SweepProgress = field(default_factory=SweepProgress)
    composer: JobComposer | None = None
    resources: ExitStack = field(default_factory=ExitStack)
    _validated: dict[tuple[str, ...], tuple[Settings, RunFolder]] = field(default_factory=dict)

    def add(self, folder: RunFolder, overrides: Sequence[str], settings: Settings | None = None) -> None:
        """Add a run, with its settings if they are validated."""
        self.jobs.setdefault(folder.path, list(overrides))
        if settings is not None:
            self._validated[tuple(overrides)] = settings, folder

    def validated(self, overrides: Sequence[str]) -> tuple[Settings, RunFolder] | None:
        """Settings and folder of a run, if they are validated."""
        return self._validated.get(tuple(overrides))

    def command(self, *arguments: str) -> str:
        """A command with the flags of the sweep, quoted for the shell."""
        return shlex.join(["gr-run", *self.flags, *arguments])

    @property
    def uses_foreign_launcher(self) -> bool:
        """Whether the runs are trained by another launcher than Hydra's basic one and the batched one."""
        return bool(self.jobs) and not self.in_process

    def print_outcome(self) -> int:
        """Release the resources, and print which runs did not finish and how to compare the others.

        Returns:
            The exit code: 1 if a run failed, else 0.
        """
        self.resources.close()
        if not self.jobs:
            return 1 if self.progress.failed else 0
        states = {path: _run_state(path) for path in self.jobs}
        missing = {path: state for path, state in states.items() if state not in ("finished", "pruned")}
        for path, state in missing.items():
            words = [*self.jobs[path], *([] if self.keeps_own_folders else [override_of("hydra.run.dir", path)])]
            command = self.command(*words, *(["fresh=true"] if state == _DAMAGED else []))
            print(one_line(f"gr-run: {state}: {path}  (repeat: {command})"), file=sys.stderr)
        if missing:
            print(
                f"gr-run: {len(missing)} of {len(states)} runs did not finish; {self.remedy}",
                file=sys.stderr,
            )
        if self.folder is not None and len(states) - len(missing) > 1:
            print(f"compare runs: gr-report {shlex.quote(str(self.folder))}")
        for line in _budget_lines([path for path, state in states.items() if state != "not started"]):
            print(line)
        return 1 if missing or self.progress.failed else 0


_current = Sweep()


def current_sweep() -> Sweep:
    """The sweep of this process: Hydra creates callback, sweeper and launcher itself and can't pass it to them."""
    return _current


def begin_sweep() -> Sweep:
    """Replace the sweep of this process by a new one."""
    global _current
    _current.resources.close()
    _current = Sweep()
    return _current


def _budget_lines(paths: Sequence[Path]) -> list[str]:
    """For each set of samples what several runs with budgets of privacy may spend on it together."""
    from gr_cli.config.settings import flatten
    from gr_cli.results.shared_budget import shared_budgets
    from gr_cli.results.stored_config import read_config

    runs = []
    for path in paths:
        with suppress(OSError, ValueError):  # damaged, which its job has reported
            config, choices = read_config(path)
            runs.append((flatten(config), choices))
    return [budget.line for budget in shared_budgets(runs) if budget.runs > 1]


def _run_state(path: Path) -> str:
    """State of a run; `damaged` if its files can't be read, which its job has reported."""
    from gr_cli.errors import GrError
    from gr_cli.results.folder import RunFolder
    from gr_cli.results.stored_config import stored_choices

    folder = RunFolder(path)
    try:
        state = folder.state()
        if state == "finished":
            stored_choices(path)
            folder.metrics()
            if folder.load_checkpoint() is None:
                return _DAMAGED
    except (GrError, OSError, ValueError, LookupError):
        return _DAMAGED
    return state
