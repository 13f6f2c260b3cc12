"""The folder that runs and sweeps are written below by default."""

from __future__ import annotations

import os
from pathlib import Path

from gr_cli.errors import ConfigError

OUTPUT_ROOT_VARIABLE = "GR_OUTPUT_ROOT"


def default_output_root() -> Path:
    """The folder that the environment names, or `outputs` in the current directory.

    Raises:
        ConfigError: The environment names none, as it does for `gr-run`.
    """
    named = os.environ.get(OUTPUT_ROOT_VARIABLE, "outputs")
    if not named.strip():
        raise ConfigError(OUTPUT_ROOT_VARIABLE, named, "must name a folder", "unset it for outputs")
    return Path(os.path.expanduser(named))
