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
    from gr_cli.python.many_runs import load_evaluations as load_evaluations
    from gr_cli.python.many_runs import load_histories as load_histories
    from gr_cli.python.many_runs import load_results as load_results
    from gr_cli.python.many_runs import load_tables as load_tables
    from gr_cli.python.run_result import Run as Run
    from gr_cli.python.run_result import load_run as load_run
    from gr_cli.python.start import run as run
    from gr_cli.python.start import sweep as sweep
    from gr_cli.python.sweep_result import Sweep as Sweep
    from gr_cli.runner.released import Release as Release
    from gr_cli.runner.released import load_release as load_release
    from gr_cli.training.trainer import ContinualTrainer as ContinualTrainer

# Loaded on first use: torch costs seconds, and the command line's help needs none of it.
_HOME = {
    "ContinualTrainer": "gr_cli.training.trainer",
    "ConvVAE": "gr_cli.generators",
    "GrError": "gr_cli.errors",
    "Release": "gr_cli.runner.released",
    "Run": "gr_cli.python.run_result",
    "SimpleMLP": "gr_cli.models",
    "Sweep": "gr_cli.python.sweep_result",
    "VAE": "gr_cli.generators",
    "load_evaluations": "gr_cli.python.many_runs",
    "load_histories": "gr_cli.python.many_runs",
    "load_release": "gr_cli.runner.released",
    "load_results": "gr_cli.python.many_runs",
    "load_run": "gr_cli.python.run_result",
    "load_tables": "gr_cli.python.many_runs",
    "run": "gr_cli.python.start",
    "sweep": "gr_cli.python.start",
}
__all__ = [*sorted(_HOME), "__version__"]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_HOME[name]), name)
