"""The number of processes that train the programs of a sweep at the same time.

It changes no number: which runs form a program does not depend on it.
"""

from __future__ import annotations

import shlex
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from gr_cli.system.messages import print_status

if TYPE_CHECKING:
    from gr_cli.training.experiment import Experiment

# Estimated seconds of a sweep from which further processes are worth their start, which takes a few seconds each.
_MIN_SECONDS = 20.0
# The estimate: a step costs a fixed time, and the products of all parameters with the samples of a batch, forward and
# backward, at the speed of a slow core.
_SECONDS_PER_STEP, _OPERATIONS_PER_SECOND = 5e-4, 5e10
_PROCESS_BYTES = 1 << 30  # of torch and the samples
_MEMORY_SHARE = 0.5  # of the machine's memory, for all processes together


@dataclass(frozen=True)
class PlannedProgram:
    """A program of a sweep.

    Attributes:
        jobs: Indices of its jobs.
        seconds: Estimated time of training all runs alone on one core; None: not estimated.
        memory_bytes: Upper bound of its memory, 0 if it was not computed.
    """

    jobs: list[int]
    seconds: float | None = None
    memory_bytes: int = 0


def estimated_seconds(experiment: Experiment) -> float:
    """Rough time of training a run alone on one core, from the number of its steps and parameters."""
    num_steps = experiment.learner.strategy.num_steps
    steps = sum(num_steps(stage.iterations) for stage in experiment.stages)
    batch_size = experiment.settings.config["train"]["batch_size"]
    operations = 6 * sum(experiment.parameters.values()) * batch_size
    return float(steps * (_SECONDS_PER_STEP + operations / _OPERATIONS_PER_SECOND))


def choose_processes(
    programs: Sequence[PlannedProgram], estimate: Callable[[int], float], cores: int, memory_bytes: int
) -> int:
    """Choose the number of processes: one per core for long sweeps, as far as programs and memory suffice.

    Args:
        programs: All programs.
        estimate: Estimates the seconds of a job by its index, for programs without an estimate.
        cores: Cores that the sweep may use, divided by the threads that each run is set to use.
        memory_bytes: Memory of the machine.
    """
    largest = _PROCESS_BYTES + max((program.memory_bytes for program in programs), default=0)
    processes = min(len(programs), cores, int(memory_bytes * _MEMORY_SHARE) // largest)
    if processes <= 1:
        return 1
    seconds = 0.0
    for program in sorted(programs, key=lambda program: program.seconds is None):  # an estimate loads the data
        seconds += sum(map(estimate, program.jobs)) if program.seconds is None else program.seconds
        if seconds >= _MIN_SECONDS:
            return processes
    return 1


def announce_processes(sweep: Path) -> None:
    """Say that other processes train the runs, and how to watch them."""
    print_status(f"other processes train these runs; to watch them: gr-report --watch {shlex.quote(str(sweep))}")
