#!/usr/bin/env python
"""How long a training step takes, beside the least its matrix products could take.

    python scripts/bench_step.py                                   # the embedded default and preset=dgr_paper
    python scripts/bench_step.py 'preset=dgr_paper' 'preset=dgr_paper model.hidden_sizes=[100,100]'

Each argument is a configuration: overrides as for gr-run. They are measured in turns in this one process, in a task
with replay; figures are medians over the turns, warm-up left out. The floor is the time that the matrix products (and
convolutions) of a step take by themselves: each is timed alone, at its shape and layout in memory, in this process.
`--runs 8` measures so many seeds as one program.
"""

import argparse
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from itertools import count, islice
from statistics import median
from time import perf_counter
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode

from gr_cli.cli.compose import compose_settings
from gr_cli.cli.launchers.program_width import experiments_on_same_data
from gr_cli.errors import GrError
from gr_cli.strategies.context import TrainingStep
from gr_cli.system.devices import flush_denormals, thread_limit
from gr_cli.training.batches import batches, sample_passes
from gr_cli.training.experiment import prepare
from gr_cli.training.stacking import stack_learners

_ops = torch.ops.aten
PRODUCTS = {
    op.default for op in (_ops.mm, _ops.addmm, _ops.bmm, _ops.baddbmm, _ops.convolution, _ops.convolution_backward)
}
PARTS = ("data", "replay", "forward", "backward", "optimiser", "rest")
PERIOD = 40  # steps in a turn: a multiple of the generator's update period and of a block of generated samples


class Subject:
    """A configuration that can be stepped, and that knows where its time goes."""

    def __init__(self, words: str, runs: int, threads: int | None = None) -> None:
        job = compose_settings(words.split())
        first = prepare(job, runs_in_group=runs)
        jobs = [replace(job, config=job.config | {"seed": job.seed + i}) for i in range(runs)]
        experiments = experiments_on_same_data(first, jobs) if runs > 1 else [first]
        self.words, self.runs, self.device = words, runs, first.learner.device
        self.threads = threads or first.threads
        self.learner = stack_learners(experiments)
        self._number = min(1, len(experiments[0].stages) - 1)
        self._stage, self._iterations = experiments[0].stages[self._number], count()
        with self.limits():
            if self._number:
                few = islice(batches(experiments, 0, 0), 2)
                self.learner.train_task(0, few, 10**9, _ignore, 0, sample_passes(experiments, 0, 1))
            self.learner.begin_task(self._stage.task, sample_passes(experiments, self._number, 1))
        self._batches = batches(experiments, self._number, 0)

    @contextmanager
    def limits(self) -> Iterator[None]:
        with thread_limit(self.threads), flush_denormals(), self.learner.solvers.train_mode(training=True):
            yield

    def wait(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)

    def turn(self, data: Callable[[Callable[[], Any]], Any] = lambda take: take(), steps: int = PERIOD) -> float:
        """So many steps: seconds for each."""
        with self.limits():
            self.wait()
            start = perf_counter()
            for _ in range(steps):
                batch = data(lambda: next(self._batches))
                self.learner.step(batch, TrainingStep(self._stage.task, next(self._iterations), 10**9))
            self.wait()
            return (perf_counter() - start) / steps

    def breakdown(self) -> Counter[str]:
        """Seconds of a step by part. Waiting for each part makes them come to a little more than a step takes."""
        seconds: Counter[str] = Counter()
        within: list[float] = []

        def timed(function: Callable[..., Any], part: str) -> Callable[..., Any]:
            def call(*arguments: Any, **named: Any) -> Any:
                self.wait()
                start = perf_counter()
                within.append(0.0)
                found = function(*arguments, **named)
                self.wait()
                whole = perf_counter() - start
                seconds[part] += (whole - within.pop()) / PERIOD
                if within:
                    within[-1] += whole
                return found

            return call

        learner = self.learner
        points: list[tuple[Any, str, str]] = [
            (learner.strategy, "loss", "forward"),
            (learner.strategy, "replay", "replay"),
            (learner.strategy, "after_step", "replay"),
            (learner.strategy, "generator_batch", "replay"),
            (learner.generators, "call", "forward"),
            (torch.autograd, "grad", "backward"),
            *((descent, "step", "optimiser") for descent in learner.functional_optimizers.values()),
        ]
        points = [point for point in points if hasattr(point[0], point[1])]
        before = [getattr(owner, name) for owner, name, _ in points]
        try:
            for owner, name, part in points:
                setattr(owner, name, timed(getattr(owner, name), part))
            whole = self.turn(data=lambda take: timed(take, "data")())
        finally:
            for (owner, name, _), function in zip(points, before, strict=True):
                setattr(owner, name, function)
        seconds["rest"] = whole - sum(seconds.values())
        return seconds

    def floor(self) -> tuple[float, float]:
        """Seconds and floating-point operations of the matrix products of one step."""
        seen = Products()
        with seen:
            self.turn()
        with self.limits():
            costs = {product: (_alone(*product, self.device), _flops(*product, self.device)) for product in seen.found}
        number = {product: times / PERIOD for product, times in seen.found.items()}
        return sum(n * costs[p][0] for p, n in number.items()), sum(n * costs[p][1] for p, n in number.items())


