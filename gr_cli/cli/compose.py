"""From Hydra's composed configuration to the settings of one run, for single runs and sweeps."""

from __future__ import annotations

import copy
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from gr_cli.config.groups import GROUPS
from gr_cli.errors import CompositionError
from gr_cli.system.process import import_torch

if TYPE_CHECKING:
    from pathlib import Path

    from hydra.core.config_loader import ConfigLoader
    from hydra.core.override_parser.types import Override
    from omegaconf import DictConfig

    from gr_cli.config.settings import Settings


def settings_from_config(config: DictConfig, hydra: Any, announce: bool = True) -> Settings:
    """The settings of a run. Torch is imported only if it has components of other packages, or `precision=auto`.

    Args:
        config: The composed configuration.
        hydra: Hydra's own part of it.
        announce: Print a line before torch is imported.

    Raises:
        CompositionError: An interpolation can't be resolved.
        ConfigError: A value is not allowed.
    """
    overrides = plain_overrides(hydra.overrides.task)
    return _settings_from_values(_without_hydra(config), _choices(hydra), overrides, announce)


def _without_hydra(config: DictConfig) -> DictConfig:
    """A copy without Hydra's own part, which takes longer to resolve than everything else."""
    from omegaconf import OmegaConf

    return OmegaConf.masked_copy(config, [str(name) for name in config if name != "hydra"])


def _choices(hydra: Any) -> dict[str, str | None]:
    return {group: hydra.runtime.choices.get(group) for group in GROUPS}


def _settings_from_values(
    run_config: DictConfig, choices: dict[str, str | None], overrides: list[str], announce: bool = True
) -> Settings:
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException

    from gr_cli.cli.hydra_errors import describe_error
    from gr_cli.config.instantiate import has_unread_target
    from gr_cli.config.settings import Settings
    from gr_cli.trackers.trust import check_tracker

    try:
        plain: Any = OmegaConf.to_container(run_config, resolve=True)
    except OmegaConfBaseException as error:
        raise CompositionError(describe_error(error, overrides)) from error
    if plain.get("precision") == "auto" or has_unread_target(plain):
        import_torch(announce)
    settings = Settings.validated(plain, choices, overrides)
    check_tracker(settings.config)
    return settings


@contextmanager
def composed_once(argv: Sequence[str]) -> Iterator[None]:
    """Keep Hydra from composing the configuration a first time to look up `hydra.mode`, unless `argv` may set it."""
    from hydra._internal.hydra import Hydra

    # A folder of configurations of one's own may set it, too.
    if any((word.startswith("-") and word != "-m") or re.search("mode(?!l)|searchpath", word) for word in argv):
        yield
        return
    look_up = Hydra.get_mode
    Hydra.get_mode = lambda *_, **__: None  # type: ignore[method-assign]
    try:
        yield
    finally:
        Hydra.get_mode = look_up  # type: ignore[method-assign]


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
        return _settings_from_values(_with_values(common, values), _choices(composed.hydra), list(overrides))

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

    def _compose(self, overrides: list[str]) -> tuple[tuple[DictConfig, DictConfig], list[Override]]:
        """The configuration of the options that a job chooses, and its overrides that set values."""
        values = [override for override in map(self._parse, overrides) if self._sets_a_value(override)]
        lines = {override.input_line for override in values}
        options = tuple(line for line in overrides if line not in lines)
        if options not in self._common:
            composed = self._loader.load_sweep_config(self._config, list(options))
            self._check(composed, overrides)
            self._common[options] = composed, _without_hydra(composed)
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


def plain_overrides(overrides: Any) -> list[str]:
    """A list of overrides of OmegaConf as plain text, with interpolations unresolved, as they were typed."""
    from omegaconf import OmegaConf

    plain: Any = OmegaConf.to_container(overrides, resolve=False)
    return list(plain)


def compose_settings(overrides: Sequence[str], config_dir: Path | None = None) -> Settings:
    """The settings of the run that `gr-run` starts with these overrides, for use from Python.

    Args:
        overrides: The overrides.
        config_dir: A folder of options of one's own, as `--config-dir` names it.

    Raises:
        CompositionError: The overrides can't be composed.
        ConfigError: A value is not allowed.
    """
    from hydra.core.config_store import ConfigStore
    from hydra.errors import HydraException
    from omegaconf.errors import OmegaConfBaseException

    from gr_cli.cli.hydra_errors import compose_config, describe_error
    from gr_cli.cli.isolation import isolated_hydra
    from gr_cli.cli.overrides import validate_overrides
    from gr_cli.config.schema import RunConfig

    folder = [] if config_dir is None else ["--config-dir", str(config_dir)]
    search_path = [] if config_dir is None else [f"hydra.searchpath=['file://{config_dir.absolute()}']"]
    with isolated_hydra():
        ConfigStore.instance().store("schema", RunConfig)
        try:
            validate_overrides([*folder, *overrides])
            config = compose_config([*search_path, *overrides], hydra=True)
            return settings_from_config(config, config.hydra)
        except (HydraException, OmegaConfBaseException) as error:
            raise CompositionError(describe_error(error, overrides)) from error
