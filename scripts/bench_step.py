#!/usr/bin/env python
"""Milliseconds of a training step, beside its floor: the time of its matrix products alone.

    python scripts/bench_step.py                                   # the embedded default and preset=dgr_paper
    python scripts/bench_step.py 'preset=dgr_paper' 'preset=dgr_paper model.hidden_sizes=[100,100]'
    python scripts/bench_step.py --group strategy                  # every strategy in conf/strategy, on the digits

Each argument is a configuration: overrides as for gr-run. All are measured in turns in this process, in the second
task, where there is something to replay; figures are medians over the turns, without a first turn as warm-up. For the
floor each matrix product and convolution of a step is timed alone, with operands of the same shape, strides and type.
`--runs 8` trains 8 seeds as one program.
"""

import argparse
import shlex
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from itertools import count, islice
from pathlib import Path
from statistics import median
from time import perf_counter
from typing import Any, NamedTuple

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode, flop_registry, register_flop_formula

from gr_cli.cli.compose import compose_settings
from gr_cli.cli.launchers.program_width import experiments_on_same_data
from gr_cli.errors import GrError
from gr_cli.strategies.context import TrainingStep
from gr_cli.system.devices import flush_denormals, thread_limit
from gr_cli.training.batches import batches, sample_passes
from gr_cli.training.experiment import prepare
from gr_cli.training.stacking import stack_learners

PARTS = ("data", "replay", "forward", "backward", "optimizer", "rest")
STEPS = 40  # in a turn: a multiple of the generator's update period and of a block of generated samples
CONF = Path(__file__).parent.parent / "conf"
# Generators that share the solver's network, with the strategy that trains them.
STRATEGY_OF_GENERATOR = {"feedback": "strategy=rtf", "rtf": "strategy=rtf", "bir": "strategy=bir"}


class StepBenchmark:
    """Trains one configuration step by step, in its second task, and times the steps and their parts.

    Args:
        overrides: The configuration, as on the command line of gr-run.
        runs: Number of seeds that are trained as one program.
        threads: CPU threads. Default: those that gr-run would take.
        steps: Steps in a turn.
    """

    def __init__(self, overrides: str, runs: int = 1, threads: int | None = None, steps: int = STEPS) -> None:
        job = compose_settings(shlex.split(overrides))
        first = prepare(job, runs_in_group=runs)
        jobs = [replace(job, config=job.config | {"seed": job.seed + i}) for i in range(runs)]
        experiments = experiments_on_same_data(first, jobs) if runs > 1 else [first]
        self.overrides, self.runs, self.steps, self.device = overrides, runs, steps, first.learner.device
        self.threads = threads or first.threads
        self.learner = stack_learners(experiments)
        stage = min(1, len(experiments[0].stages) - 1)  # joint training has one stage
        self._stage, self._iterations = experiments[0].stages[stage], count()
        with self.limits():
            if stage:
                first_batches = islice(batches(experiments, 0, 0), 2)
                self.learner.train_task(0, first_batches, 10**9, _ignore, 0, sample_passes(experiments, 0))
            self.learner.begin_task(self._stage.task, sample_passes(experiments, stage))
        self._batches = batches(experiments, stage, 0)

    @contextmanager
    def limits(self) -> Iterator[None]:
        with thread_limit(self.threads), flush_denormals(), self.learner.solvers.train_mode(training=True):
            yield

    def wait(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)

    def time_steps(self, steps: int | None = None, next_batch: Callable[[], Any] | None = None) -> float:
        """Train for a number of steps, and return the seconds of one."""
        steps, next_batch = steps or self.steps, next_batch or self.next_batch
        with self.limits():
            self.wait()
            start = perf_counter()
            for _ in range(steps):
                batch = next_batch()
                self.learner.step(batch, TrainingStep(self._stage.task, next(self._iterations), 10**9))
            self.wait()
            return (perf_counter() - start) / steps

    def next_batch(self) -> Any:
        return next(self._batches)

    def breakdown(self) -> Counter[str]:
        """Seconds of a step by part. Their sum is a little more than a step takes, because each part is waited for."""
        seconds: Counter[str] = Counter()
        inner_seconds: list[float] = []  # of timed calls within the current ones, innermost last

        def timed(function: Callable[..., Any], part: str) -> Callable[..., Any]:
            def call(*arguments: Any, **named: Any) -> Any:
                self.wait()
                start = perf_counter()
                inner_seconds.append(0.0)
                result = function(*arguments, **named)
                self.wait()
                elapsed = perf_counter() - start
                seconds[part] += (elapsed - inner_seconds.pop()) / self.steps
                if inner_seconds:
                    inner_seconds[-1] += elapsed
                return result

            return call

        learner = self.learner
        timed_methods: list[tuple[Any, str, str]] = [
            (learner.strategy, "loss", "forward"),
            (learner.strategy, "replay", "replay"),
            (learner.strategy, "after_step", "replay"),
            (learner.strategy, "generator_batch", "replay"),
            (learner.generators, "call", "forward"),
            *((rule, "gradients", "backward") for rule in learner.gradient_rules.values()),
            (learner._generator_update, "_loss", "forward"),
            *((optimizer, "step", "optimizer") for optimizer in learner.functional_optimizers.values()),
        ]
        timed_methods = [entry for entry in timed_methods if hasattr(entry[0], entry[1])]
        originals = [getattr(owner, name) for owner, name, _ in timed_methods]
        try:
            for owner, name, part in timed_methods:
                setattr(owner, name, timed(getattr(owner, name), part))
            step = self.time_steps(next_batch=timed(self.next_batch, "data"))
        finally:
            for (owner, name, _), function in zip(timed_methods, originals, strict=True):
                setattr(owner, name, function)
        seconds["rest"] = step - sum(seconds.values())
        return seconds

    def floor(self) -> tuple[float, float]:
        """Seconds and floating-point operations of the matrix products of one step."""
        with CountProducts() as products:
            self.time_steps()
        with self.limits():
            seconds = sum(n * _seconds_alone(product, self.device) for product, n in products.counts.items())
        flops = sum(n * _flops(product, self.device) for product, n in products.counts.items())
        return seconds / self.steps, flops / self.steps


