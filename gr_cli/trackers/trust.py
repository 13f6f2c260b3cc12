"""Building trackers from their settings, and asking for consent before a resumed run sends data to an address."""

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
    """Check that the configured tracker, if any, can be built.

    Raises:
        CompositionError: Its library is not installed.
        ConfigError: A setting does not fit the tracker's signature.
    """
    if config["tracker"] is not None:
        build_tracker(config["tracker"])


def build_tracker(node: Mapping[str, Any]) -> Tracker:
    """Build the tracker that a node of the configuration describes.

    Raises:
        CompositionError: Its library is not installed.
        ConfigError: A setting does not fit the tracker's signature.
    """
    tracker: Tracker = build_as(Tracker, node, "tracker")  # type: ignore[type-abstract]
    library = tracker.library
    # Without `origin` it is a namespace package: a folder of that name, such as `wandb`, in the working directory.
    if library is not None and getattr(find_spec(library), "origin", None) is None:
        raise CompositionError(
            f"tracker={library}: its package is not installed; install it with: pip install 'gr-cli[{library}]'"
        )
    return tracker


def remote_addresses(config: Mapping[str, Any]) -> list[str]:
    """The address that the configured tracker sends to, if the configuration names one.

    A tracker class from outside of this package is not asked: it is code that the user has to trust anyway.
    """
    node = config["tracker"]
    if node is None or foreign_targets({"tracker": node}):
        return []
    address = build_as(Tracker, node, "tracker").remote_address  # type: ignore[type-abstract]
    return [] if address is None else [address]


def untrusted_names(config: Mapping[str, Any]) -> list[str]:
    """Classes and addresses in a configuration that `resume=` accepts only if `trust=` names them again."""
    return foreign_targets(config) + remote_addresses(config)


def require_trusted_address(path: Path, config: Mapping[str, Any], trusted: Collection[str]) -> None:
    """Check that the user has named the address that the run in `path` sends to: a folder may come from anywhere.

    Raises:
        FolderError: The address is missing in `trusted`.
    """
    for address in remote_addresses(config):
        if address not in trusted:
            raise FolderError(
                f"{path / 'config.yaml'}: names {address} as where the run is tracked; to send data there, add "
                f"{shlex.quote(f'trust={address}')}"
            )
