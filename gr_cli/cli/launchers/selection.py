"""The launcher that a sweep uses: where it trains, and whether it is installed."""

from __future__ import annotations

from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

from gr_cli.config.options import PLUGIN_PACKAGES
from gr_cli.config.own_components import live_parts
from gr_cli.errors import CompositionError, ConfigError

if TYPE_CHECKING:
    from omegaconf import DictConfig

# Extras that install the launchers, by their package in `hydra_plugins`.
_EXTRAS = {"hydra_joblib_launcher": "joblib", "hydra_submitit_launcher": "slurm"}


def runs_in_this_process(hydra: Any) -> bool:
    """Whether the launcher calls the jobs in the process of the command."""
    return str(hydra.launcher._target_).endswith(("BasicLauncher", "BatchedLauncher"))


def uses_other_processes(hydra: Any) -> bool:
    """Whether the jobs are trained in other processes than that of the command."""
    from omegaconf import OmegaConf

    processes, where = (
        OmegaConf.select(hydra, f"launcher.{name}", default=default)
        for name, default in (("processes", 1), ("where", "here"))
    )
    # Whether `auto` means other processes depends on the jobs.
    return not runs_in_this_process(hydra) or processes not in (1, "auto") or where != "here"


def starts_local_processes(hydra: Any) -> bool:
    """Whether the process of the command starts worker processes on this machine."""
    target = str(hydra.launcher._target_)
    return uses_other_processes(hydra) and (
        target.endswith("JoblibLauncher") or (runs_in_this_process(hydra) and hydra.launcher.where == "here")
    )


def check_launcher(config: DictConfig) -> None:
    """Check that the launcher is installed and accepts its settings.

    Raises:
        CompositionError: Its package is not installed.
        ConfigError: It is not a launcher, or a setting does not fit.
    """
    from hydra.core.plugins import Plugins
    from omegaconf import OmegaConf

    from gr_cli.config.instantiate import check_node

    name, node = config.hydra.runtime.choices.get("hydra/launcher"), OmegaConf.select(config, "hydra.launcher")
    if not OmegaConf.is_dict(node):
        raise ConfigError("hydra/launcher", name, "must name a launcher", "see gr-run --help")
    if live_parts.get() and uses_other_processes(config.hydra):
        raise ConfigError(
            "hydra/launcher",
            name,
            "starts other processes, which don't have the objects of this call",
            "leave it out, or add hydra.launcher.processes=1 to hydra/launcher=batched",
        )
    target = str(node.get("_target_"))
    if target not in Plugins.instance().class_name_to_class:
        extra = _EXTRAS.get(target.split(".")[1] if "." in target else "")
        remedy = f"install it with: pip install 'gr-cli[{extra}]'" if extra else f"there is no {target}"
        raise CompositionError(f"hydra/launcher={name}: its package is not installed; {remedy}")
    if target.startswith(PLUGIN_PACKAGES[0]):
        ours: Any = OmegaConf.to_container(node, resolve=True)
        ours["_target_"] = target.replace(*PLUGIN_PACKAGES)
        check_node(ours, "hydra.launcher", ())
        needs_ray = target.endswith(".RayLauncher") or ours.get("where") == "ray"
        if needs_ray and find_spec("ray") is None:
            setting = f"hydra/launcher={name}" if target.endswith(".RayLauncher") else "hydra.launcher.where=ray"
            raise CompositionError(f"{setting}: Ray is not installed; install it with: pip install 'gr-cli[ray]'")
