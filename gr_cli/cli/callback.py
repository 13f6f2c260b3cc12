"""Hydra callback: compose and validate all jobs of a sweep, and write sweep.json, before the first job trains."""

from __future__ import annotations

import shlex
import warnings
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.plugins import Plugins
from hydra.errors import HydraException
from hydra.experimental.callback import Callback
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from gr_cli.cli.compose import plain_overrides
from gr_cli.cli.folders import check_job_folders, keeps_own_folders, names_sweep_folder, single_run_folder, sweep_folder
from gr_cli.cli.hydra_errors import describe_error
from gr_cli.cli.job_composer import JobComposer
from gr_cli.cli.launchers.processes import announce_processes
from gr_cli.cli.launchers.selection import (
    check_launcher,
    runs_in_this_process,
    starts_local_processes,
    uses_other_processes,
)
from gr_cli.cli.overrides import describe_difference
from gr_cli.cli.sweep import begin_sweep, current_sweep
from gr_cli.cli.sweepers.selection import check_sweeper, launches_own_jobs, sweeper_target
from gr_cli.errors import CompositionError, ConfigError, Stop
from gr_cli.results.availability import check_outside_runs, check_sweep_folder
from gr_cli.system.process import import_torch, resume_garbage_collection
from gr_cli.system.signals import lifeline

if TYPE_CHECKING:
    from hydra.core.override_parser.types import Override
    from hydra.core.utils import JobReturn
    from omegaconf import DictConfig

    from gr_cli.config.settings import Settings
    from gr_cli.results.folder import RunFolder

_LISTING_REMEDY = "list them, or use range(0,5); hydra/sweeper=optuna searches an interval(0,1)"
# Parts of Hydra's configuration that a single job can't change.
_SWEEP_WIDE_GROUPS = ("launcher", "sweeper", "sweep")


def silence_hydra_warnings() -> None:
    """Silence a warning about `conf/hydra/launcher/*.yaml`, which extend the plugins' options of the same names.

    Other warnings, after which Hydra would ignore an override, become errors.
    """
    warnings.filterwarnings("ignore", message=r"\s*'hydra/launcher/\w+' is validated against ConfigStore schema")
    for mistake in (r"provider=hydra.searchpath .* is not available", r"\s*Running Hydra app with --multirun, over"):
        warnings.filterwarnings("error", message=mistake)


silence_hydra_warnings()  # for worker processes, which import this module when they unpickle a job


class ValidateJobs(Callback):
    """Validates the jobs of a sweep before the first one; only the basic sweeper knows them beforehand."""

    def on_run_start(self, config: DictConfig, **_: Any) -> None:
        try:
            current_sweep().run_folder = single_run_folder(config)
        except OmegaConfBaseException as error:
            raise Stop(_composition_error(error, config, plain_overrides(config.hydra.overrides.task))) from error
        except Exception as error:
            raise Stop(error) from error

    def on_multirun_start(self, config: DictConfig, **_: Any) -> None:
        resume_garbage_collection()
        # Hydra turns exceptions of a callback into warnings, except `Stop`, which is not an Exception.
        try:
            check_launcher(config)
            check_sweeper(config)
            folder = sweep_folder(config)
            check_outside_runs(folder)
            if names_sweep_folder(config.hydra) and launches_own_jobs(config):
                check_sweep_folder(folder)
            current_sweep().keeps_own_folders = keeps_own_folders(config.hydra)
            if sweeper_target(config).endswith("BasicSweeper"):
                _prepare_sweep(config, folder)
            current_sweep().flags = _config_dir(config)
            import_torch()
            if starts_local_processes(config.hydra):
                current_sweep().resources.enter_context(lifeline())
        except OmegaConfBaseException as error:
            raise Stop(_composition_error(error, config, plain_overrides(config.hydra.overrides.task))) from error
        except Exception as error:
            raise Stop(error) from error

    def on_job_end(self, config: DictConfig, job_return: JobReturn, **_: Any) -> None:
        # Hydra keeps all results until the end of the sweep; free the configurations, which nothing reads again.
        job_return.cfg = job_return.hydra_cfg = None


def _config_dir(config: DictConfig) -> list[str]:
    """`--config-dir` with its folder, if the command line has it."""
    sources = config.hydra.runtime.config_sources
    return next((["--config-dir", str(source.path)] for source in sources if source.provider == "command-line"), [])


