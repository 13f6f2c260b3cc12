"""Import matplotlib with its own default settings, whatever the user or the current directory configures."""

from __future__ import annotations

import io
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
    """Make `import matplotlib` in the block read only its own default settings.

    Otherwise it would read a matplotlibrc from the current directory or the environment, and fail if that can't be read
    or if the environment names an unknown backend.
    """
    spec = find_spec("matplotlib")
    if "matplotlib" in sys.modules or spec is None or spec.origin is None:
        yield
        return
    removed = {name: os.environ.pop(name) for name in ("MATPLOTLIBRC", "MPLBACKEND") if name in os.environ}
    os.environ["MATPLOTLIBRC"] = str(Path(spec.origin).parent / "mpl-data" / "matplotlibrc")
    exists = os.path.exists
    # Changing the directory instead would affect other threads, which write files meanwhile.
    os.path.exists = lambda path: path != "matplotlibrc" and exists(path)
    try:
        yield
    finally:
        os.path.exists = exists
        del os.environ["MATPLOTLIBRC"]
        os.environ.update(removed)


@contextmanager
def _silence_logging() -> Iterator[None]:
    """Hide what matplotlib logs about its folders and fonts."""
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
    from matplotlib.figure import Figure as MatplotlibFigure
    from matplotlib.ticker import MaxNLocator, NullFormatter, StrMethodFormatter

__all__ = ["Axes", "Figure", "MaxNLocator", "NullFormatter", "StrMethodFormatter", "matplotlib"]


class Figure(MatplotlibFigure):
    """A figure without pyplot, which notebooks show all the same."""

    def _repr_png_(self) -> bytes:
        buffer = io.BytesIO()
        with _silence_logging():
            self.savefig(buffer, format="png")
        return buffer.getvalue()


@contextmanager
def isolated_matplotlib(settings: Mapping[Any, Any] | None = None) -> Iterator[None]:
    """Give matplotlib its default settings inside the block. Figures are drawn and saved there.

    Text is drawn as it is: `$` doesn't start a formula.

    Args:
        settings: Settings that differ from the defaults.
    """
    with _silence_logging(), matplotlib.rc_context(), warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing from")  # a name in a script that the font lacks
        matplotlib.rcdefaults()
        matplotlib.rcParams.update({"text.parse_math": False, **(settings or {})})
        yield