_onednn_product = getattr(torch.ops.mkldnn, "_linear_pointwise", None)
if (
    _onednn_product is not None and _onednn_product not in flop_registry
):  # products by oneDNN, see gr_cli/nn/products.py

    @register_flop_formula(_onednn_product)
    def _flops_of_onednn_product(x: Any, weight: Any, *_: Any, out_shape: Any = None, **__: Any) -> int:
        return 2 * int(x[0]) * int(x[1]) * int(weight[0])


# An operator with its positional and its named arguments as values; tensors as `TensorLayout`.
Product = tuple[Any, tuple[Any, ...], tuple[tuple[str, Any], ...]]


class TensorLayout(NamedTuple):
    """What the speed of a product depends on: not the values."""

    shape: tuple[int, ...]
    strides: tuple[int, ...]
    dtype: torch.dtype

    def random(self, device: torch.device) -> torch.Tensor:
        """A tensor of this layout, whose elements may share memory (stride 0)."""
        length = 1 + sum((size - 1) * stride for size, stride in zip(self.shape, self.strides, strict=True))
        return torch.randn(length, device=device).to(self.dtype).as_strided(self.shape, self.strides)


class CountProducts(TorchDispatchMode):
    """Counts the matrix products and convolutions that are computed, by operator and layout of the operands."""

    def __init__(self) -> None:
        super().__init__()
        self.counts: Counter[Product] = Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        named = kwargs or {}
        if func.overloadpacket in flop_registry:
            values = tuple((name, _as_value(argument)) for name, argument in named.items())
            self.counts[func, tuple(_as_value(argument) for argument in args), values] += 1
        return func(*args, **named)


def _as_value(argument: Any) -> Any:
    if isinstance(argument, torch.Tensor):
        return TensorLayout(tuple(argument.shape), argument.stride(), argument.dtype)
    return tuple(argument) if isinstance(argument, list) else argument


def _as_argument(value: Any, device: torch.device) -> Any:
    if isinstance(value, TensorLayout):
        return value.random(device)
    return list(value) if isinstance(value, tuple) else value


def _bound(product: Product, device: torch.device) -> Callable[[], Any]:
    """The operator with random operands."""
    operator, positional, named = product
    arguments = [_as_argument(value, device) for value in positional]
    return partial(operator, *arguments, **{name: _as_argument(value, device) for name, value in named})


