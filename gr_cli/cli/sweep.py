"""A sweep: the runs that it is made of, how far they are, and what became of them."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gr_cli.cli.compose import plain_overrides
from gr_cli.errors import one_line
from gr_cli.terminal.sweep_progress import SweepProgress

if TYPE_CHECKING:
    from gr_cli.config.settings import Settings

_DAMAGED = "damaged"


@dataclass
class Sweep:
    """The sweep that this process runs; without jobs where there is none, or where its sweeper finds them as it goes.

    jobs: the overrides of each run by its folder, in their order.
    in_process: whether a launcher trains the runs in this process.
    tally: how far they are.
    held: what is held until no further run begins: the sweep's folder, the lifeline of its processes.
    """

    jobs: dict[Path, list[str]] = field(default_factory=dict)
    in_process: bool = True
    progress: SweepProgress = field(default_factory=SweepProgress)
    resources: ExitStack = field(default_factory=ExitStack)
    _settings: dict[tuple[str, ...], Settings] = field(default_factory=dict)

    def add(self, path: Path, overrides: Sequence[str], settings: Settings | None = None) -> None:
        """Take note of a run, with its settings where they were checked already."""
        self.jobs.setdefault(path, list(overrides))
        if settings is not None:
            self._settings[tuple(overrides)] = settings

    def settings(self, overrides: Sequence[str]) -> Settings | None:
        """The settings of a run, if they were checked already."""
        return self._settings.get(tuple(overrides))

    @property
    def uses_foreign_launcher(self) -> bool:
        """Whether there are runs, and a launcher that is not ours has them."""
        return bool(self.jobs) and not self.in_process

    def print_outcome(self) -> int:
        """Print what became of the runs, of which no further one will begin; 1 if any failed, else 0."""
        self.resources.close()
        if not self.jobs:
            return 1 if self.progress.failed else 0
        states = {path: _run_state(path) for path in self.jobs}
        missing = {path: state for path, state in states.items() if state != "finished"}
        for path, state in missing.items():
            again = shlex.join(["gr-run", *self.jobs[path], *(["fresh=true"] if state == _DAMAGED else [])])
            print(one_line(f"gr-run: {state}: {path}  (again: {again})"), file=sys.stderr)
        if missing:
            print(
                f"gr-run: {len(missing)} of {len(states)} runs did not finish; the same command repeats these",
                file=sys.stderr,
            )
        return 1 if missing or self.progress.failed else 0


_current = Sweep()


def current_sweep() -> Sweep:
    """The sweep of this process. Hydra makes callback, sweeper and launcher by itself, and can hand them none."""
    return _current


def begin_sweep() -> Sweep:
    """A new sweep of this process, in place of the one before."""
    global _current
    _current.resources.close()
    _current = Sweep()
    return _current


def sweep_hash(overrides: Any, params: Any = None) -> str:
    """A short name for a sweep: the same overrides, as Hydra holds them, and sweeper's parameters give the same."""
    from omegaconf import OmegaConf

    from gr_cli.config.settings import short_hash

    given = dict(OmegaConf.to_container(params, resolve=False)) if params else {}  # type: ignore[arg-type]
    return short_hash([*plain_overrides(overrides), *([given] if given else [])])


def _run_state(path: Path) -> str:
    """What became of a run; `damaged` where its own files can't be read, which its job has reported."""
    from gr_cli.errors import GrError
    from gr_cli.results.folder import RunFolder
    from gr_cli.results.stored_config import check_config

    folder = RunFolder(path)
    try:
        state = folder.state()
        if state == "finished":
            check_config(path)
            folder.metrics()
            if folder.load_checkpoint() is None:
                return _DAMAGED
    except (GrError, OSError, ValueError, LookupError):
        return _DAMAGED
    return state
