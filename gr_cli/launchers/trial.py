"""A short trial before jobs are trained as one program: can they be, does it pay, and does it fit into memory?"""

from __future__ import annotations

import gc
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from math import isclose
from time import perf_counter

from torch.nn.modules.batchnorm import _NormBase

from gr_cli.assembly import Experiment, batches, build_learner, passes, prepare, side_by_side
from gr_cli.benchmarks.base import EVALUATION_BATCH
from gr_cli.learner import Losses
from gr_cli.machine import available_memory, default_threads, forget_peak, held_memory, peak_memory, thread_limit
from gr_cli.settings import Settings
from gr_cli.strategies.base import Batch, Position

_SECONDS = 0.4  # spent on timing one width
_STEPS = 63  # most steps for it
_GAIN = 0.95  # a program must need at most this part of the time


@dataclass(frozen=True)
class Verdict:
    """How many runs one program should hold (1: each runs alone), why, and what memory that takes at most, in bytes."""

    width: int
    reason: str
    peak: int = 0


def judge(
    jobs: Sequence[Settings],
    most: int | None = None,
    memory: int | None = None,
    processes: int = 1,
    width: int | None = None,
) -> Verdict:
    """Try jobs that are alike as one program.

    Args:
        jobs: at least two.
        most: no wider than that.
        memory: bytes to plan with; None: nine tenths of what is free.
        processes: how many programs share what is free.
        width: the width that is asked for, which no clock has a say in; None: the fastest.

    Raises:
        ConfigError, DataError: not even the first can be prepared.
    """
    import gr_cli.report.figures  # noqa: F401  what every run needs in the end shall count as held

    most = min(len(jobs), most or len(jobs), width or len(jobs))
    if most == 1:
        return Verdict(1, "that is the width asked for" if width == 1 else "each process shall have one at a time")
    first = prepare(jobs[0])
    obstacle = _obstacle(first, jobs)
    if obstacle:
        return Verdict(1, obstacle)
    device = first.learner.device
    room = held_memory(device) + available_memory(device) * 9 // 10 // processes if memory is None else memory
    times, peaks = {}, Peaks()
    for tried in (1, 2) if width else _doubling(most):
        if tried > 2 and peaks.at(tried) > room:
            break
        forget_peak(device)
        try:
            times[tried] = _seconds(first, jobs[:tried]) / tried
        except Exception as error:
            return Verdict(1, _told(error))
        peaks.add(tried, peak_memory(device))
        gc.collect()  # what was tried shall not be held while the next is
        if width is None and times[tried] > 1.1 * min(times.values()):
            break
    best = min(times, key=lambda tried: times[tried])
    if width or best == max(times):
        # Nothing says that a wider program would not be as good.
        best = most
    fits = max((n for n in range(1, most + 1) if peaks.at(n) <= room), default=1)
    shown = (
        f"{1000 * min(t for w, t in times.items() if w > 1):.2g} ms per step and run instead of {1000 * times[1]:.2g}"
    )
    if fits == 1 and best > 1:
        return Verdict(1, f"two of them would take {peaks.at(2) >> 20:,} MiB, and {room >> 20:,} are there")
    if width is None and min(times.values()) > _GAIN * times[1]:
        return Verdict(1, f"as one program they would be no faster ({shown})")
    best = min(best, fits)
    return Verdict(best, f"as asked for; {shown}" if width else shown, peaks.at(best))


def _doubling(most: int) -> Iterator[int]:
    width = 1
    while width < most:
        yield width
        width *= 2
    yield most


class Peaks:
    """Peaks of memory by width, and what they foretell for others: what a run more takes is always the same."""

    def __init__(self) -> None:
        self._found: dict[int, int] = {}

    def add(self, width: int, peak: int) -> None:
        """Take note of a measured peak."""
        self._found[width] = peak

    def at(self, width: int) -> int:
        """The measured or foretold peak of a program of that width."""
        if width in self._found:
            return self._found[width]
        *_, (a, low), (b, high) = sorted(self._found.items())
        return high + (width - b) * max(0, high - low) // (b - a)


