#!/usr/bin/env python
"""Check and measure training on a GPU, in under five minutes: a table, and the same as JSON.

    python scripts/bench_gpu.py                           # all parts on cuda, written to bench_gpu.json
    python scripts/bench_gpu.py --part equality --part resume
    python scripts/bench_gpu.py --device cpu --small      # that the script itself runs, without a GPU

Parts:
- `equality`: every strategy and generator trains some steps of two tasks in float64 on the CPU and on the GPU, from the
  same random numbers; the largest difference of a parameter must not exceed a tolerance that follows from rounding.
- `resume`: training that continues from a saved state must end in the same state as without interruption, bit by bit.
- `speed`: milliseconds of a step beside its floor (bench_step.py), and peak memory.
- `replicas`: runs trained as one program, milliseconds for each, beside one run alone.
- `graphs`: forward and backward pass of the default network as a captured CUDA graph, beside plain calls.

Exit code 1 if a check failed, 2 without a GPU.
"""

import argparse
import io
import json
import platform
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from statistics import median
from time import perf_counter
from typing import Any
from unittest.mock import patch

import torch
from bench_step import StepBenchmark, configurations_of_group
from torch.overrides import TorchFunctionMode

from gr_cli.cli.compose import compose_settings
from gr_cli.config.settings import Settings
from gr_cli.errors import GrError
from gr_cli.nn.random_streams import RandomStreams, derive_seed
from gr_cli.system.devices import deterministic_kernels, flush_denormals, thread_limit
from gr_cli.training.batches import batches, sample_passes
from gr_cli.training.experiment import Experiment, prepare
from gr_cli.training.learner import StepCallback

SMALL = "train.batch_size=8 model.hidden_sizes=[16] threads=1"
# On the embedded digits, because a lent machine may have no other data.
SPEED = (
    "train.batch_size=32",
    "strategy=ewc",
    "preset=dgr_paper benchmark=split_digits",
    "preset=split_mnist_paper strategy=bir benchmark=split_digits",
)
# The fit of a mixture has eigenvectors, whose sign is not defined: it may generate other, equally good samples.
NOT_COMPARABLE = "generator=mixture"
Row = dict[str, Any]


