"""Registration of the batched launcher with Hydra."""

from __future__ import annotations


def register() -> None:
    """Register the batched launcher as a module of `hydra_plugins`, the only package that Hydra takes launchers from.

    A package of that name would work in a wheel, but not in an editable installation; a module that is registered at
    run time works in both.
    """
    import importlib
    import sys
    from types import ModuleType

    from hydra.core.plugins import Plugins

    from gr_cli.cli.launchers import batched

    Plugins.instance()  # finds the installed plugins, once
    try:
        plugins = importlib.import_module("hydra_plugins")
    except ModuleNotFoundError:
        plugins = sys.modules["hydra_plugins"] = ModuleType("hydra_plugins")
    ours = sys.modules["hydra_plugins.gr_cli"] = ModuleType("hydra_plugins.gr_cli")
    sys.modules["hydra_plugins.gr_cli.batched"] = batched
    plugins.gr_cli, ours.batched = ours, batched  # type: ignore[attr-defined]
    batched.BatchedLauncher.__module__ = "hydra_plugins.gr_cli.batched"
    Plugins.instance().register(batched.BatchedLauncher)
