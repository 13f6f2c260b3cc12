"""A sweeper for the validated jobs of a sweep.

Import it after Hydra has searched for plugins: the search creates the class of Hydra's own sweeper a second time.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.override_parser.types import Override
from hydra.types import HydraContext, TaskFunction

from gr_cli.cli.job_composer import composing_once
from gr_cli.cli.sweep import current_sweep

if TYPE_CHECKING:
    from omegaconf import DictConfig


class CheckedSweeper(BasicSweeper):
    """Launches the validated jobs; several jobs of the same run are launched once."""

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        """Prepare the launcher."""
        composer = current_sweep().composer
        if composer is not None:
            hydra_context = composing_once(hydra_context, composer, config)
        super().setup(hydra_context=hydra_context, task_function=task_function, config=config)

    @staticmethod
    def split_arguments(overrides: list[Override], max_batch_size: int | None) -> list[list[list[str]]]:
        """The overrides of all runs, in batches of at most `max_batch_size`."""
        jobs = list(current_sweep().jobs.values())
        size = max_batch_size or len(jobs)
        return [jobs[start : start + size] for start in range(0, len(jobs), size)]

    def validate_batch_is_legal(self, batch: Sequence[Sequence[str]]) -> None:
        """Does nothing: the jobs are validated, and Hydra would compose each of them once more."""
