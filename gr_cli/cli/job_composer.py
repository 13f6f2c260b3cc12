"""Composition of the jobs of a sweep, with their folders."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from gr_cli.cli.compose import chosen_options, settings_from_values, without_hydra
from gr_cli.cli.folders import hydra_config, job_folder, names_job_folders

if TYPE_CHECKING:
    from hydra.core.config_loader import ConfigLoader
    from hydra.core.override_parser.types import Override
    from hydra.types import HydraContext
    from omegaconf import DictConfig

    from gr_cli.config.settings import Settings
    from gr_cli.results.folder import RunFolder


class JobComposer:
    """Composes the jobs of a sweep. Jobs that choose the same options are composed from one configuration.

    To compose one takes Hydra a tenth of a second, most of it for reading the same files; to set the values in which
    jobs differ takes a few milliseconds.

    Args:
        config: The composed configuration of the sweep.
        check: Called with the configuration of the first job of each choice of options, and with its overrides.
    """

    def __init__(self, config: DictConfig, check: Callable[[DictConfig, list[str]], object]) -> None:
        from hydra.core.global_hydra import GlobalHydra
        from hydra.core.override_parser.overrides_parser import OverridesParser

        self._config, self._check = config, check
        self._loader: Any = GlobalHydra.instance().config_loader()
        self._parser = OverridesParser.create(self._loader)
        self._parsed: dict[str, Override] = {}
        self._common: dict[tuple[str, ...], tuple[DictConfig, DictConfig]] = {}  # with and without Hydra's own part

    def settings(self, overrides: list[str]) -> Settings:
        """The settings of a job.

        Raises:
            CompositionError: Its overrides can't be composed.
            ConfigError: A value is not allowed.
            HydraException, OmegaConfBaseException: Its overrides can't be composed.
        """
        (composed, common), values = self._compose(overrides)
        return settings_from_values(_with_values(common, values), chosen_options(composed.hydra), list(overrides))

    def config(self, overrides: list[str]) -> DictConfig:
        """The configuration of a job with Hydra's own part, as Hydra's loader composes it.

        Raises:
            HydraException, OmegaConfBaseException: Its overrides can't be composed.
        """
        from hydra._internal.config_loader_impl import get_overrides_dirname
        from omegaconf import OmegaConf

        (composed, _), values = self._compose(overrides)
        config = _with_values(composed, values)
        of_task = [override for override in map(self._parse, overrides) if not override.is_hydra_override()]
        config.hydra.overrides.task = [override.input_line for override in of_task]
        separators = config.hydra.job.config.override_dirname
        config.hydra.job.override_dirname = get_overrides_dirname(
            of_task, separators.exclude_keys, separators.item_sep, separators.kv_sep
        )
        OmegaConf.copy_cache(from_config=self._config, to_config=config)
        return config

    def folder(self, settings: Settings, number: int) -> RunFolder:
        """The folder of a job.

        Args:
            settings: Its settings.
            number: Its number in the sweep, from 0.

        Raises:
            ConfigError: It lies outside the folder of the sweep.
            OmegaConfBaseException: An interpolation can't be resolved.
        """
        from omegaconf import OmegaConf, open_dict

        if not names_job_folders(self._config.hydra):
            return job_folder(settings, self._config.hydra)
        config = self.config(list(settings.overrides))
        with open_dict(config):
            config.hydra.job.num = config.hydra.job.id = number
        with hydra_config(config) as hydra:
            folder = job_folder(settings, hydra)
        # All jobs resolve interpolations such as ${now:...} to the same value, as do the processes that train them.
        OmegaConf.copy_cache(from_config=config, to_config=self._config)
        return folder

    def _compose(self, overrides: list[str]) -> tuple[tuple[DictConfig, DictConfig], list[Override]]:
        """The configuration of the options that a job chooses, and its overrides that set values."""
        values = [override for override in map(self._parse, overrides) if self._sets_a_value(override)]
        lines = {override.input_line for override in values}
        options = tuple(line for line in overrides if line not in lines)
        if options not in self._common:
            composed = self._loader.load_sweep_config(self._config, list(options))
            self._check(composed, overrides)
            self._common[options] = composed, without_hydra(composed)
        return self._common[options], values

    def _parse(self, line: str) -> Override:
        if line not in self._parsed:
            (self._parsed[line],) = self._parser.parse_overrides([line])
        return self._parsed[line]

    def _sets_a_value(self, override: Override) -> bool:
        """Whether it sets a value of the run, rather than choosing an option or configuring Hydra."""
        key = override.key_or_group
        is_option = self._loader.repository.group_exists(key) and not isinstance(override.value(), dict)
        return not is_option and not override.is_hydra_override()


def _with_values(config: DictConfig, values: list[Override]) -> DictConfig:
    """A copy with the values that overrides set."""
    from hydra._internal.config_loader_impl import ConfigLoaderImpl
    from omegaconf import OmegaConf

    copied = copy.deepcopy(config)
    OmegaConf.set_struct(copied, True)  # as Hydra does: no settings that don't exist
    ConfigLoaderImpl._apply_overrides_to_config(values, copied)
    return copied


class ComposedJobs:
    """Hydra's config loader, with the jobs of a sweep from a `JobComposer`."""

    def __init__(self, loader: ConfigLoader, composer: JobComposer) -> None:
        self._loader, self._composer = loader, composer

    def __getattr__(self, name: str) -> Any:
        return getattr(self._loader, name)

    def load_sweep_config(self, master_config: DictConfig, sweep_overrides: list[str]) -> DictConfig:
        """The configuration of a job."""
        return self._composer.config(sweep_overrides)


def composing_once(context: HydraContext, composer: JobComposer, config: DictConfig) -> HydraContext:
    """Hydra's context for a launcher. Hydra's basic one would compose each job once more, in a tenth of a second."""
    from hydra.types import HydraContext

    if not str(config.hydra.launcher._target_).endswith(".BasicLauncher"):
        return context
    loader: Any = ComposedJobs(context.config_loader, composer)
    return HydraContext(loader, context.callbacks)
