"""What a run says of itself: how it was asked for, on what it runs, and with which others."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from gr_cli.assembly import Experiment
from gr_cli.results.folder import BEAT, RunFolder
from gr_cli.settings import Settings, short_hash


def facts(experiment: Experiment, folder: RunFolder, jobs: Sequence[Settings]) -> dict[str, Any]:
    """What status.json tells of the run of `folder`, beside the other `jobs`, but for its state."""
    settings, learner = experiment.settings, experiment.learner
    device = learner.device
    program = {"program": _program(settings, jobs)} if len(jobs) > 1 else {}
    return program | {
        "seed": settings.seed,
        "config_hash": settings.identity,
        "choices": settings.choices,
        "overrides": list(settings.overrides),
        "command": shlex.join(["gr-run", *settings.overrides]),
        "directory": str(Path.cwd()),  # where relative paths begin
        "data": experiment.data,
        "stores_raw_samples": learner.strategy.stores_raw_samples,
        "heartbeat_seconds": BEAT,
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else str(device),
        "threads": experiment.threads,
        "mode": _mode(folder, len(jobs)),
    }


def _mode(folder: RunFolder, together: int) -> str:
    """How a run is trained, if so many are trained together; and how it was before, if it goes on otherwise."""
    now, before = "alone" if together == 1 else "batched", (folder.status() or {}).get("mode", "")
    return now if before in ("", now) else before if before.endswith(now) else f"{before}, then {now}"


def _program(mine: Settings, jobs: Sequence[Settings]) -> dict[str, Any]:
    """Which runs are trained as one: what is interrupted together can go on together, and so find the same."""
    names = [f"{job.seed}-{job.identity}" for job in jobs]
    place = next(i for i, job in enumerate(jobs) if job is mine)
    return {"id": short_hash(names), "place": place, "size": len(jobs)}
