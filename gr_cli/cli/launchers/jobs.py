"""Settings and folders of the jobs that Hydra hands to a launcher."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from gr_cli.cli.compose import settings_from_config
from gr_cli.cli.folders import hydra_config, job_folder
from gr_cli.cli.sweep import current_sweep
from gr_cli.config.settings import Settings
from gr_cli.results.folder import RunFolder

if TYPE_CHECKING:
    from hydra.types import HydraContext
    from omegaconf import DictConfig


def compose_jobs(
    context: HydraContext, config: DictConfig, job_overrides: Sequence[Sequence[str]], first_number: int
) -> list[tuple[Settings, RunFolder]]:
    """Settings and folder of each job, which are added to the sweep.

    Args:
        context: Hydra's context.
        config: The configuration of the sweep.
        job_overrides: Overrides of each job.
        first_number: Number of the first job in the sweep.

    Raises:
        CompositionError, ConfigError: A job that was not validated before does not compose.
    """
    jobs = []
    for number, overrides in enumerate(job_overrides, first_number):
        settings, folder = current_sweep().validated(overrides) or _composed(context, config, overrides, number)
        current_sweep().add(folder, overrides)
        jobs.append((settings, folder))
    return jobs


def _composed(
    context: HydraContext, config: DictConfig, overrides: Sequence[str], number: int
) -> tuple[Settings, RunFolder]:
    """A job that was not validated before, because its sweeper searches adaptively."""
    from omegaconf import open_dict

    job_config = context.config_loader.load_sweep_config(config, list(overrides))
    with open_dict(job_config):
        job_config.hydra.job.num = job_config.hydra.job.id = number
    with hydra_config(job_config) as hydra:
        settings = settings_from_config(job_config, hydra)
        return settings, job_folder(settings, hydra)
