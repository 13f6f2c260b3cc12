"""How many runs of a sweep one program holds: a rule of settings and shapes alone, the same on every machine.

Programs of different width round differently, so no clock, no processor's cache and no memory that happens to be free
has a say in it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from math import isclose
from operator import itemgetter
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase
from torch.nn.modules.conv import _ConvNd

from gr_cli.benchmarks.base import EVALUATION_BATCH
from gr_cli.config.settings import Settings
from gr_cli.errors import one_line
from gr_cli.strategies.context import Batch, TrainingStep
from gr_cli.training.batches import batches, sample_passes
from gr_cli.training.build import build_learner
from gr_cli.training.experiment import Experiment, prepare
from gr_cli.training.learner import Learner, Losses
from gr_cli.training.stacking import stack_learners

_TRIAL_STEPS = (
    2  # of each of two tasks, in which runs alone and together are compared: the second shows what the first did
)
# Beside the state of a run: gradients and a temporary of the optimiser; beside outputs: their gradients, and as many
# temporaries.
_STATE_COPIES, _OUTPUT_COPIES = 3, 3
# Most bytes of gradients and outputs in a step of a program, without convolutions and with them: see `fastest_width`.
_LINEAR_STEP_BYTES, _CONVOLUTIONAL_STEP_BYTES = 64 << 20, 12 << 20


@dataclass(frozen=True)
class MemoryModel:
    """What one run holds, from the shapes of its tensors.

    Attributes:
        gradients: bytes of the gradients of all its parameters.
        outputs: bytes that its layers give in one step, and that wait for the backward pass.
        state: bytes of the state of the run.
        convolutional: whether solver or generator has convolutions.
    """

    gradient_bytes: int
    activation_bytes: int
    state_bytes: int = 0
    has_convolutions: bool = False

    @property
    def bytes_per_step(self) -> int:
        """Bytes that each step takes and gives back."""
        return max(1, self.gradient_bytes + self.activation_bytes)

    @property
    def bytes_per_run(self) -> int:
        """An upper bound of the memory of the run, samples not counted: those are shared."""
        return max(1, _STATE_COPIES * self.state_bytes + _OUTPUT_COPIES * self.activation_bytes)


def fastest_width(memory_model: MemoryModel) -> int:
    """The most runs of this size in a program before wider ones get slower: a fixed budget of bytes for a step.

    Stacking saves the time around small products, most of it by width 8. Past 64 MiB that a step takes and gives back,
    the C library returns memory to the system at each step and gets it back page by page: `preset=dgr_paper` with 400
    units (10 MiB for each run) took 1.00 times the best processor time in programs of 8 runs, 1.11 in those of 16,
    1.16 in those of 32, and 1.09 alone; with 100 units (3.5 MiB) 1.00, 1.02, 1.09 and 1.26; the embedded default
    (0.7 MiB) was fastest with 32 and took 2.75 times as long alone. A stacked convolution is a grouped one, whose
    kernels are slower: cnn and conv_vae took on MNIST (17 MiB) 1.15 times as long in programs of 4 as alone, 1.72 times
    in those of 16; on digits (2.1 MiB) they were fastest with 6, and took 1.34 times as long alone, 1.14 with 3 and
    1.16 with 8.
    Measured by `scripts/bench_sweep.py --widths` with one thread of a server's processor (AVX-512, 32 MiB of cache).
    """
    return max(
        1,
        (_CONVOLUTIONAL_STEP_BYTES if memory_model.has_convolutions else _LINEAR_STEP_BYTES)
        // memory_model.bytes_per_step,
    )


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


def choose_width(jobs: Sequence[Settings], max_width: int, max_bytes: int) -> WidthChoice:
    """The width of the programs for jobs that are alike.

    Args:
        jobs: at least one.
        width: the most runs that one program may hold.
        memory: the most bytes that the runs of one program may take.

    Raises:
        ConfigError, DataError: not even the first can be prepared.
    """
    if min(max_width, len(jobs)) == 1:
        return WidthChoice(1, "that is the width asked for")
    first = prepare(jobs[0])
    obstacle, size = _compare_batched_losses(first, jobs[:2])
    if obstacle:
        return WidthChoice(1, obstacle)
    fits, needed = max_bytes // size.bytes_per_run, f"a run takes up to {-(-size.bytes_per_run >> 20):,} MiB"
    limits = [(max(1, fits), f"{needed}, and hydra.launcher.memory_mib={max_bytes >> 20} is for all of them")]
    if first.learner.device.type == "cpu":
        what = "a run with convolutions" if size.has_convolutions else "a run"
        limits.append(
            (fastest_width(size), f"wider is slower: a step of {what} takes {size.bytes_per_step / 2**20:.1f} MiB")
        )
    narrowest, reason = min(limits, key=itemgetter(0))
    wide_enough = narrowest >= min(max_width, len(jobs))
    return WidthChoice(max_width if wide_enough else narrowest, "" if wide_enough else reason, size.bytes_per_run)


def _compare_batched_losses(first: Experiment, pair: Sequence[Settings]) -> tuple[str, MemoryModel]:
    """Why these two jobs can't be replicas of one program, if so; and what one of them holds."""
    learner, unknown = first.learner, MemoryModel(0, 0)
    if learner.consolidation_schedule is not None:
        return "runs that are told no boundary are not compared in a few steps", unknown
    for name, module in _named_modules(learner):
        if isinstance(module, _NormBase) and module.track_running_stats:
            return f"{type(module).__name__} `{name}` keeps running statistics", unknown
    if learner.strategy.num_steps(1000) == 0:
        return "nothing is learnt by steps", unknown
    try:
        alone = [_trial_losses(first, [job]) for job in pair]
        together, _ = _trial_losses(first, pair)
    except Exception as error:  # whatever a network of the user's own does that can't be batched
        return f"{type(error).__name__}: {one_line(error)[:120]}", unknown
    for step, both in enumerate(together):
        for name, values in both.items():
            for (losses, _), found in zip(alone, values.tolist(), strict=True):
                expected = losses[step][name].item()
                if not isclose(found, expected, rel_tol=1e-2, abs_tol=1e-3):
                    return f"as one program their loss `{name}` would be {found:.6g} instead of {expected:.6g}", unknown
    return "", alone[0][1]


