"""What a run tells whoever watches it. This one is silent; the terminal's is in `console`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from gr_cli.assembly import Experiment
    from gr_cli.learner import Losses
    from gr_cli.results.metrics import Row
    from gr_cli.results.record import Result
    from gr_cli.settings import Settings
    from gr_cli.strategies.base import Position


class View:
    """Silent. Losses come as tensors: a view turns them into numbers only as often as it shows them."""

    def started(self, experiment: Experiment, folder: Path, steps: Sequence[int], done: tuple[int, int]) -> None:
        """A run begins, or goes on after `done` = (stages, iterations of the next one); `steps` of each stage."""

    def stage_started(self, number: int, name: str) -> None:
        """Stage `number` begins."""

    def stepped(self, number: int, position: Position, losses: Losses) -> None:
        """One training step is over."""

    def stage_finished(self, number: int, name: str, accuracies: Row) -> None:
        """A stage is over; `accuracies` on all tasks."""

    def finished(self, experiment: Experiment, result: Result) -> None:
        """The run is over."""

    def stored(self, settings: Settings, result: Result) -> None:
        """The run was over already; this is what it had found."""

    def close(self) -> None:
        """The run ended, one way or another."""
