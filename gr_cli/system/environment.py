"""Versions of the source code and of the libraries."""

from __future__ import annotations

import importlib.metadata
import subprocess
from contextlib import suppress
from functools import lru_cache
from pathlib import Path

_LIBRARIES = ("gr-cli", "torchvision", "hydra-core", "omegaconf", "numpy", "pandas")


@lru_cache(maxsize=1)
def commit() -> str | None:
    """Git commit of this program's source code, with `-dirty` after uncommitted changes; None without a repository."""
    home = Path(__file__).parent
    try:
        # `ls-files` fails if the code is installed inside of another project's repository.
        describe = ["describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
        for arguments in (["ls-files", "--error-unmatch", Path(__file__).name], describe):
            done = subprocess.run(["git", *arguments], cwd=home, capture_output=True, text=True, check=True, timeout=10)
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip() or None


@lru_cache(maxsize=1)
def versions() -> dict[str, str]:
    """Versions of the installed libraries, by name."""
    versions = {}
    for name in _LIBRARIES:
        with suppress(importlib.metadata.PackageNotFoundError):
            versions[name] = importlib.metadata.version(name)
    return versions