def _named_modules(learner: Learner) -> Iterator[tuple[str, nn.Module]]:
    """All parts of solver and generator, by their names there."""
    for network in (learner.solver, learner.generator):
        yield from network.named_modules() if network is not None else ()


def _nbytes(value: Any) -> int:
    """Bytes of all tensors in nested dicts and lists."""
    if isinstance(value, Tensor):
        return value.numel() * value.element_size()
    parts = value.values() if isinstance(value, Mapping) else value if isinstance(value, (list, tuple)) else ()
    return sum(map(_nbytes, parts))


def _small_batches(experiments: Sequence[Experiment], number: int) -> Iterator[Batch]:
    """The batches of a stage, as if its first samples were all that it has: consolidation shall not take long."""
    most = min(EVALUATION_BATCH, *(len(experiment.stages[number].train) for experiment in experiments))
    for batch in batches(experiments, number, 0):
        yield batch if batch.sample_index is None else replace(batch, sample_index=batch.sample_index % most)


def experiments_on_same_data(first: Experiment, jobs: Sequence[Settings]) -> list[Experiment]:
    """Experiments of these jobs with fresh networks, on the data and the stages of `first`."""
    spec, heads, device = first.benchmark.spec, first.learner.task_units, first.learner.device
    return [replace(first, settings=job, learner=build_learner(job.config, spec, heads, device)) for job in jobs]


def _trial_losses(first: Experiment, jobs: Sequence[Settings]) -> tuple[list[Losses], MemoryModel]:
    """The losses of the first steps of the first two tasks, of jobs on the data of `first`; and what they hold."""
    experiments = experiments_on_same_data(first, jobs)
    learner = stack_learners(experiments)
    found: list[Losses] = []
    outputs = [0]  # bytes, of each step

    def count(module: nn.Module, arguments: Any, output: Any) -> None:
        # What frozen networks give is let go at once, in parts that are smaller where more replicas give them.
        outputs[-1] += _nbytes(output) if torch.is_grad_enabled() else 0

    def noted(position: TrainingStep, losses: Losses) -> None:
        found.append(losses)
        outputs.append(0)

    for _, module in _named_modules(learner):
        if not list(module.children()):
            module.register_forward_hook(count)
    for number, stage in enumerate(first.stages[:2]):
        samples = sample_passes(experiments, number, 1)
        few = islice(_small_batches(experiments, number), _TRIAL_STEPS)
        learner.train_task(stage.task, few, stage.iterations, noted, 0, samples)
        # An update of the generator may be due much later; it shall be tried, too.
        noted(
            TrainingStep(stage.task, 0, 1),
            learner.step_generator(next(_small_batches(experiments, number)), stage.task),
        )
    return found, MemoryModel(
        gradient_bytes=_nbytes([descent.parameters for descent in learner.functional_optimizers.values()]),
        activation_bytes=max(outputs),
        state_bytes=_nbytes(learner.state_of(0)),
        has_convolutions=any(isinstance(module, _ConvNd) for _, module in _named_modules(learner)),
    )
