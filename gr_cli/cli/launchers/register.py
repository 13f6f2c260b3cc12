"""Ways to run the jobs of a sweep, for Hydra."""

from __future__ import annotations


def register() -> None:
    """Make the batched launcher known to Hydra, which takes launchers from the package `hydra_plugins` only.

    A package of ours below that name would be found in a wheel and not in an editable installation; a module that is
    put there by hand is found in both.
    """
    import importlib
    import sys
    from types import ModuleType

    from hydra.core.plugins import Plugins

    from gr_cli.cli.launchers import batched

    Plugins.instance()  # looks for plugins that are installed, once
    try:
        plugins = importlib.import_module("hydra_plugins")
    except ModuleNotFoundError:
        plugins = sys.modules["hydra_plugins"] = ModuleType("hydra_plugins")
    ours = sys.modules["hydra_plugins.gr_cli"] = ModuleType("hydra_plugins.gr_cli")
    sys.modules["hydra_plugins.gr_cli.batched"] = batched
    plugins.gr_cli, ours.batched = ours, batched  # type: ignore[attr-defined]
    batched.BatchedLauncher.__module__ = "hydra_plugins.gr_cli.batched"
    Plugins.instance().register(batched.BatchedLauncher)
