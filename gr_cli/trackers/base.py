"""What a tracker must do. When it is told what is `gr_cli.trackers.observer`'s affair."""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar


@dataclass(frozen=True)
class RunInfo:
    """A run that is to be tracked. `config`: all settings by dotted name. `sweep`: the folder of the sweep that it is
    part of."""

    folder: Path
    title: str
    config: Mapping[str, Any]
    tags: Mapping[str, str]
    sweep: Path | None = None


class RunLogger(ABC):
    """What a tracker keeps of one run. A step is an iteration, counted over all tasks; steps never go back."""

    run_id: str

    @abstractmethod
    def log_metrics(self, metrics_by_step: Mapping[int, Mapping[str, float]]) -> None:
        """Take down values by step and name, steps ascending."""

    @abstractmethod
    def log_image(self, name: str, path: Path, step: int) -> None:
        """Take down a picture, a PNG file."""

    @abstractmethod
    def flush(self) -> None:
        """See to it that what was taken down is where it belongs."""

    @abstractmethod
    def finish(self, state: str, metrics: Mapping[str, float], step: int) -> None:
        """The run ended, finished, failed or interrupted, at `step`; metrics there are only of finished ones."""

    @abstractmethod
    def close(self) -> None:
        """Let go of everything without another word."""


class Tracker(ABC):
    """Keeps logs of runs. `library`: what it needs, which is also the name of the extra that installs it."""

    library: ClassVar[str | None] = None

    @property
    @abstractmethod
    def destination(self) -> str:
        """Where the logs are: a run that has one there goes on with it, elsewhere it begins another."""

    @property
    def remote_address(self) -> str | None:
        """The address that its settings give, and nothing else here; None: they give none."""
        return None

    @abstractmethod
    def run_logger(self, run: RunInfo, run_id: str | None, last_step: int) -> RunLogger:
        """The log of a run: a new one, or the `known` one, of which steps up to `step` (-1: none) are taken down."""


def without_password(text: str) -> str:
    """A text without what addresses in it have before the @."""
    return re.sub(r"//[^/@\s]*@", "//", text)