def _prepare_sweep(config: DictConfig, folder: Path) -> None:
    """Validate all jobs, lock the folder of the sweep and write sweep.json."""
    from gr_cli.cli.sweepers.checked import CheckedSweeper
    from gr_cli.config.arguments import check_value
    from gr_cli.results.manifest import write_manifest
    from gr_cli.system.files import make_folder
    from gr_cli.system.locks import locked
    from gr_cli.types import PositiveInt

    check_value(config.hydra.sweeper.max_batch_size, PositiveInt | None, "hydra.sweeper.max_batch_size")
    sweep = begin_sweep()
    sweep.keeps_own_folders, sweep.in_process = keeps_own_folders(config.hydra), runs_in_this_process(config.hydra)
    jobs = _validated_jobs(config, folder)
    for settings, run in jobs:
        sweep.add(run, list(settings.overrides), settings)
    sweep.progress.total, sweep.folder = len(jobs), folder
    make_folder(folder)
    sweep.resources.enter_context(locked(folder))
    write_manifest(folder, jobs)
    Plugins.instance().class_name_to_class[config.hydra.sweeper._target_] = CheckedSweeper
    if uses_other_processes(config.hydra):
        announce_processes(folder)


def _validated_jobs(config: DictConfig, sweep: Path) -> list[tuple[Settings, RunFolder]]:
    """Settings and folders of all runs of a sweep, each once.

    Raises:
        CompositionError: A job can't be composed.
        ConfigError: A value does not fit, or two runs would share a folder.
        OccupiedFolderError: The folder of a run holds something else.
    """
    first_job: dict[tuple[Any, ...], list[str]] = {}
    duplicates: tuple[list[str], list[str]] | None = None
    composer = current_sweep().composer = JobComposer(config, partial(check_sweep_wide_groups, config=config))
    jobs: list[tuple[Settings, RunFolder]] = []
    all_overrides = _list_jobs(config)
    for overrides in all_overrides:
        try:
            settings = composer.settings(overrides)
            first = first_job.setdefault((settings.folder().parent, settings.seed, settings.identity), overrides)
            if first is overrides:
                jobs.append((settings, composer.folder(settings, len(jobs))))
        except (HydraException, OmegaConfBaseException) as error:
            raise _composition_error(error, config, overrides) from error
        if settings.config["inspect"]:
            raise ConfigError("inspect", "true", "shows one benchmark, and can't be used in a sweep", "leave out -m")
        if first is not overrides:
            duplicates = duplicates or (first, overrides)
    check_job_folders(jobs, sweep)
    if duplicates:
        runs = "1 run" if len(jobs) == 1 else f"{len(jobs)} runs"
        same = describe_difference(*duplicates)
        print(f"{len(all_overrides)} jobs are {runs}, each trained once: {same} are the same run")
    return jobs


def _composition_error(error: Exception, config: DictConfig, overrides: list[str]) -> CompositionError:
    words = [*overrides, *plain_overrides(config.hydra.overrides.hydra)]
    return CompositionError(describe_error(error, words))


def _list_jobs(config: DictConfig) -> list[list[str]]:
    """The overrides of each job, as Hydra's basic sweeper derives them from its parameters and the command line."""
    from hydra._internal.core_plugins.basic_sweeper import BasicSweeper

    overrides = plain_overrides(config.hydra.overrides.task)
    try:
        overrides = [*BasicSweeper(None, config.hydra.sweeper.params)._parse_config(), *overrides]
        parsed = OverridesParser.create(GlobalHydra.instance().config_loader()).parse_overrides(overrides)
        parsed = list({override.get_key_element(): override for override in parsed}.values())
    except (HydraException, OmegaConfBaseException) as error:
        raise CompositionError(describe_error(error, overrides)) from error
    for override in parsed:
        _check_sweep_values(override)
    return [list(job) for job in BasicSweeper.split_arguments(parsed, None)[0]]


def check_sweep_wide_groups(composed: DictConfig, overrides: list[str], config: DictConfig) -> None:
    """Check that a job does not change what is set for the whole sweep.

    Raises:
        ConfigError: It does.
    """
    for group in _SWEEP_WIDE_GROUPS:
        of_job, of_sweep = (OmegaConf.to_container(node.hydra[group], resolve=False) for node in (composed, config))
        if of_job != of_sweep:
            choice = composed.hydra.runtime.choices.get(f"hydra/{group}")
            raise ConfigError(
                shlex.join(overrides),
                f"(hydra/{group}={choice})",
                f"sets hydra.{group}, which can be set for the whole sweep only",
                f"name it on the command line: hydra/{group}={choice}",
            )


def _check_sweep_values(override: Override) -> None:
    """Check that the values of a sweep can be listed: no nested sweep, no interval, at least one value.

    Raises:
        ConfigError: They can't be listed.
    """
    if not override.is_sweep_override():
        return
    try:
        values = list(override.sweep_string_iterator())
    except (HydraException, OmegaConfBaseException):
        values = []
    if not values:
        name, _, value = str(override.input_line).partition("=")
        raise ConfigError(name, value, "must give values, none of them a sweep itself", _LISTING_REMEDY)
