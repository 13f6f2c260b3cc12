"""What the door and its sweeps share: from Hydra's composed configuration to the settings of one run."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from omegaconf import DictConfig

    from gr_cli.settings import Settings

OUTPUTS = Path("outputs")
NESTED = ("benchmark/features", "strategy/regularizer")
GROUPS = ("benchmark", "model", "generator", "strategy", "optimizer", "preset", *NESTED)


def settings_from(config: DictConfig, hydra: Any) -> Settings:
    """Settings from what Hydra composed; `hydra` is its own part of the configuration."""
    from omegaconf import OmegaConf

    from gr_cli.settings import Settings

    # Hydra's own part would take longer to resolve than all the rest.
    ours = OmegaConf.masked_copy(config, [str(name) for name in config if name != "hydra"])
    plain: Any = OmegaConf.to_container(ours, resolve=True)
    choices = {group: hydra.runtime.choices.get(group) for group in GROUPS}
    return Settings.checked(plain, choices, list(hydra.overrides.task))


def composed(words: Sequence[str]) -> Settings:
    """The settings that `gr-run` with these overrides would run, for other programs than the door.

    Raises:
        ConfigError: a value does not fit. Hydra's own errors pass through.
    """
    from hydra import compose, initialize_config_module
    from hydra.core.config_store import ConfigStore
    from hydra.core.global_hydra import GlobalHydra

    from gr_cli.schema import RunConfig

    ConfigStore.instance().store("schema", RunConfig)
    GlobalHydra.instance().clear()
    with initialize_config_module("gr_cli.conf", version_base="1.3"):
        config = compose("config", overrides=list(words), return_hydra_config=True)
    return settings_from(config, config.hydra)
