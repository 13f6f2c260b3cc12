"""What a `ContinualTrainer` writes, if it was given a folder."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from gr_cli.errors import ConfigError, FolderError
from gr_cli.results.folder import RunFolder
from gr_cli.results.record import Record
from gr_cli.results.status import StatusWriter
from gr_cli.training.learner import Learner


class TrainerFolder:
    """The folder of one trainer. It is made at once, so that one that can't be written is found before training.

    Raises:
        ConfigError, FolderError: it holds a run already, or can't be made.
    """

    def __init__(self, output_dir: str | Path) -> None:
        if not str(output_dir):
            raise ConfigError("output_dir", "''", "must name a folder")
        self._folder = RunFolder(Path(output_dir).expanduser())
        self.check_unused()
        with self._folder.locked():
            pass

    def check_unused(self) -> None:
        """Refuse to write over another run.

        Raises:
            FolderError: there is one.
        """
        if self._folder.status() is not None:
            raise FolderError(f"{self._folder.path}: holds a run already; name another output_dir")

    def write(
        self,
        config: Mapping[str, Any],
        record: Record,
        metrics: Mapping[str, float | None],
        learner: Learner,
        tasks: Sequence[tuple[int, str]],
        provenance: Mapping[str, Any],
    ) -> None:
        """Write tables and state after a task; `tasks` are the numbers and names of all so far."""
        names = [{"task": task, "id": number, "name": name} for task, (number, name) in enumerate(tasks)]
        raw = learner.strategy.stores_raw_samples
        status = {"tasks": names, "mode": "python", "stores_raw_samples": raw, **provenance}
        with self._folder.locked():
            self._folder.write_config(yaml.safe_dump({"python_api": dict(config)}, sort_keys=False))
            self._folder.write_tables(record, metrics)
            self._folder.save_checkpoint({"record": record.state_dict(), "learner": learner.state_of(0)})
            StatusWriter(self._folder, status).write("running", "more tasks may come")
