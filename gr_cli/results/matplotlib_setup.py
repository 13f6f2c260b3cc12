"""matplotlib with settings of its own: neither those of the user nor those of a directory have a say in a picture."""

from __future__ import annotations

import logging
import os
import sys
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any


@contextmanager
def _without_user_matplotlibrc() -> Iterator[None]:
    """Inside the block, let `import matplotlib` read nothing but the settings that it ships.

    It would look for them in the current directory first, where anything may lie, then where the environment says, and
    would fail if it can't read them, or if the environment names a backend that is not there.
    """
    spec = find_spec("matplotlib")
    if "matplotlib" in sys.modules or spec is None or spec.origin is None:
        yield
        return
    kept = {name: os.environ.pop(name) for name in ("MATPLOTLIBRC", "MPLBACKEND") if name in os.environ}
    os.environ["MATPLOTLIBRC"] = str(Path(spec.origin).parent / "mpl-data" / "matplotlibrc")
    exists = os.path.exists
    # Not by going to another directory: other threads write files meanwhile.
    os.path.exists = lambda path: path != "matplotlibrc" and exists(path)
    try:
        yield
    finally:
        os.path.exists = exists
        del os.environ["MATPLOTLIBRC"]
        os.environ.update(kept)


@contextmanager
def _silence_logging() -> Iterator[None]:
    """What matplotlib logs of its folders and fonts is no news of a run."""
    logger = logging.getLogger("matplotlib")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)


with _silence_logging(), _without_user_matplotlibrc():
    import matplotlib
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator, NullFormatter, StrMethodFormatter

__all__ = ["Axes", "Figure", "MaxNLocator", "NullFormatter", "StrMethodFormatter", "matplotlib"]


@contextmanager
def isolated_matplotlib(settings: Mapping[Any, Any] | None = None) -> Iterator[None]:
    """Inside the block matplotlib has its defaults and `settings`, and draws text as it stands: no dollar begins a
    formula. Pictures are made and saved inside it."""
    with _silence_logging(), matplotlib.rc_context(), warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing from")  # a name in a script that the font lacks
        matplotlib.rcdefaults()
        matplotlib.rcParams.update({"text.parse_math": False, **(settings or {})})
        yield
