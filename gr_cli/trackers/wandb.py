"""Weights & Biases tracker, offline by default."""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from gr_cli.trackers.base import RunInfo, RunLogger, Tracker


class WandB(Tracker):
    """Weights & Biases: files in each run's folder (`wandb sync` uploads them), or online.

    Runs of a sweep form a W&B group.

    Args:
        mode: `offline` writes files only; `online` uploads while the run trains.
        project: Name of the W&B project.
        entity: W&B user or team; `null`: the default of the account.
    """

    library = "wandb"

    def __init__(
        self, mode: Literal["offline", "online"] = "offline", project: str = "gr", entity: str | None = None
    ) -> None:
        self._mode, self._project, self._entity = mode, project, entity

    @property
    def destination(self) -> str:
        return " ".join(["wandb", self._mode, *([self._entity] if self._entity else []), self._project])

    @property
    def remote_address(self) -> str | None:
        return "wandb:" + "/".join(filter(None, (self._entity, self._project))) if self._mode == "online" else None

    def run_logger(self, run: RunInfo, run_id: str | None, last_step: int) -> RunLogger:
        import wandb

        wandb_run = wandb.init(
            project=self._project,
            entity=self._entity,
            mode=self._mode,
            dir=str(run.folder.absolute()),  # the process of W&B may have another working directory
            id=run_id or secrets.token_hex(8),  # W&B would draw an id from the global `random` state
            resume="allow",
            name=run.title,
            group=None if run.sweep is None else run.sweep.name,
            config=dict(run.config),
            tags=[f"{name}={value}"[:64] for name, value in run.tags.items()],
            reinit="create_new",  # runs that are trained as one program are logged at the same time
            settings=wandb.Settings(silent=True, console="off", save_code=False, x_disable_stats=True),
        )
        return _WandBRunLogger(wandb_run)


class _WandBRunLogger(RunLogger):
    """Logs to a W&B run. Online, W&B itself ignores steps that were logged before."""

    def __init__(self, run: Any) -> None:
        self.run_id, self._run = str(run.id), run

    def log_metrics(self, metrics_by_step: Mapping[int, Mapping[str, float]]) -> None:
        for step, values in metrics_by_step.items():
            self._run.log(dict(values), step=step)

    def log_image(self, name: str, path: Path, step: int) -> None:
        import wandb

        self._run.log({name: wandb.Image(str(path), caption=path.stem)}, step=step)

    def flush(self) -> None:
        """The process of W&B stores what was logged."""

    def finish(self, state: str, metrics: Mapping[str, float], step: int) -> None:
        self._run.summary.update({**metrics, "state": state})
        self._run.finish(exit_code=0 if state in ("finished", "pruned") else 1)

    def close(self) -> None:
        self._run.finish(exit_code=1)
