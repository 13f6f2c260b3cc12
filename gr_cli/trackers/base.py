"""The interface of a tracker: `Tracker` opens a `RunLogger` for each run. `TrackerObserver` calls them during a run."""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar


@dataclass(frozen=True)
class RunInfo:
    """Description of a run for a tracker.

    Attributes:
        folder: Folder of the run.
        title: One-line name of the run.
        config: All settings by dotted name, as plain values.
        tags: Seed, configuration hash and the options of the main config groups, by name.
        sweep: Folder of the sweep that the run belongs to; None for a single run.
    """

    folder: Path
    title: str
    config: Mapping[str, Any]
    tags: Mapping[str, str]
    sweep: Path | None = None


class RunLogger(ABC):
    """Logger of one run. A step is an iteration, counted over all tasks; steps never decrease.

    A tracker of your own derives from this class and from `Tracker`:

    >>> class PrintLogger(RunLogger):
    ...     run_id = "run 1"
    ...     def log_metrics(self, metrics_by_step):
    ...         for step, metrics in metrics_by_step.items():
    ...             print(step, metrics)
    ...     def log_image(self, name, path, step): ...
    ...     def flush(self): ...
    ...     def finish(self, state, metrics, step):
    ...         print(state, metrics)
    ...     def close(self): ...
    >>> logger = PrintLogger()
    >>> logger.log_metrics({100: {"accuracy/task_0": 0.98}})
    100 {'accuracy/task_0': 0.98}
    >>> logger.finish("finished", {"average_accuracy": 0.9}, step=200)
    finished {'average_accuracy': 0.9}
    """

    run_id: str
    """Identifier of the run in the tracker; a resumed run continues the one of this id."""

    @abstractmethod
    def log_metrics(self, metrics_by_step: Mapping[int, Mapping[str, float]]) -> None:
        """Log values by step and name, in ascending order of the steps."""

    @abstractmethod
    def log_image(self, name: str, path: Path, step: int) -> None:
        """Log the PNG file at `path`."""

    @abstractmethod
    def flush(self) -> None:
        """Return when everything logged so far is stored."""

    @abstractmethod
    def finish(self, state: str, metrics: Mapping[str, float], step: int) -> None:
        """Log how the run ended, and close.

        Args:
            state: `finished`, `failed` or `interrupted`.
            metrics: The run's metrics (metrics.csv); empty unless the run is finished.
            step: Last step of the run.
        """

    @abstractmethod
    def close(self) -> None:
        """Release files and connections after an error, without logging an end."""


class Tracker(ABC):
    """A service or file format that records runs.

    >>> class Print(Tracker):
    ...     destination = "stdout"
    ...     def run_logger(self, run, run_id, last_step):
    ...         print("new run:" if run_id is None else "resumed run:", run.title)
    ...         return PrintLogger()  # see RunLogger
    >>> class PrintLogger: ...
    >>> logger = Print().run_logger(RunInfo(Path("outputs/a"), "ewc · split_digits", {}, {}), None, -1)
    new run: ewc · split_digits
    """

    library: ClassVar[str | None] = None
    """Package that the tracker needs, and name of the extra that installs it; None: no package."""

    @property
    @abstractmethod
    def destination(self) -> str:
        """Where runs are recorded. A resumed run is continued in the same destination, and begun anew in another."""

    @property
    def remote_address(self) -> str | None:
        """The address that the tracker's settings name; None if they name none."""
        return None

    @abstractmethod
    def run_logger(self, run: RunInfo, run_id: str | None, last_step: int) -> RunLogger:
        """Open the logger of a run.

        Args:
            run: The run.
            run_id: Identifier under which the run is recorded already; None: create it.
            last_step: Last step that is recorded already; -1: none.
        """


def without_password(text: str) -> str:
    """`text` without user names and passwords in URLs (what stands before the `@`)."""
    return re.sub(r"//[^/@\s]*@", "//", text)
