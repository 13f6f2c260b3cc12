"""Interrupted runs and the tables of runs. The fixtures are in `conftest.py`."""

import json
import os
import signal
from pathlib import Path

from gr_cli.results.folder import RunFolder
from gr_cli.system.checksums import checksum
from gr_cli.training.observer import RunObserver


class StopAt(RunObserver):
    """Requests a stop, as Ctrl-C does, at an iteration of a stage."""

    def __init__(self, stage: int, iteration: int) -> None:
        self.at = (stage, iteration)

    def stepped(self, stage_index, step, losses):
        if (stage_index, step.iteration) == self.at:
            os.kill(os.getpid(), signal.SIGINT)


def only_run() -> Path:
    """The folder of the only run."""
    (status,) = Path("outputs").glob("*/*/*/status.json")
    return status.parent


def csvs(folder: Path) -> dict[str, bytes]:
    """The bytes of all tables except timing.csv."""
    return {path.name: path.read_bytes() for path in sorted(folder.glob("*.csv")) if path.name != "timing.csv"}


def sealed(folder: Path) -> None:
    """Update the checksums in status.json after a change of the configuration."""
    status = json.loads((folder / "status.json").read_text())
    status["checksums"]["config.yaml"] = checksum((folder / "config.yaml").read_bytes())
    RunFolder(folder).write_status(status)
