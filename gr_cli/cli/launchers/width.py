"""How many runs of a sweep one program holds: a rule of settings and shapes alone, the same on every machine.

Programs of different width round differently, so no clock and no memory that happens to be free has a say in it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from math import isclose
from typing import Any

from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase

from gr_cli.benchmarks.base import EVALUATION_BATCH
from gr_cli.config.settings import Settings
from gr_cli.errors import one_line
from gr_cli.strategies.steps import Batch, Position
from gr_cli.training.batches import batches, passes
from gr_cli.training.build import build_learner
from gr_cli.training.experiment import Experiment, prepare
from gr_cli.training.learner import Learner, Losses
from gr_cli.training.stacking import side_by_side

_STEPS = 2  # of each of two tasks, in which runs alone and together are compared: the second shows what the first did
# Beside the state of a run: gradients and a temporary of the optimiser; beside outputs: their gradients, and as many
# temporaries.
_STATES, _OUTPUTS = 3, 3


@dataclass(frozen=True)
class WidthChoice:
    """How many runs one program holds.

    Attributes:
        width: the most runs in one program; 1: each runs alone.
        reason: why, if it is less than was asked for; else empty.
        bytes_per_run: upper bound of the memory that one run more takes; 0 where it was not needed.
    """

    width: int
    reason: str = ""
    bytes_per_run: int = 0


def choose_width(jobs: Sequence[Settings], width: int, memory: int) -> WidthChoice:
    """The width of the programs for jobs that are alike.

    Args:
        jobs: at least one.
        width: the most runs that one program may hold.
        memory: the most bytes that the runs of one program may take.

    Raises:
        ConfigError, DataError: not even the first can be prepared.
    """
    if min(width, len(jobs)) == 1:
        return WidthChoice(1, "that is the width asked for")
    first = prepare(jobs[0])
    obstacle, size = _compared(first, jobs[:2])
    if obstacle:
        return WidthChoice(1, obstacle)
    fits = max(1, memory // size)
    if fits >= min(width, len(jobs)):
        return WidthChoice(width, "", size)
    reason = (
        f"a run takes up to {-(-size >> 20):,} MiB, and hydra.launcher.memory_mib={memory >> 20} is for all of them"
    )
    return WidthChoice(fits, reason, size)


def _compared(first: Experiment, pair: Sequence[Settings]) -> tuple[str, int]:
    """Why these two jobs can't be replicas of one program, if so; and the bytes that one of them takes at most."""
    learner = first.learner
    if learner.stretches is not None:
        return "runs that are told no boundary are not compared in a few steps", 0
    for network in (learner.solver, learner.generator):
        for name, module in network.named_modules() if network is not None else ():
            if isinstance(module, _NormBase) and module.track_running_stats:
                return f"{type(module).__name__} `{name}` keeps running statistics", 0
    if learner.strategy.steps(1000) == 0:
        return "nothing is learnt by steps", 0
    try:
        meters = [_Meter() for _ in pair]
        alone = [_losses(first, [job], meter) for job, meter in zip(pair, meters, strict=True)]
        together = _losses(first, pair, _Meter())
    except Exception as error:  # whatever a network of the user's own does that can't be batched
        return f"{type(error).__name__}: {one_line(error)[:120]}", 0
    for step, both in enumerate(together):
        for name, values in both.items():
            for replica, found in enumerate(values.tolist()):
                expected = alone[replica][step][name].item()
                if not isclose(found, expected, rel_tol=1e-2, abs_tol=1e-3):
                    return f"as one program their loss `{name}` would be {found:.6g} instead of {expected:.6g}", 0
    return "", max(meter.bytes_per_run for meter in meters)


class _Meter:
    """Counts what a run of one replica holds, from shapes: its state, and what its layers give in one step."""

    def __init__(self) -> None:
        self._now = self._step = self._state = 0

    @property
    def bytes_per_run(self) -> int:
        """An upper bound of the memory of the run, samples not counted: those are shared."""
        return max(1, _STATES * self._state + _OUTPUTS * self._step)

    def attach(self, learner: Learner) -> None:
        """Count the outputs of the layers of `learner`."""
        for network in (learner.solver, learner.generator):
            for module in network.modules() if network is not None else ():
                if not list(module.children()):
                    module.register_forward_hook(self._count)

    def _count(self, module: nn.Module, arguments: Any, output: Any) -> None:
        self._now += _nbytes(output)

    def stepped(self) -> None:
        """A step is over."""
        self._step, self._now = max(self._step, self._now), 0

    def close(self, learner: Learner) -> None:
        """The last step is over."""
        self._state = _nbytes(learner.state_of(0))


def _nbytes(value: Any) -> int:
    """Bytes of all tensors in nested dicts and lists."""
    if isinstance(value, Tensor):
        return value.numel() * value.element_size()
    parts = value.values() if isinstance(value, Mapping) else value if isinstance(value, (list, tuple)) else ()
    return sum(map(_nbytes, parts))


def _few(experiments: Sequence[Experiment], number: int) -> Iterator[Batch]:
    """The batches of a stage, as if its first samples were all that it has: consolidation shall not take long."""
    most = min(EVALUATION_BATCH, *(len(experiment.stages[number].train) for experiment in experiments))
    for batch in batches(experiments, number, 0):
        yield batch if batch.index is None else replace(batch, index=batch.index % most)


def _losses(first: Experiment, jobs: Sequence[Settings], meter: _Meter) -> list[Losses]:
    """The losses of the first steps of the first two tasks, of jobs on the data of `first` with fresh networks."""
    spec, heads, device = first.benchmark.spec, first.learner.heads, first.learner.device
    experiments = [replace(first, settings=job, learner=build_learner(job.config, spec, heads, device)) for job in jobs]
    learner = side_by_side(experiments)
    meter.attach(learner)
    found: list[Losses] = []

    def noted(position: Position, losses: Losses) -> None:
        found.append(losses)
        meter.stepped()

    for number, stage in enumerate(first.stages[:2]):
        samples = passes(experiments, number, 1)
        few = islice(_few(experiments, number), _STEPS)
        learner.train_task(stage.task, few, stage.iterations, noted, 0, samples)
        # An update of the generator may be due much later; it shall be tried, too.
        noted(Position(stage.task, 0, 1), learner.step_generator(next(_few(experiments, number)), stage.task))
    meter.close(learner)
    return found
