"""The versions of what a run is computed with."""

from __future__ import annotations

import importlib.metadata
import subprocess
from contextlib import suppress
from functools import lru_cache
from pathlib import Path

_LIBRARIES = ("gr-cli", "torchvision", "hydra-core", "omegaconf", "numpy", "pandas")


@lru_cache(maxsize=1)
def commit() -> str | None:
    """The commit of this program's sources, `-dirty` if they were changed since; None if they are in no repository."""
    home = Path(__file__).parent
    try:
        # Installed in somebody else's repository, the sources are not tracked there.
        describe = ["describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
        for words in (["ls-files", "--error-unmatch", Path(__file__).name], describe):
            found = subprocess.run(["git", *words], cwd=home, capture_output=True, text=True, check=True, timeout=10)
    except (OSError, subprocess.SubprocessError):
        return None
    return found.stdout.strip() or None


@lru_cache(maxsize=1)
def versions() -> dict[str, str]:
    """The versions of the libraries that are installed, by name."""
    found = {}
    for name in _LIBRARIES:
        with suppress(importlib.metadata.PackageNotFoundError):
            found[name] = importlib.metadata.version(name)
    return found
