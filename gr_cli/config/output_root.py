"""The folder that runs and sweeps are written below by default."""

from __future__ import annotations

import os
from pathlib import Path

OUTPUT_ROOT_VARIABLE = "GR_OUTPUT_ROOT"


def default_output_root() -> Path:
    """The folder that the environment names, or `outputs` in the current directory."""
    return Path(os.path.expanduser(os.environ.get(OUTPUT_ROOT_VARIABLE) or "outputs"))
