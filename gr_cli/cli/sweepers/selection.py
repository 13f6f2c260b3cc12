"""The sweeper of a sweep: whether it is installed and accepts its settings."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

from gr_cli.config.options import PLUGIN_PACKAGES
from gr_cli.errors import CompositionError, ConfigError

if TYPE_CHECKING:
    from omegaconf import DictConfig

_INSTALL = "install it with: pip install 'gr-cli[optuna]'"
_OLDEST_OPTUNA = 5


def sweeper_target(config: DictConfig) -> str:
    """The name of the sweeper's class.

    Raises:
        ConfigError: The configuration names none.
    """
    from omegaconf import OmegaConf

    node = OmegaConf.select(config, "hydra.sweeper")
    if not OmegaConf.is_dict(node) or "_target_" not in node:
        choice = config.hydra.runtime.choices.get("hydra/sweeper")
        raise ConfigError("hydra/sweeper", choice, "must name a sweeper", "leave it out for combinations of values")
    return str(node["_target_"])


def launches_own_jobs(config: DictConfig) -> bool:
    """Whether the sweeper is Hydra's basic one or one of this program, which keep a sweep.json."""
    return sweeper_target(config).endswith("BasicSweeper") or sweeper_target(config).startswith(PLUGIN_PACKAGES[0])


def check_not_private(sweeper: str | None, epsilon: float | None) -> None:
    """Refuse a sweeper that chooses settings by the results of runs with a budget of privacy.

    Args:
        sweeper: Option of the config group `hydra/sweeper`.
        epsilon: `privacy.epsilon`.

    Raises:
        ConfigError: The runs have a budget.
    """
    if epsilon is not None:
        raise ConfigError(
            "hydra/sweeper",
            sweeper,
            f"each trial would spend ε = {epsilon:g} on the same samples, and read its objective from them",
            "search on other samples with privacy.epsilon=null; combinations of -m are trained, and their ε added",
        )


def check_foreign_sweeper(config: DictConfig, epsilon: float | None) -> None:
    """Refuse runs with a budget of privacy under another sweeper than Hydra's basic one or one of this program: it may
    be adaptive, and counts no budget.

    Args:
        config: A configuration with the settings of Hydra.
        epsilon: `privacy.epsilon`.

    Raises:
        ConfigError: The runs have a budget.
    """
    if not launches_own_jobs(config):
        choice = str(config.hydra.runtime.choices.get("hydra/sweeper"))
        check_not_private(sweeper_target(config).rpartition(".")[2] if choice == "basic" else choice, epsilon)


def check_sweeper(config: DictConfig) -> None:
    """Check that a sweeper of this program has the packages that it needs, and accepts its settings.

    Raises:
        CompositionError: A package is not installed, or too old.
        ConfigError: A setting does not fit, or another sweeper would train runs with a budget of privacy.
    """
    from omegaconf import OmegaConf

    from gr_cli.config.instantiate import check_node

    target = sweeper_target(config)
    check_foreign_sweeper(config, OmegaConf.select(config, "privacy.epsilon"))
    if not target.startswith(PLUGIN_PACKAGES[0]):
        return
    ours: Any = OmegaConf.to_container(config.hydra.sweeper, resolve=True)
    check_node(ours | {"_target_": target.replace(*PLUGIN_PACKAGES)}, "hydra.sweeper", ())
    try:
        installed = version("optuna")
    except PackageNotFoundError:
        raise CompositionError(f"hydra/sweeper=optuna: Optuna is not installed; {_INSTALL}") from None
    if int(installed.partition(".")[0]) < _OLDEST_OPTUNA:
        raise CompositionError(
            f"hydra/sweeper=optuna: Optuna {installed} is installed, and {_OLDEST_OPTUNA}.0 or newer is needed; "
            "upgrade it with: pip uninstall hydra-optuna-sweeper; pip install -U 'gr-cli[optuna]'"
        )
    if ours["sampler"] == "cmaes" and find_spec("cmaes") is None:
        raise CompositionError(f"hydra.sweeper.sampler=cmaes: cmaes is not installed; {_INSTALL}")