class CpuRandomNumbers(TorchFunctionMode):
    """Draws from a given generator happen on the CPU, and are moved to the device that was asked for."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        named = kwargs or {}
        if not isinstance(named.get("generator"), torch.Generator):
            return func(*args, **named)
        tensors = [argument for argument in args if isinstance(argument, torch.Tensor)]
        device = named.get("device") or (tensors[0].device if tensors else "cpu")
        on_cpu = [argument.cpu() if isinstance(argument, torch.Tensor) else argument for argument in args]
        return func(*on_cpu, **named | ({"device": "cpu"} if "device" in named else {})).to(device)


@contextmanager
def cpu_random_numbers() -> Iterator[None]:
    """The random streams of a run give the same numbers on every device within the block."""

    def generator(self: RandomStreams, stream: str, *key: int) -> torch.Generator:
        return torch.Generator().manual_seed(derive_seed(self.seed, stream, *key))

    with patch.object(RandomStreams, "generator", generator), CpuRandomNumbers():
        yield


class Bench:
    """The parts, on one device.

    Args:
        device: Name of the device.
        small: Whether networks are tiny, to test this script.
        steps: Training steps of each task in the checks.
        turns: Repetitions of each timing.
        replicas: Runs trained as one program.
        configurations: Overrides of gr-run for all parts but the last. Default: every strategy and generator for the
            checks, and `SPEED` for the timings.
    """

    def __init__(
        self, device: str, small: bool, steps: int, turns: int, replicas: int, configurations: Sequence[str] = ()
    ) -> None:
        self.device, self.steps, self.turns, self.replicas = torch.device(device), steps, turns, replicas
        self.common = f"device={device} {SMALL}" if small else f"device={device}"
        self.checked = list(configurations) or _comparable_configurations()
        self.timed = list(configurations) or list(SPEED)

    def equality(self) -> Iterator[Row]:
        """Largest difference of a parameter between the CPU and the device, in float64."""
        for configuration in self.checked:
            overrides = f"{configuration} {self.common} precision=float64"
            with cpu_random_numbers():
                states = [
                    _tensors(_train(overrides.replace(f"device={self.device}", f"device={device}"), self.steps)[1])
                    for device in ("cpu", self.device)
                ]
            difference, tolerance = largest_difference(*states), rounding_tolerance(2 * self.steps)
            yield {
                "configuration": configuration,
                "difference": difference,
                "tolerance": tolerance,
                "passed": difference <= tolerance,
            }

    def resume(self) -> Iterator[Row]:
        """Largest difference between interrupted and uninterrupted training on the device: 0 is required."""
        for configuration in self.checked:
            overrides = f"{configuration} {self.common}"
            with deterministic_kernels(self.device):
                _, expected = _train(overrides, self.steps)
                difference = largest_difference(
                    _tensors(_train_in_two_parts(overrides, self.steps)), _tensors(expected)
                )
            yield {"configuration": configuration, "difference": difference, "passed": difference == 0.0}

    def speed(self) -> Iterator[Row]:
        """A step beside its floor, and the memory it needs at most."""
        for configuration in self.timed:
            step, peak = self._seconds_and_peak_memory(f"{configuration} {self.common}", 1)
            benchmark = StepBenchmark(f"{configuration} {self.common}")
            floor = median(benchmark.floor()[0] for _ in range(self.turns))
            yield {
                "configuration": configuration,
                "step_ms": step * 1e3,
                "floor_ms": floor * 1e3,
                "ratio": step / floor,
                "peak_mib": peak,
            }

    def replicas_together(self) -> Iterator[Row]:
        """A step of many runs as one program, beside that of one run."""
        for configuration in self.timed:
            alone, _ = self._seconds_and_peak_memory(f"{configuration} {self.common}", 1)
            together, peak = self._seconds_and_peak_memory(f"{configuration} {self.common}", self.replicas)
            yield {
                "configuration": configuration,
                "runs": self.replicas,
                "alone_ms": alone * 1e3,
                "each_ms": together * 1e3 / self.replicas,
                "times_faster": alone * self.replicas / together,
                "peak_mib": peak,
            }

    def graphs(self) -> Iterator[Row]:
        """Forward and backward pass of the default network: plain calls, and as a captured graph."""
        experiment = prepare(compose_settings(self.common.split()))
        network, parameters = experiment.learner.solver, list(experiment.learner.solver.parameters())
        batch = next(batches([experiment], 0, 0))
        x, y = batch.x[0].clone(), batch.y[0].clone()

        def gradients() -> tuple[torch.Tensor, ...]:
            return torch.autograd.grad(torch.nn.functional.cross_entropy(network(x), y), parameters)

        with thread_limit(experiment.threads):
            plain = self._median_seconds(lambda: self._repeat(gradients, 100))
        row: Row = {"configuration": "forward and backward, the default network", "plain_ms": plain * 1e3}
        if self.device.type != "cuda":
            yield row | {"graph_ms": None, "difference": None}
            return
        replay, captured = capture(gradients)
        replay()
        difference = max((a - b).abs().max().item() for a, b in zip(captured, gradients(), strict=True))
        yield row | {
            "graph_ms": self._median_seconds(lambda: self._repeat(replay, 100)) * 1e3,
            "difference": difference,
        }

    def _repeat(self, function: Callable[[], Any], times: int) -> float:
        """Seconds of a call."""
        self._wait()
        start = perf_counter()
        for _ in range(times):
            function()
        self._wait()
        return (perf_counter() - start) / times

    def _median_seconds(self, measure: Callable[[], float]) -> float:
        measure()  # warm-up
        return median(measure() for _ in range(self.turns))

    def _wait(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)

    def _seconds_and_peak_memory(self, overrides: str, runs: int) -> tuple[float, float | None]:
        """Seconds of a step, and the MiB allocated at most; None on a CPU."""
        on_gpu = self.device.type == "cuda"
        if on_gpu:
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats(self.device)
        seconds = self._median_seconds(StepBenchmark(overrides, runs).time_steps)
        return seconds, torch.cuda.max_memory_allocated(self.device) / 2**20 if on_gpu else None


PARTS = {
    "equality": Bench.equality,
    "resume": Bench.resume,
    "speed": Bench.speed,
    "replicas": Bench.replicas_together,
    "graphs": Bench.graphs,
}


def capture(function: Callable[[], tuple[torch.Tensor, ...]]) -> tuple[Callable[[], None], tuple[torch.Tensor, ...]]:
    """Record the kernels of a function as a CUDA graph; what replays them, and the tensors that a replay fills."""
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(3):  # libraries allocate their workspaces in the first calls
            function()
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        results = function()
    return graph.replay, results


def rounding_tolerance(steps: int) -> float:
    """Largest difference that another order of additions makes in float64, in parameters after some steps of Adam.

    A sum of K terms of size 1 has a rounding error of about sqrt(K) u, with u = 2^-53, because single errors are
    independent; K = 1,000 covers batches and layers here. Adam divides a gradient by its own size plus 1e-8, so that an
    error e of a gradient near 0 moves a parameter by at most lr e / 1e-8 in a step, with lr = 0.001. Between two
    instruction sets of one processor (MKL_CBWR=COMPATIBLE) differences stay below 1e-13; float32 somewhere makes 1e-7.
    """
    return steps * 1e-3 * 1000**0.5 * 2.0**-53 / 1e-8


def largest_difference(ours: list[torch.Tensor], theirs: list[torch.Tensor]) -> float:
    """Largest difference between two lists of tensors; infinite if their shapes or non-numbers differ."""
    if [tensor.shape for tensor in ours] != [tensor.shape for tensor in theirs]:
        return float("inf")
    differences = [0.0]
    for a, b in zip(ours, theirs, strict=True):
        if a.numel() and not torch.equal(a, b):
            difference = (a.double().cpu() - b.double().cpu()).abs().max().item()
            differences.append(difference if difference == difference else float("inf"))
    return max(differences)


def _comparable_configurations() -> list[str]:
    configurations = configurations_of_group("strategy") + configurations_of_group("generator")
    return [configuration for configuration in configurations if NOT_COMPARABLE not in configuration]


def _tensors(state: Any) -> list[torch.Tensor]:
    """All tensors of a state, on the CPU."""
    if isinstance(state, dict):
        return [tensor for value in state.values() for tensor in _tensors(value)]
    if isinstance(state, (list, tuple)):
        return [tensor for value in state for tensor in _tensors(value)]
    return [state.detach().cpu()] if isinstance(state, torch.Tensor) else []


def _train_stage(experiment: Experiment, index: int, first: int = 0, on_step: StepCallback = lambda *_: None) -> None:
    stage, passes = experiment.stages[index], sample_passes([experiment], index, 1)
    with thread_limit(experiment.threads):
        stream = batches([experiment], index, first)
        experiment.learner.train_task(stage.task, stream, stage.iterations, on_step, first, passes)


@cache
def _settings(overrides: str) -> Settings:
    return compose_settings(overrides.split())


def _prepare(overrides: str, steps: int) -> tuple[Experiment, int]:
    """An experiment of so many iterations per task, and the last stage to train: the second, if there is one."""
    experiment = prepare(_settings(f"{overrides} train.iterations={steps}"))
    return experiment, min(1, len(experiment.stages) - 1)


def _train(overrides: str, steps: int) -> tuple[Experiment, Any]:
    """Train the first two tasks; the state at the end."""
    experiment, last = _prepare(overrides, steps)
    for stage in range(last + 1):
        _train_stage(experiment, stage)
    return experiment, experiment.learner.state_of(0)


def _train_in_two_parts(overrides: str, steps: int) -> Any:
    """The same, but the second half of the last task in a new experiment, from the saved state of the first."""
    first, last = _prepare(overrides, steps)
    saved: list[tuple[int, io.BytesIO]] = []  # iteration from which to continue, and state

    def save(iteration: int) -> None:
        saved.append((iteration, io.BytesIO()))
        torch.save(first.learner.state_of(0), saved[-1][1])

    for stage in range(last):
        _train_stage(first, stage)
    if last:
        save(0)  # training continues here if the strategy has no step in the middle
    _train_stage(
        first, last, on_step=lambda step, _: save(step.iteration + 1) if step.iteration == steps // 2 else None
    )
    iteration, state = saved[-1]
    state.seek(0)
    second, _ = _prepare(overrides, steps)
    second.learner.load_states([torch.load(state)], second.stages[last].task, sample_passes([second], last, 1))
    _train_stage(second, last, iteration)
    return second.learner.state_of(0)


def print_rows(name: str, rows: list[Row], seconds: float) -> None:
    """A table of a part."""
    print(f"\n{name} ({seconds:.0f} s)")
    columns = [column for column in (rows[0] if rows else ()) if column != "configuration"]
    print("".join(f"{column:>14}" for column in columns) + "  configuration")
    for row in rows:
        cells = [f"{v:>14.4g}" if isinstance(v, float) else f"{v!s:>14}" for v in (row[c] for c in columns)]
        print("".join(cells) + f"  {row['configuration']}", flush=True)


def describe_machine(device: torch.device) -> Row:
    gpu = torch.cuda.get_device_name(device) if device.type == "cuda" else None
    return {"gpu": gpu, "processor": platform.processor(), "torch": torch.__version__, "cuda": torch.version.cuda}


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("configurations", nargs="*", help="default: every strategy and generator")
    parser.add_argument("--part", choices=PARTS, action="append", help="default: all")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--small", action="store_true", help="tiny networks, to test this script")
    parser.add_argument("--steps", type=int, default=8, help="of each task, in the checks")
    parser.add_argument("--turns", type=int, default=5, help="of each timing")
    parser.add_argument("--replicas", type=int, default=64)
    parser.add_argument("--json", type=Path, default=Path("bench_gpu.json"))
    chosen = parser.parse_args(argv)
    if torch.device(chosen.device).type == "cuda" and not torch.cuda.is_available():
        print("bench_gpu: torch finds no GPU; --device cpu --small tests the script without one", file=sys.stderr)
        return 2
    bench = Bench(chosen.device, chosen.small, chosen.steps, chosen.turns, chosen.replicas, chosen.configurations)
    report: Row = {"machine": describe_machine(bench.device), "parts": {}}
    print(json.dumps(report["machine"]))
    failed = False
    for name in chosen.part or PARTS:
        start = perf_counter()
        rows = list(PARTS[name](bench))
        report["parts"][name] = rows
        chosen.json.write_text(
            json.dumps(report, indent=1) + "\n", encoding="utf-8"
        )  # a part that fails later leaves those before
        print_rows(name, rows, perf_counter() - start)
        failed |= not all(row.get("passed", True) for row in rows)
    print(f"\nwritten to {chosen.json}")
    return int(failed)


if __name__ == "__main__":
    try:
        with flush_denormals():  # before torch makes its threads, which then do as this one
            code = main()
    except GrError as error:
        sys.exit(f"bench_gpu: {error}")
    sys.exit(code)
