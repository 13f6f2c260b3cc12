"""Hydra's callback: a sweep is checked whole before its first job begins."""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING, Any

from hydra.experimental.callback import Callback

from gr_cli.cli.launchers.check import check_launcher, starts_processes
from gr_cli.cli.plan import plan
from gr_cli.cli.sweep import current
from gr_cli.errors import ConfigError, Stop
from gr_cli.system.signals import lifeline

if TYPE_CHECKING:
    from hydra.core.utils import JobReturn
    from omegaconf import DictConfig


def quiet() -> None:
    """Our `hydra/launcher/*.yaml` are checked against the plugins' own of the same name on purpose: no warnings.

    What Hydra only warns of, and goes on as if it had not been typed, is a mistake here.
    """
    warnings.filterwarnings("ignore", message=r"\s*'hydra/launcher/\w+' is validated against ConfigStore schema")
    for mistake in (r"provider=hydra.searchpath .* is not available", r"\s*Running Hydra app with --multirun, over"):
        warnings.filterwarnings("error", message=mistake)


quiet()  # for the processes of a launcher, which import this module with the job they are handed


quiet()  # for the processes of a launcher, which import this module with the job they are handed


class CheckFirst(Callback):
    """Hydra calls this before the first job of a sweep. Other sweepers than the basic one find jobs as they go."""

    def on_multirun_start(self, config: DictConfig, **_: Any) -> None:
        # Hydra makes warnings of what a callback raises, but for a `Stop`.
        try:
            check_launcher(config)
            if _sweeper(config).endswith("BasicSweeper"):
                plan(config)
            if starts_processes(config.hydra):
                current().held.enter_context(lifeline())
        except Exception as error:
            raise Stop(error) from error

    def on_job_end(self, config: DictConfig, job_return: JobReturn, **_: Any) -> None:
        # Hydra keeps what each job returned until the sweep is over; nothing reads its configurations again.
        job_return.cfg = job_return.hydra_cfg = None


def _sweeper(config: DictConfig) -> str:
    """The class of the sweeper."""
    from omegaconf import OmegaConf

    node = OmegaConf.select(config, "hydra.sweeper")
    if not OmegaConf.is_dict(node) or "_target_" not in node:
        choice = config.hydra.runtime.choices.get("hydra/sweeper")
        raise ConfigError("hydra/sweeper", choice, "must name a sweeper", "leave it out for combinations of values")
    return str(node["_target_"])
