"""The width of batched programs: how many runs one program trains.

Programs of different width round differently. So the width depends on settings and shapes only, never on timings, cache
sizes or free memory, and a sweep gives the same numbers on repetition.
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
from gr_cli.cli.launchers.processes import estimated_seconds
from gr_cli.config.settings import Settings
from gr_cli.errors import one_line
from gr_cli.strategies.context import Batch, TrainingStep
from gr_cli.training.batches import batches, sample_passes
from gr_cli.training.build import build_learner
from gr_cli.training.experiment import Experiment, prepare
from gr_cli.training.learner import Learner, Losses
from gr_cli.training.stacking import stack_learners

_TRIAL_STEPS = 2  # per task, for the comparison of single and batched losses: the second shows the effect of the first
# Copies in memory: of the state, with gradients and a temporary of the optimizer; of activations, with gradients and
# temporaries.
_STATE_COPIES, _OUTPUT_COPIES = 3, 3
# Largest number of runs in one program on a CPU. More save little: per run, a step of the embedded default took 0.93 ms
# alone, 0.52 ms in programs of 8, 0.51 of 16 and 0.50 of 32, on one core of a server's processor; and two programs at
# the same time, on a core each, are faster than one that is twice as wide with two threads (0.27 and 0.31 ms).
_CPU_WIDTH = 8
# Largest number of bytes allocated in one step of a program: see `fastest_width`.
_LINEAR_STEP_BYTES, _CONVOLUTIONAL_STEP_BYTES = 64 << 20, 12 << 20


@dataclass(frozen=True)
class MemoryModel:
    """Memory of one run, from the shapes of its tensors.

    Attributes:
        gradient_bytes: Gradients of all parameters.
        activation_bytes: Outputs of all layers in one step, which are stored for the backward pass.
        state_bytes: State of the run, as in a checkpoint.
        has_convolutions: Whether solver or generator has convolutions.
    """

    gradient_bytes: int
    activation_bytes: int
    state_bytes: int = 0
    has_convolutions: bool = False

    @property
    def bytes_per_step(self) -> int:
        """Bytes that each step allocates and frees."""
        return max(1, self.gradient_bytes + self.activation_bytes)

    @property
    def bytes_per_run(self) -> int:
        """Upper bound of the memory of a run, without samples, which all runs share."""
        return max(1, _STATE_COPIES * self.state_bytes + _OUTPUT_COPIES * self.activation_bytes)


def fastest_width(memory_model: MemoryModel) -> int:
    """The width beyond which wider programs are slower: a fixed number of allocated bytes per step.

    Stacking saves the overhead of small matrix products, most of it by width 8. When a step allocates and frees more
    than 64 MiB, the C library returns the memory to the system and gets it back page by page: `preset=dgr_paper` with
    400 units (10 MiB for each run) took 1.00 times the best processor time in programs of 8 runs, 1.11 in those of 16,
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


