"""The global state of Hydra and OmegaConf, restored after a call from a Python program."""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any


@contextmanager
def isolated_hydra() -> Iterator[None]:
    """Restore what Hydra changes inside the block: its singletons, resolvers, stored configurations, environment.

    A program that uses Hydra itself finds its own state again.
    """
    from hydra.core.config_store import ConfigStore
    from hydra.core.global_hydra import GlobalHydra
    from hydra.core.hydra_config import HydraConfig
    from hydra.core.plugins import Plugins
    from hydra.core.singleton import Singleton
    from hydra.version import VersionBase
    from omegaconf.basecontainer import BaseContainer

    Plugins.instance()  # stores the configurations of the plugins, once in a process
    store: Any = ConfigStore.instance()
    classes: tuple[Any, ...] = (GlobalHydra, HydraConfig, VersionBase)
    instances: Any = Singleton._instances
    previous = {each: instances.pop(each) for each in classes if each in instances}
    resolvers, repository, environment = dict(BaseContainer._resolvers), _copy_folders(store.repo), dict(os.environ)
    try:
        with warnings.catch_warnings():
            yield
    finally:
        for each in classes:
            instances.pop(each, None)
        instances.update(previous)
        BaseContainer._resolvers.clear()
        BaseContainer._resolvers.update(resolvers)
        store.repo = repository
        for name in os.environ.keys() - environment.keys():
            del os.environ[name]
        os.environ.update(environment)


def _copy_folders(tree: Any) -> Any:
    return {name: _copy_folders(entry) for name, entry in tree.items()} if isinstance(tree, dict) else tree
