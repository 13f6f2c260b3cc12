"""From Hydra's composed configuration to the settings of one run, for single runs and sweeps."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from gr_cli.config.groups import GROUPS
from gr_cli.errors import CompositionError

if TYPE_CHECKING:
    from omegaconf import DictConfig

    from gr_cli.config.settings import Settings


def settings_from_config(config: DictConfig, hydra: Any) -> Settings:
    """The settings of a run.

    Args:
        config: The composed configuration.
        hydra: Hydra's own part of it.

    Raises:
        CompositionError: An interpolation can't be resolved.
        ConfigError: A value is not allowed.
    """
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException

    from gr_cli.cli.hydra_errors import describe_error
    from gr_cli.config.settings import Settings
    from gr_cli.trackers.trust import check_tracker

    overrides = plain_overrides(hydra.overrides.task)
    # Without Hydra's own part, which takes longer to resolve than everything else.
    run_config = OmegaConf.masked_copy(config, [str(name) for name in config if name != "hydra"])
    try:
        plain: Any = OmegaConf.to_container(run_config, resolve=True)
    except OmegaConfBaseException as error:
        raise CompositionError(describe_error(error, overrides)) from error
    choices = {group: hydra.runtime.choices.get(group) for group in GROUPS}
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


def plain_overrides(overrides: Any) -> list[str]:
    """A list of overrides of OmegaConf as plain text, with interpolations unresolved, as they were typed."""
    from omegaconf import OmegaConf

    plain: Any = OmegaConf.to_container(overrides, resolve=False)
    return list(plain)


def compose_settings(overrides: Sequence[str]) -> Settings:
    """The settings of the run that `gr-run` starts with these overrides, for use from Python.

    Raises:
        CompositionError: An interpolation can't be resolved.
        ConfigError: A value is not allowed.
        HydraException: The overrides don't compose.
    """
    from hydra.core.config_store import ConfigStore

    from gr_cli.cli.hydra_errors import compose_config
    from gr_cli.config.schema import RunConfig

    ConfigStore.instance().store("schema", RunConfig)
    config = compose_config(overrides, hydra=True)
    return settings_from_config(config, config.hydra)