def balanced_width(num_runs: int, width: int) -> int:
    """The width of programs of at most `width` runs, if there are as many programs as 2, 4 or 8 cores share evenly."""
    programs = -(-num_runs // width)
    if programs > 2:
        programs = -(-programs // 4) * 4
    return -(-num_runs // programs)


@dataclass(frozen=True)
class WidthChoice:
    """How many runs one program holds.

    Attributes:
        width: Largest number of runs in one program; 1: each run is trained alone.
        reason: Why it is smaller than requested; empty if it is not.
        bytes_per_run: Upper bound of the memory of each further run; 0 if it was not computed.
        seconds_per_run: Rough time of training a run alone, see `estimated_seconds`; None if it was not estimated.
    """

    width: int
    reason: str = ""
    bytes_per_run: int = 0
    seconds_per_run: float | None = None


def choose_width(jobs: Sequence[Settings], max_width: int, max_bytes: int) -> WidthChoice:
    """Choose the width of programs for compatible jobs.

    Args:
        jobs: Settings of at least one job.
        max_width: Largest number of runs in one program.
        max_bytes: Memory limit of one program.

    Raises:
        ConfigError: The first job can't be prepared.
        DataError: Its data can't be loaded.
    """
    if min(max_width, len(jobs)) == 1:
        return WidthChoice(1, "that is the requested width")
    first = prepare(jobs[0])
    seconds = estimated_seconds(first)
    obstacle, size = _compare_batched_losses(first, jobs[:2])
    if obstacle:
        return WidthChoice(1, obstacle, seconds_per_run=seconds)
    mib_per_run, memory_mib = -(-size.bytes_per_run >> 20), max_bytes >> 20
    reason = f"a run takes up to {mib_per_run:,} MiB of hydra.launcher.memory_mib={memory_mib}"
    limits = [(max(1, max_bytes // size.bytes_per_run), reason)]
    if first.learner.device.type == "cpu":
        limits.append((_CPU_WIDTH, "wider is hardly faster, and leaves less to other cores"))
        description = "a run with convolutions" if size.has_convolutions else "a run"
        limits.append(
            (
                fastest_width(size),
                f"wider is slower: a step of {description} takes {size.bytes_per_step / 2**20:.1f} MiB",
            )
        )
    narrowest, reason = min(limits, key=itemgetter(0))
    wide_enough = narrowest >= min(max_width, len(jobs))
    width = max_width if wide_enough else balanced_width(len(jobs), narrowest)
    return WidthChoice(width, "" if wide_enough else reason, size.bytes_per_run, seconds)


def _compare_batched_losses(first: Experiment, pair: Sequence[Settings]) -> tuple[str, MemoryModel]:
    """The reason why two jobs can't be replicas of one program, or an empty text; and the memory of one of them."""
    learner, unknown = first.learner, MemoryModel(0, 0)
    if learner.consolidation_schedule is not None:
        return "task-free runs can't be compared in a few steps", unknown
    if first.privacy is not None and first.privacy.secure:
        return "a trial would read samples with noise that is not that of the run (privacy.secure=true)", unknown
    for name, module in _named_modules(learner):
        if isinstance(module, _NormBase) and module.track_running_stats:
            return f"{type(module).__name__} `{name}` keeps running statistics", unknown
    if learner.strategy.num_steps(1000) == 0:
        return "the strategy has no gradient steps", unknown
    try:
        alone = [_trial_losses(first, [job]) for job in pair]
        together, _ = _trial_losses(first, pair)
    except Exception as error:  # anything that a user's network does and that can't be batched
        return f"{type(error).__name__}: {one_line(error)[:120]}", unknown
    for step, batched_losses in enumerate(together):
        for name, values in batched_losses.items():
            for (losses, _), actual in zip(alone, values.tolist(), strict=True):
                expected = losses[step][name].item()
                if not isclose(actual, expected, rel_tol=1e-2, abs_tol=1e-3):
                    return (
                        f"as one program their loss `{name}` would be {actual:.6g} instead of {expected:.6g}",
                        unknown,
                    )
    return "", alone[0][1]


def _named_modules(learner: Learner) -> Iterator[tuple[str, nn.Module]]:
    """All modules of solver and generator with their names."""
    for network in (learner.solver, learner.generator):
        yield from network.named_modules() if network is not None else ()


def _nbytes(value: Any) -> int:
    """Bytes of all tensors in nested dicts and lists."""
    if isinstance(value, Tensor):
        return value.numel() * value.element_size()
    items = value.values() if isinstance(value, Mapping) else value if isinstance(value, (list, tuple)) else ()
    return sum(map(_nbytes, items))


def _small_batches(experiments: Sequence[Experiment], stage: int) -> Iterator[Batch]:
    """Batches from the first samples of a stage only, so that consolidation is short."""
    num_samples = min(EVALUATION_BATCH, *(len(experiment.stages[stage].train) for experiment in experiments))
    for batch in batches(experiments, stage, 0):
        yield batch if batch.sample_index is None else replace(batch, sample_index=batch.sample_index % num_samples)


def experiments_on_same_data(first: Experiment, jobs: Sequence[Settings]) -> list[Experiment]:
    """Experiments of `jobs` with new networks, on the data and stages of `first`."""
    spec, task_units, device = first.benchmark.spec, first.learner.task_units, first.learner.device
    learners = [
        build_learner(job.config, spec, task_units, device, class_size=first.class_size, live=job.live_value)
        for job in jobs
    ]
    return [replace(first, settings=job, learner=learner) for job, learner in zip(jobs, learners, strict=True)]


def _trial_losses(first: Experiment, jobs: Sequence[Settings]) -> tuple[list[Losses], MemoryModel]:
    """The losses of jobs in the first steps of the first two tasks, on the data of `first`; and their memory."""
    experiments = experiments_on_same_data(first, jobs)
    learner = stack_learners(experiments)
    trial_losses: list[Losses] = []
    activation_bytes = [0]  # of each step

    def count(module: nn.Module, arguments: Any, output: Any) -> None:
        # Outputs of frozen networks are freed at once.
        activation_bytes[-1] += _nbytes(output) if torch.is_grad_enabled() else 0

    def record_step(step: TrainingStep, losses: Losses) -> None:
        trial_losses.append(losses)
        activation_bytes.append(0)

    for _, module in _named_modules(learner):
        if not list(module.children()):
            module.register_forward_hook(count)
    for number, stage in enumerate(first.stages[:2]):
        samples = sample_passes(experiments, number, 1)
        steps = islice(_small_batches(experiments, number), _TRIAL_STEPS)
        learner.train_task(stage.task, steps, stage.iterations, record_step, 0, samples)
        # The schedule may have the first update of the generator later.
        record_step(
            TrainingStep(stage.task, 0, 1),
            learner.step_generator(next(_small_batches(experiments, number)), stage.task),
        )
    return trial_losses, MemoryModel(
        gradient_bytes=_nbytes([optimizer.parameters for optimizer in learner.functional_optimizers.values()]),
        activation_bytes=max(activation_bytes),
        state_bytes=_nbytes(learner.state_of(0)),
        has_convolutions=any(isinstance(module, _ConvNd) for _, module in _named_modules(learner)),
    )
