"""Registration of the program's launchers with Hydra."""

from __future__ import annotations

from collections.abc import Iterable

# Module and class of each launcher in this package, by its name in `hydra/launcher`.
_LAUNCHERS = {"batched": ("batched", "BatchedLauncher"), "ray": ("ray_launcher", "RayLauncher")}


def register(argv: Iterable[str]) -> None:
    """Register the launchers that a command line names, as modules of `hydra_plugins`, from which Hydra takes them.

    A package of that name would work in a wheel, but not in an editable installation; a module that is registered at
    run time works in both.
    """
    words = list(argv)
    for name, (module, class_name) in _LAUNCHERS.items():
        if any(f"hydra/launcher={name}" in word for word in words):
            _register(name, module, class_name)


def _register(name: str, module_name: str, class_name: str) -> None:
    import importlib
    import sys
    from types import ModuleType

    from hydra.core.config_store import ConfigStore
    from hydra.core.plugins import Plugins

    Plugins.instance()  # finds the installed plugins, once
    # A plugin's schema of the same name, such as that of hydra-ray-launcher, would refuse our settings.
    ConfigStore.instance().repo.get("hydra", {}).get("launcher", {}).pop(f"{name}.yaml", None)
    try:
        plugins = importlib.import_module("hydra_plugins")
    except ModuleNotFoundError:
        plugins = sys.modules["hydra_plugins"] = ModuleType("hydra_plugins")
    ours = sys.modules.setdefault("hydra_plugins.gr_cli", ModuleType("hydra_plugins.gr_cli"))
    module = importlib.import_module(f"gr_cli.cli.launchers.{module_name}")
    sys.modules[f"hydra_plugins.gr_cli.{module_name}"] = module
    plugins.gr_cli = ours  # type: ignore[attr-defined]
    setattr(ours, module_name, module)
    launcher = getattr(module, class_name)
    launcher.__module__ = f"hydra_plugins.gr_cli.{module_name}"
    Plugins.instance().register(launcher)
