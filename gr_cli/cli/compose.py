"""What the door and its sweeps share: from Hydra's composed configuration to the settings of one run."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from gr_cli.config.groups import GROUPS
from gr_cli.errors import CompositionError

if TYPE_CHECKING:
    from omegaconf import DictConfig

    from gr_cli.config.settings import Settings


def settings_from_config(config: DictConfig, hydra: Any) -> Settings:
    """Settings from what Hydra composed; `hydra` is its own part of the configuration.

    Raises:
        CompositionError, ConfigError: an interpolation leads nowhere, or a value does not fit.
    """
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException

    from gr_cli.cli.hydra_errors import describe_error
    from gr_cli.config.settings import Settings
    from gr_cli.trackers.trust import check_tracker

    overrides = plain_overrides(hydra.overrides.task)
    # Hydra's own part would take longer to resolve than all the rest.
    ours = OmegaConf.masked_copy(config, [str(name) for name in config if name != "hydra"])
    try:
        plain: Any = OmegaConf.to_container(ours, resolve=True)
    except OmegaConfBaseException as error:
        raise CompositionError(describe_error(error, overrides)) from error
    choices = {group: hydra.runtime.choices.get(group) for group in GROUPS}
    settings = Settings.validated(plain, choices, overrides)
    check_tracker(settings.config)
    return settings


def plain_overrides(overrides: Any) -> list[str]:
    """Overrides as they were typed: what they refer to is to be found where they lead, not in this list."""
    from omegaconf import OmegaConf

    words: Any = OmegaConf.to_container(overrides, resolve=False)
    return list(words)


def compose_settings(overrides: Sequence[str]) -> Settings:
    """The settings that `gr-run` with these overrides would run, for other programs than the door.

    Raises:
        CompositionError, ConfigError: a value does not fit. Hydra's own errors pass through.
    """
    from hydra.core.config_store import ConfigStore

    from gr_cli.cli.hydra_errors import compose_config
    from gr_cli.config.schema import RunConfig

    ConfigStore.instance().store("schema", RunConfig)
    config = compose_config(overrides, hydra=True)
    return settings_from_config(config, config.hydra)
