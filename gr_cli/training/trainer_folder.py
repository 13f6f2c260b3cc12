"""The folder of a `ContinualTrainer`: tables, checkpoint and status."""

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
    """The output folder of one trainer, created at construction so that a wrong path fails before training.

    Raises:
        ConfigError: `output_dir` is empty.
        FolderError: It contains a run already, or can't be created.
    """

    def __init__(self, output_dir: str | Path) -> None:
        if not str(output_dir):
            raise ConfigError("output_dir", "''", "must name a folder")
        self._folder = RunFolder(Path(output_dir).expanduser())
        self.check_unused()
        with self._folder.locked():
            pass

    def check_unused(self) -> None:
        """Refuse to overwrite another run.

        Raises:
            FolderError: The folder contains one.
        """
        if self._folder.status() is not None:
            raise FolderError(f"{self._folder.path}: contains a run already; choose another output_dir")

    def write(
        self,
        config: Mapping[str, Any],
        record: Record,
        metrics: Mapping[str, float | None],
        learner: Learner,
        tasks: Sequence[tuple[int, str]],
        provenance: Mapping[str, Any],
    ) -> None:
        """Write tables, checkpoint and status after a task.

        Args:
            config: The trainer's settings.
            record: Rows of all tables.
            metrics: Summary metrics.
            learner: Its state goes into the checkpoint.
            tasks: Id and name of each task so far.
            provenance: Further entries of status.json.
        """
        names = [{"task": index, "id": task_id, "name": name} for index, (task_id, name) in enumerate(tasks)]
        stores_raw_samples = learner.strategy.stores_raw_samples
        status = {"tasks": names, "mode": "python", "stores_raw_samples": stores_raw_samples, **provenance}
        with self._folder.locked():
            self._folder.write_config(yaml.safe_dump({"python_api": dict(config)}, sort_keys=False))
            self._folder.write_tables(record, metrics)
            self._folder.save_checkpoint({"record": record.state_dict(), "learner": learner.state_of(0)})
            StatusWriter(self._folder, status).write("running", "more tasks may come")
