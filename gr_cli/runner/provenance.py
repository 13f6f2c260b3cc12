"""Provenance of a run, written to status.json: command, data, device, and how it is trained."""

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

from gr_cli.config.override_text import override_of
from gr_cli.config.settings import Settings, flatten, short_hash
from gr_cli.privacy.claims import ADJACENCY, guarantee
from gr_cli.results.folder import HEARTBEAT_SECONDS
from gr_cli.results.not_covered import NOT_COVERED
from gr_cli.training.experiment import Experiment

# Environment variables by which matrix libraries use fewer instructions than the processor has.
_INSTRUCTION_SET_VARIABLES = (
    "ATEN_CPU_CAPABILITY",
    "MKL_ENABLE_INSTRUCTIONS",
    "MKL_CBWR",
    "ONEDNN_MAX_CPU_ISA",
    "DNNL_MAX_CPU_ISA",
)


def provenance(experiment: Experiment, folder: Path) -> dict[str, Any]:
    """Fields of status.json that don't depend on how the run is trained.

    Args:
        experiment: The run.
        folder: Its folder.
    """
    settings, learner = experiment.settings, experiment.learner
    device = learner.device
    location = [] if settings.names(folder) else [override_of("hydra.run.dir", folder)]
    return {
        "seed": settings.seed,
        "config_hash": settings.identity,
        "choices": settings.choices,
        "overrides": settings.recorded_overrides,
        "command": _command(settings, location),
        "directory": str(Path.cwd()),  # relative paths of the settings start there
        "data": experiment.dataset_hash,
        **({"data_files": experiment.benchmark.files} if experiment.benchmark.files else {}),
        "stores_raw_samples": learner.strategy.stores_raw_samples or experiment.benchmark.stores_raw_samples,
        "reference_for": learner.strategy.reference_for,
        "single_pass": settings.config["train"]["online"],
        **privacy_provenance(experiment),
        "heartbeat_seconds": HEARTBEAT_SECONDS,
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else str(device),
    }


def privacy_provenance(experiment: Experiment) -> dict[str, dict[str, Any]]:
    """The field `privacy` of status.json: the budget, what was spent of it so far, and what that is worth."""
    ledger = experiment.ledger
    if ledger is None:
        return {"privacy": {"guarantee": guarantee(None)}}
    privacy, spent = ledger.privacy, ledger.spent
    return {
        "privacy": {
            "guarantee": guarantee(privacy),
            "epsilon": privacy.epsilon,
            "delta": privacy.delta,
            "unit": privacy.unit,
            "adjacency": ADJACENCY,
            "across": privacy.across,
            "secure": privacy.secure,
            "spent_epsilon": spent.epsilon,
            "spent_delta": spent.delta,
            "covered": "the files that gr-run release=<run> writes",
            "not_covered": dict(NOT_COVERED),
        }
    }


def _command(settings: Settings, location: Sequence[str]) -> str:
    """The command line that starts a run, or the call from Python if it was given objects."""
    if not settings.live:
        return shlex.join(["gr-run", *settings.overrides, *location])
    objects = {path.partition(".")[0]: part.name for path, part in settings.live.items()}
    words = [repr(word) for word in (*settings.recorded_overrides, *location) if word.partition("=")[0] not in objects]
    return f"gr_cli.run({', '.join([*words, *(f'{group}=<{name}>' for group, name in objects.items())])})"


def training_provenance(experiments: Sequence[Experiment], index: int) -> dict[str, Any]:
    """How a run is trained: all that the last digits of its results depend on.

    Args:
        experiments: The runs of the group.
        index: Which of them it is.

    Returns:
        mode (`alone` or `batched`), width, threads, processor; and for a group `program`, with the settings in which
        each of its jobs differs from the run.
    """
    fields: dict[str, Any] = {
        "mode": "alone" if len(experiments) == 1 else "batched",
        "width": len(experiments),
        "threads": experiments[0].threads,
        "processor": processor(),
    }
    if len(experiments) == 1:
        return fields
    jobs = [experiment.settings for experiment in experiments]
    own = flatten(jobs[index].config)
    differences = [
        {name: value for name, value in flatten(job.config).items() if own.get(name) != value} for job in jobs
    ]
    program_id = short_hash([f"{job.seed}-{job.identity}" for job in jobs])
    return fields | {"program": {"id": program_id, "index": index, "size": len(jobs), "jobs": differences}}


def merge_training_provenance(before: dict[str, Any] | None, now: dict[str, Any], finished: bool) -> dict[str, Any]:
    """Training provenance of a resumed run.

    Args:
        before: Provenance in the checkpoint; None for a new run.
        now: Provenance of the training that follows.
        finished: Whether no training follows.
    """
    if before is None or before == now:
        return now
    if finished:
        return before
    mode = before["mode"] if before["mode"].endswith(now["mode"]) else f"{before['mode']}, then {now['mode']}"
    # Without a width: `verify` can't repeat a run that was trained in two ways exactly.
    return {**now, "mode": mode, "width": None}


@lru_cache(maxsize=1)
def processor() -> dict[str, str]:
    """Name of the processor, the instruction set that torch uses, and variables that restrict it."""
    name = platform.processor() or platform.machine()
    with suppress(OSError):
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        name = next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), name)
    set_here = {variable: os.environ[variable] for variable in _INSTRUCTION_SET_VARIABLES if variable in os.environ}
    return {"name": name, "instructions": torch.backends.cpu.get_cpu_capability(), **set_here}
