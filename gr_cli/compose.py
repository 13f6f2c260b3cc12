"""What the door and its sweeps share: from Hydra's composed configuration to the settings of one run."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from omegaconf import DictConfig

    from gr_cli.settings import Settings

OUTPUTS = Path("outputs")
GROUPS = ("benchmark", "model", "generator", "strategy", "optimizer", "preset")


def settings_from(config: DictConfig, hydra: Any) -> Settings:
    """Settings from what Hydra composed; `hydra` is its own part of the configuration."""
    from omegaconf import OmegaConf

    from gr_cli.settings import Settings

    plain: Any = OmegaConf.to_container(config, resolve=True)
    plain.pop("hydra", None)
    choices = {group: hydra.runtime.choices.get(group) for group in GROUPS}
    return Settings.checked(plain, choices, list(hydra.overrides.task))
