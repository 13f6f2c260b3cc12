"""Continual learning with generative replay: experiments from the command line (`gr-run`) or from Python."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from gr_cli._version import __version__

if TYPE_CHECKING:
    from gr_cli.errors import GrError as GrError
    from gr_cli.generators import VAE as VAE
    from gr_cli.generators import ConvVAE as ConvVAE
    from gr_cli.models import SimpleMLP as SimpleMLP
    from gr_cli.runner.load import load_run as load_run
    from gr_cli.training.trainer import ContinualTrainer as ContinualTrainer

# Loaded on first use: torch costs seconds, and the command line's help needs none of it.
_HOME = {
    "ContinualTrainer": "gr_cli.training.trainer",
    "ConvVAE": "gr_cli.generators",
    "GrError": "gr_cli.errors",
    "SimpleMLP": "gr_cli.models",
    "VAE": "gr_cli.generators",
    "load_run": "gr_cli.runner.load",
}
__all__ = [*sorted(_HOME), "__version__"]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_HOME[name]), name)
