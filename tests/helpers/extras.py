"""Skip marks for tests that need an extra."""

import importlib.util

import pytest


def installed(package: str) -> bool:
    """Whether the plugin of a Hydra launcher is installed."""
    return bool(importlib.util.find_spec("hydra_plugins") and importlib.util.find_spec(f"hydra_plugins.{package}"))


needs_joblib = pytest.mark.skipif(not installed("hydra_joblib_launcher"), reason="gr-cli[joblib] is not installed")
needs_optuna = pytest.mark.skipif(importlib.util.find_spec("optuna") is None, reason="gr-cli[optuna] is not installed")
needs_ray = pytest.mark.skipif(importlib.util.find_spec("ray") is None, reason="gr-cli[ray] is not installed")