def _obstacle(first: Experiment, jobs: Sequence[Settings]) -> str | None:
    """Why these jobs can't be replicas of one program, if so."""
    learner = first.learner
    if learner.stretches is not None:
        return "a short trial can't show how runs consolidate that are told no boundary"
    for network in (learner.solver, learner.generator):
        for name, module in network.named_modules() if network is not None else ():
            if isinstance(module, _NormBase) and module.track_running_stats:
                return f"{type(module).__name__} `{name}` keeps running statistics"
    if learner.strategy.steps(1000) == 0:
        return "nothing is learnt by steps"
    pair = [*jobs[:2]]
    try:
        alone = [_losses(first, [job]) for job in pair]
        both = _losses(first, pair)
    except Exception as error:  # whatever a network of the user's own does that can't be batched
        return _told(error)
    for step, together in enumerate(both):
        for name, values in together.items():
            for replica, found in enumerate(values.tolist()):
                expected = alone[replica][step][name].item()
                if not isclose(found, expected, rel_tol=1e-2, abs_tol=1e-3):
                    return f"as one program their loss `{name}` would be {found:.6g} instead of {expected:.6g}"
    return None


def _told(error: Exception) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())[:120]}"


def _few(experiments: Sequence[Experiment], number: int) -> Iterator[Batch]:
    """The batches of a stage, as if its first samples were all that it has: consolidation shall not take long."""
    most = min(EVALUATION_BATCH, *(len(experiment.stages[number].train) for experiment in experiments))
    for batch in batches(experiments, number, 0):
        yield batch if batch.index is None else replace(batch, index=batch.index % most)


def _built(first: Experiment, jobs: Sequence[Settings]) -> list[Experiment]:
    """Experiments on the data of `first`, with fresh networks as each job has them."""
    kind, heads, device = first.benchmark.kind, first.learner.heads, first.learner.device
    return [replace(first, settings=job, learner=build_learner(job.config, kind, heads, device)) for job in jobs]


def _losses(first: Experiment, jobs: Sequence[Settings], steps: int = 2) -> list[Losses]:
    """The losses of the first steps of the first two tasks."""
    found: list[Losses] = []
    experiments = _built(first, jobs)
    learner = side_by_side(experiments)
    for number, stage in enumerate(first.stages[:2]):
        few = islice(_few(experiments, number), steps)
        samples = passes(experiments, number, 1)
        learner.train_task(stage.task, few, stage.iterations, lambda position, losses: found.append(losses), 0, samples)
        # An update of the generator may be due much later; it shall be tried, too.
        found.append(learner.step_generator(next(_few(experiments, number)), stage.task))
    return found


def _seconds(first: Experiment, jobs: Sequence[Settings]) -> float:
    """Seconds per step of these jobs as one program, in a task with replay if there is one."""
    experiments = _built(first, jobs)
    learner, number = side_by_side(experiments), min(1, len(first.stages) - 1)
    size = first.settings.config["train"]["batch_size"]
    marks: list[float] = []

    def mark(position: Position, losses: Losses) -> None:
        float(losses[next(iter(losses))][0])  # wait for the device
        marks.append(perf_counter())

    stage = first.stages[number]
    with thread_limit(first.settings.config["threads"] or default_threads(learner.solver, size * len(jobs))):
        # As far as where the solver learns, if the generator goes before it.
        steps = 1 + learner.strategy.steps(_STEPS) - _STEPS
        if number:
            begun = passes(experiments, 0, 1)
            learner.train_task(0, islice(_few(experiments, 0), steps), _STEPS, lambda *_: None, 0, begun)
        began = perf_counter()
        stream = _few(experiments, number)
        learner.train_task(
            stage.task,
            (b for i, b in enumerate(islice(stream, _STEPS)) if i < 6 or perf_counter() - began < _SECONDS),
            _STEPS,
            mark,
            samples=passes(experiments, number, 1),
        )
    rest = marks[2:]  # the first steps make memories, blocks of noise and of dreams
    return (rest[-1] - rest[0]) / (len(rest) - 1)
