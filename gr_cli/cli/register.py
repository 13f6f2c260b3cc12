"""Registration with Hydra of the launchers and sweepers of this program that a command line names."""

from __future__ import annotations

from collections.abc import Iterable

from gr_cli.config.options import PLUGIN_PACKAGES

# Module and class of each launcher and sweeper of this program, by the override that chooses it.
_PLUGINS = {
    "hydra/launcher=batched": ("launchers.batched", "BatchedLauncher"),
    "hydra/launcher=ray": ("launchers.ray_launcher", "RayLauncher"),
    "hydra/sweeper=optuna": ("sweepers.optuna_sweeper", "OptunaSweeper"),
}


def register(argv: Iterable[str]) -> None:
    """Register the plugins that a command line names, as modules of `hydra_plugins`, from which Hydra takes them.

    A package of that name would work in a wheel, but not in an editable installation; a module that is registered at
    run time works in both.
    """
    argv = list(argv)
    for choice, (module, class_name) in _PLUGINS.items():
        if any(choice in argument for argument in argv):
            _register(choice, module, class_name)


def _register(choice: str, module_name: str, class_name: str) -> None:
    import importlib
    import sys
    from types import ModuleType

    from hydra.core.config_store import ConfigStore
    from hydra.core.plugins import Plugins

    Plugins.instance()  # finds the installed plugins, once
    # A plugin's schema of the same name, such as that of hydra-ray-launcher, would refuse our settings.
    group, _, option = choice.rpartition("/")[2].partition("=")
    ConfigStore.instance().repo.get("hydra", {}).get(group, {}).pop(f"{option}.yaml", None)
    try:
        importlib.import_module("hydra_plugins")
    except ModuleNotFoundError:
        sys.modules["hydra_plugins"] = ModuleType("hydra_plugins")
    prefix, own_prefix = PLUGIN_PACKAGES
    module = importlib.import_module(f"{own_prefix}{module_name}")
    name = f"{prefix}{module_name}"
    sys.modules[name] = module
    while parent := name.rpartition(".")[0]:
        child = sys.modules[name]
        setattr(sys.modules.setdefault(parent, ModuleType(parent)), name.rpartition(".")[2], child)
        name = parent
    plugin = getattr(module, class_name)
    plugin.__module__ = f"{prefix}{module_name}"
    Plugins.instance().register(plugin)