@torch.no_grad()
def _seconds_alone(product: Product, device: torch.device) -> float:
    """Seconds of one product by itself: the median of several short series, the first left out."""
    compute = _bound(product, device)

    def series(repeats: int) -> float:
        start = perf_counter()
        for _ in range(repeats):
            compute()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        return (perf_counter() - start) / repeats

    repeats = max(3, min(200, round(0.01 / max(series(3), 1e-7))))
    return median(series(repeats) for _ in range(5))


@torch.no_grad()
def _flops(product: Product, device: torch.device) -> float:
    with FlopCounterMode(display=False) as counter:
        _bound(product, device)()
    return float(counter.get_total_flops())


def configurations_of_group(group: str) -> list[str]:
    """One configuration for each file of a config group, on the digits."""
    names = sorted(path.stem for path in (CONF / group).glob("*.yaml"))
    if group == "strategy":
        return [f"strategy={name}" for name in names]
    return [f"{STRATEGY_OF_GENERATOR.get(name, 'strategy=generative_replay')} generator={name}" for name in names]


def _ignore(*_: object) -> None:
    pass


def product_rate(threads: int) -> float:
    """GFLOP/s of one matrix product on the CPU, 256x784x400."""
    a, b = (TensorLayout(shape, (shape[1], 1), torch.float32) for shape in ((256, 784), (784, 400)))
    with thread_limit(threads):
        seconds = _seconds_alone((torch.ops.aten.mm.default, (a, b), ()), torch.device("cpu"))
    return 2 * 256 * 784 * 400 / seconds / 1e9


def measure(benchmarks: list[StepBenchmark], turns: int) -> None:
    """Measure all in turns, and print a line for each."""
    for benchmark in benchmarks:
        benchmark.time_steps()  # warm-up
    times: list[list[float]] = [[] for _ in benchmarks]
    floors: list[list[tuple[float, float]]] = [[] for _ in benchmarks]
    for _ in range(turns):
        for values, benchmark in zip(times, benchmarks, strict=True):
            values.append(benchmark.time_steps())
        for pairs, benchmark in zip(floors, benchmarks, strict=True):
            pairs.append(benchmark.floor())
    for threads in sorted({benchmark.threads for benchmark in benchmarks}):
        print(f"a matrix product 256x784x400 on the CPU, {threads} thread(s): {product_rate(threads):.0f} GFLOP/s")
    print(f"\n{'ms of a step':>14} {'floor':>7} {'ratio':>6} {'GFLOP':>7} {'GFLOP/s':>8}  configuration")
    for values, pairs, benchmark in zip(times, floors, benchmarks, strict=True):
        step = median(values)
        floor, flops = (median(column) for column in zip(*pairs, strict=True))
        ratio = f"{step / floor:>6.2f}" if floor else f"{'-':>6}"
        line = f"{step * 1e3:>14.3f} {floor * 1e3:>7.3f} {ratio} {flops / 1e9:>7.3f} {flops / step / 1e9:>8.0f}"
        machine = f"{benchmark.device}, {benchmark.threads} thread(s), {benchmark.runs} run(s)"
        print(f"{line}  {benchmark.overrides} ({machine})")
    print("\nms by part" + "".join(f"{part:>11}" for part in PARTS))
    for benchmark in benchmarks:
        parts = [benchmark.breakdown() for _ in range(turns)]
        print(" " * 10 + "".join(f"{median(p[part] for p in parts) * 1e3:>11.3f}" for part in PARTS), end=" ")
        print(benchmark.overrides)


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("configurations", nargs="*", help="overrides of gr-run, each configuration in quotes")
    parser.add_argument("--group", choices=("strategy", "generator"), action="append", default=[])
    parser.add_argument("--runs", type=int, default=1, help="number of seeds that are trained as one program")
    parser.add_argument("--turns", type=int, default=7)
    parser.add_argument("--steps", type=int, default=STEPS, help=f"steps in a turn; default: {STEPS}")
    chosen = parser.parse_args(argv)
    configurations = chosen.configurations + [c for group in chosen.group for c in configurations_of_group(group)]
    configurations = configurations or ["train.batch_size=32", "preset=dgr_paper"]
    measure([StepBenchmark(c, chosen.runs, steps=chosen.steps) for c in configurations], chosen.turns)


if __name__ == "__main__":
    try:
        with flush_denormals():  # before torch makes its threads, which then do as this one
            main()
    except GrError as error:
        sys.exit(f"bench_step: {error}")
