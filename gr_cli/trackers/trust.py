"""Whether a tracker can be made, and whether a folder may send to where it names."""

from __future__ import annotations

import shlex
from collections.abc import Collection, Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from gr_cli.config.instantiate import build_as, foreign_targets
from gr_cli.errors import CompositionError, FolderError
from gr_cli.trackers.base import Tracker


def check_tracker(config: Mapping[str, Any]) -> None:
    """Refuse, in one line, a tracker that does not take its settings, or whose library is not there.

    Raises:
        CompositionError: says what to install.
        ConfigError: says which setting it is.
    """
    if config["tracker"] is not None:
        build_tracker(config["tracker"])


def build_tracker(node: Mapping[str, Any]) -> Tracker:
    """The tracker that a node of the configuration describes.

    Raises:
        ConfigError: it does not fit its signature, or its library is missing.
    """
    tracker: Tracker = build_as(Tracker, node, "tracker")  # type: ignore[type-abstract]
    library = tracker.library
    # A folder of that name, which a tracker may have left here, is no library.
    if library is not None and getattr(find_spec(library), "origin", None) is None:
        raise CompositionError(
            f"tracker={library}: its package is not installed; install it with: pip install 'gr-cli[{library}]'"
        )
    return tracker


def remote_addresses(config: Mapping[str, Any]) -> list[str]:
    """The address to which the tracker of a run sends what it is told, if the run's own configuration gives it. What
    was made elsewhere sends what it likes: it is code that the user must trust anyway."""
    node = config["tracker"]
    if node is None or foreign_targets({"tracker": node}):
        return []
    address = build_as(Tracker, node, "tracker").remote_address  # type: ignore[type-abstract]
    return [] if address is None else [address]


def untrusted_names(config: Mapping[str, Any]) -> list[str]:
    """What a run's configuration names that must be named again, by `trust=`, to go on with its folder."""
    return foreign_targets(config) + remote_addresses(config)


def require_trusted_address(path: Path, config: Mapping[str, Any], trusted: Collection[str]) -> None:
    """Refuse to go on with the run in `path` if it would be told at an address that only its folder names: a folder may
    come from anywhere.

    Raises:
        FolderError: says how to agree.
    """
    for address in remote_addresses(config):
        if address not in trusted:
            raise FolderError(
                f"{path / 'config.yaml'}: names {address} as where the run is tracked; if it shall be told there, say "
                f"{shlex.quote(f'trust={address}')}"
            )
