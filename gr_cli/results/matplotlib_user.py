"""Import matplotlib for a caller from Python, who may use pyplot beside the figures of this program."""

from __future__ import annotations


def import_as_configured() -> None:
    """Import matplotlib with the settings and the backend that the user or the notebook configures."""
    import matplotlib as matplotlib
