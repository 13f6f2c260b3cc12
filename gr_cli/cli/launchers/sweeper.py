"""A sweeper for the validated jobs of a sweep.

Import it after Hydra has searched for plugins: the search creates the class of Hydra's own sweeper a second time.
"""

from __future__ import annotations

from collections.abc import Sequence

from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.override_parser.types import Override

from gr_cli.cli.sweep import current_sweep


class CheckedSweeper(BasicSweeper):
    """Launches the validated jobs; several jobs of the same run are launched once."""

    @staticmethod
    def split_arguments(overrides: list[Override], max_batch_size: int | None) -> list[list[list[str]]]:
        """The overrides of all runs, in batches of at most `max_batch_size`."""
        jobs = list(current_sweep().jobs.values())
        size = max_batch_size or len(jobs)
        return [jobs[start : start + size] for start in range(0, len(jobs), size)]

    def validate_batch_is_legal(self, batch: Sequence[Sequence[str]]) -> None:
        """Does nothing: the jobs are validated, and Hydra would compose each of them once more."""
