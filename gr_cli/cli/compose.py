"""From Hydra's composed configuration to the settings of one run, for single runs and sweeps."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from gr_cli.config.groups import GROUPS
from gr_cli.errors import CompositionError, ConfigError
from gr_cli.system.process import import_torch

if TYPE_CHECKING:
    from pathlib import Path

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
    return settings_from_values(without_hydra(config), chosen_options(hydra), overrides, announce)


def without_hydra(config: DictConfig) -> DictConfig:
    """A copy without Hydra's own part, which takes longer to resolve than everything else."""
    from omegaconf import OmegaConf

    return OmegaConf.masked_copy(config, [str(name) for name in config if name != "hydra"])


def chosen_options(hydra: Any) -> dict[str, str | None]:
    """The chosen option of each config group; None where there is none."""
    return {group: hydra.runtime.choices.get(group) for group in GROUPS}


def settings_from_values(
    run_config: DictConfig, choices: dict[str, str | None], overrides: list[str], announce: bool = True
) -> Settings:
    """The settings of a run from its configuration without Hydra's part; see `settings_from_config`."""
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException

    from gr_cli.cli.hydra_errors import describe_error
    from gr_cli.config.instantiate import has_unread_target
    from gr_cli.config.own_code import CODE_HASHES, code_hashes
    from gr_cli.config.own_components import live_parts, with_own_targets
    from gr_cli.config.settings import Settings
    from gr_cli.trackers.trust import check_tracker

    try:
        plain: Any = OmegaConf.to_container(run_config, resolve=True)
    except OmegaConfBaseException as error:
        raise CompositionError(describe_error(error, overrides)) from None
    if CODE_HASHES in plain:
        raise ConfigError(CODE_HASHES, plain[CODE_HASHES], "is set by this program", "leave it out")
    if plain.get("precision") == "auto" or has_unread_target(plain):
        import_torch(announce)
    own_config, own_choices = with_own_targets(plain, choices, overrides)
    settings = Settings.validated(own_config, own_choices, overrides)
    check_tracker(settings.config)
    return replace(settings.with_code_hashes(code_hashes(settings.config)), live=live_parts.get() or {})


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
    with composed_config(overrides, config_dir) as config:
        return settings_from_config(config, config.hydra)


@contextmanager
def composed_config(overrides: Sequence[str], config_dir: Path | None = None) -> Iterator[DictConfig]:
    """The configuration that `gr-run` composes from overrides, Hydra's part included, inside the block.

    Hydra's state is as before at the end of the block.

    Raises:
        CompositionError: The overrides can't be composed, or an interpolation in the block can't be resolved.
        ConfigError: An override is not allowed.
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
            yield compose_config([*search_path, *overrides], hydra=True)
        except (HydraException, OmegaConfBaseException) as error:
            raise CompositionError(describe_error(error, overrides)) from None