class Products(TorchDispatchMode):
    """Counts the matrix products that are computed, by operator and arguments."""

    def __init__(self) -> None:
        super().__init__()
        self.found: Counter[tuple[Any, tuple[Any, ...]]] = Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func in PRODUCTS:
            self.found[func, tuple(_described(argument) for argument in args)] += 1
        return func(*args, **(kwargs or {}))


def _described(argument: Any) -> Any:
    """An argument as a value: a tensor by shape and strides."""
    if isinstance(argument, torch.Tensor):
        return ("tensor", tuple(argument.shape), argument.stride(), argument.dtype)
    return tuple(argument) if isinstance(argument, list) else argument


def _made(argument: Any, device: torch.device) -> Any:
    if isinstance(argument, tuple) and argument[:1] == ("tensor",):
        _, shape, stride, dtype = argument
        return torch.empty_strided(shape, stride, dtype=dtype, device=device).normal_()
    return list(argument) if isinstance(argument, tuple) else argument


def _alone(op: Any, arguments: tuple[Any, ...], device: torch.device) -> float:
    """Seconds of one product by itself: the median of several short series, the first left out."""
    made = [_made(argument, device) for argument in arguments]

    def series(repeats: int) -> float:
        start = perf_counter()
        for _ in range(repeats):
            op(*made)
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        return (perf_counter() - start) / repeats

    repeats = max(3, min(200, round(0.01 / max(series(3), 1e-7))))
    return median(series(repeats) for _ in range(5))


def _flops(op: Any, arguments: tuple[Any, ...], device: torch.device) -> float:
    with FlopCounterMode(display=False) as counter:
        op(*(_made(argument, device) for argument in arguments))
    return float(counter.get_total_flops())


def _ignore(*_: object) -> None:
    pass


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("configurations", nargs="*", default=["train.batch_size=32", "preset=dgr_paper"])
    parser.add_argument("--runs", type=int, default=1, help="so many seeds as one program")
    parser.add_argument("--turns", type=int, default=7)
    chosen = parser.parse_args()
    subjects = [Subject(words, chosen.runs) for words in chosen.configurations]
    for subject in subjects:
        subject.turn()  # warm-up
    times: dict[str, list[float]] = {subject.words: [] for subject in subjects}
    floors: dict[str, list[tuple[float, float]]] = {subject.words: [] for subject in subjects}
    for _ in range(chosen.turns):
        for subject in subjects:
            times[subject.words].append(subject.turn())
        for subject in subjects:
            floors[subject.words].append(subject.floor())
    probe = ((256, 784), (784, 400))
    for threads in sorted({subject.threads for subject in subjects}):
        with thread_limit(threads):
            a, b = (("tensor", shape, (shape[1], 1), torch.float32) for shape in probe)
            rate = 2 * 256 * 784 * 400 / _alone(_ops.mm.default, (a, b), torch.device("cpu")) / 1e9
        print(f"a matrix product 256x784x400 on the CPU, {threads} thread(s): {rate:.0f} GFLOP/s")
    print(f"\n{'ms of a step':>14} {'floor':>7} {'ratio':>6} {'GFLOP':>7} {'GFLOP/s':>8}  configuration")
    for subject in subjects:
        step = median(times[subject.words])
        floor, flops = (median(values) for values in zip(*floors[subject.words], strict=True))
        shown = f"{step * 1e3:>14.3f} {floor * 1e3:>7.3f} {step / floor:>6.2f} {flops / 1e9:>7.3f}"
        where = f"{subject.device}, {subject.threads} thread(s)"
        print(f"{shown} {flops / step / 1e9:>8.0f}  {subject.words} ({where}, {chosen.runs} run(s))")
    print("\nms by part" + "".join(f"{part:>11}" for part in PARTS))
    for subject in subjects:
        parts = [subject.breakdown() for _ in range(chosen.turns)]
        print(" " * 10 + "".join(f"{median(p[part] for p in parts) * 1e3:>11.3f}" for part in PARTS), subject.words)


if __name__ == "__main__":
    try:
        with flush_denormals():  # before torch makes its threads, which then do as this one
            main()
    except GrError as error:
        sys.exit(f"bench_step: {error}")
