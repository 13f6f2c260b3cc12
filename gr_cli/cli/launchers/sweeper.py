"""Hydra's sweeper for the runs of a sweep that were checked.

To be imported after Hydra has looked for plugins, which makes its own sweeper's class a second time.
"""

from __future__ import annotations

from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.override_parser.types import Override

from gr_cli.cli.sweep import current_sweep


class CheckedSweeper(BasicSweeper):
    """Starts the runs that were checked: jobs that are the same run are one."""

    @staticmethod
    def split_arguments(overrides: list[Override], max_batch_size: int | None) -> list[list[list[str]]]:
        """The overrides of all runs, in batches of at most `max_batch_size`."""
        checked = list(current_sweep().jobs.values())
        size = max_batch_size or len(checked)
        return [checked[start : start + size] for start in range(0, len(checked), size)]
