"""What a run says of itself: how it was asked for, on what it runs, and with which others it is trained."""

from __future__ import annotations

import os
import platform
import shlex
from collections.abc import Sequence
from contextlib import suppress
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch

from gr_cli.config.settings import flatten, short_hash
from gr_cli.results.folder import HEARTBEAT_SECONDS
from gr_cli.training.experiment import Experiment

# Environment variables that let libraries of matrix products use other instructions than the processor has.
_INSTRUCTION_SET_VARIABLES = (
    "ATEN_CPU_CAPABILITY",
    "MKL_ENABLE_INSTRUCTIONS",
    "MKL_CBWR",
    "ONEDNN_MAX_CPU_ISA",
    "DNNL_MAX_CPU_ISA",
)


def provenance(experiment: Experiment) -> dict[str, Any]:
    """What status.json says of a run, but for its state and how it is trained."""
    settings, learner = experiment.settings, experiment.learner
    device = learner.device
    return {
        "seed": settings.seed,
        "config_hash": settings.identity,
        "choices": settings.choices,
        "overrides": list(settings.overrides),
        "command": shlex.join(["gr-run", *settings.overrides]),
        "directory": str(Path.cwd()),  # where relative paths begin
        "data": experiment.dataset_hash,
        "stores_raw_samples": learner.strategy.stores_raw_samples,
        "heartbeat_seconds": HEARTBEAT_SECONDS,
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else str(device),
    }


def training_provenance(experiments: Sequence[Experiment], place: int) -> dict[str, Any]:
    """How the run at `place` among those trained together is trained: all that its last digits depend on."""
    found = {
        "mode": "alone" if len(experiments) == 1 else "batched",
        "width": len(experiments),
        "threads": experiments[0].threads,
        "processor": processor(),
    }
    if len(experiments) == 1:
        return found
    jobs = [experiment.settings for experiment in experiments]
    mine = flatten(jobs[place].config)
    others = [{name: value for name, value in flatten(job.config).items() if mine.get(name) != value} for job in jobs]
    name = short_hash([f"{job.seed}-{job.identity}" for job in jobs])
    return found | {"program": {"id": name, "place": place, "size": len(jobs), "jobs": others}}


def merge_training_provenance(before: dict[str, Any] | None, now: dict[str, Any], over: bool) -> dict[str, Any]:
    """How a run is trained that was trained as `before` says, and goes on as `now`, if it is not `over`."""
    if before is None or before == now:
        return now
    if over:
        return before
    mode = before["mode"] if before["mode"].endswith(now["mode"]) else f"{before['mode']}, then {now['mode']}"
    # Trained in two ways: no one program repeats it.
    return {**now, "mode": mode, "width": None}


@lru_cache(maxsize=1)
def processor() -> dict[str, str]:
    """The processor, and the instructions that are used of it."""
    name = platform.processor() or platform.machine()
    with suppress(OSError):
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        name = next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), name)
    set_here = {variable: os.environ[variable] for variable in _INSTRUCTION_SET_VARIABLES if variable in os.environ}
    return {"name": name, "instructions": torch.backends.cpu.get_cpu_capability(), **set_here}
