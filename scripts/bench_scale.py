#!/usr/bin/env python
"""How the cost of a run grows with the number of tasks, or of classes: seconds of training, evaluation and the rest.

    python scripts/bench_scale.py                                 # 10, 50, 100 and 200 permuted tasks of the digits
    python scripts/bench_scale.py --tasks 10 100 --overrides 'strategy=er evaluate.tasks=seen'
    python scripts/bench_scale.py --classes 100 1000              # a mixture for each of so many classes, in ten tasks

Each run has a process of its own, one thread, and an empty folder. Seconds are those of the processor, which other
programs disturb least; time that a run waits for the disk is not in them. Imports, reading the data and training the
reference classifier, which is cached, are left out. `rest` are checkpoints, tables, pictures and status.

The evaluation is shown in two parts, `accuracies` (everything that is computed from predictions of the solver) and
`quality` of generated samples, each beside its floor: the time of its matrix products, convolutions and decompositions,
each timed alone. They are counted in a second run, in the evaluations after a few tasks; the others lie between these.
`--no-floor` leaves it out. Figures are medians over `--turns`; ratios are to the first size.
"""

import argparse
import json
import resource
import shlex
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

TASKS = ["benchmark=permuted_digits", "scenario=domain", "strategy=dgr", "train.iterations=20"]
CLASSES = ["benchmark=arrays", "strategy=generative_classifier", "generator=mixture"]
COUNTED_EVALUATIONS = 5
SAMPLES_PER_CLASS, CLASS_TASKS = 60, 10
PARTS = ("training", "accuracies", "quality", "rest")
MEASURED = ("accuracies", "quality")  # parts of the evaluation, each with a floor


def write_classes(path: Path, num_classes: int) -> None:
    """A file of noisy images around a random one for each class."""
    import numpy as np

    random = np.random.default_rng(0)
    y = np.repeat(np.arange(num_classes), SAMPLES_PER_CLASS)
    x = random.random((num_classes, 1, 8, 8))[y] + 0.15 * random.standard_normal((len(y), 1, 8, 8))
    np.savez(path, x=x.clip(0, 1).astype(np.float32), y=y)


# --- in the process of a run


def run_once(overrides: list[str], count: bool) -> dict[str, float]:
    """Train one run in this process and return its seconds and memory; with `count`, the floors of its evaluations."""
    import bench_step

    from gr_cli.cli.compose import compose_settings
    from gr_cli.evaluation.base import prepare_evaluations
    from gr_cli.results.folder import RunFolder
    from gr_cli.runner.run import run
    from gr_cli.system import timer
    from gr_cli.training.experiment import prepare
    from gr_cli.training.observer import RunObserver

    timer.perf_counter = bench_step.perf_counter = time.process_time  # type: ignore[attr-defined]
    settings = compose_settings(overrides)
    experiment = prepare(settings)
    evaluations = prepare_evaluations(experiment)  # trains the reference classifier, unless it is cached
    last = len(experiment.stages) - 1
    counted = (
        {-1} | {round(i * last / (COUNTED_EVALUATIONS - 1)) for i in range(COUNTED_EVALUATIONS)} if count else set()
    )
    parts = {part: _EvaluationPart(counted) for part in MEASURED}
    for kind in {type(evaluation) for evaluation in evaluations}:
        kind.rows = parts["quality" if kind.__name__ == "SampleQuality" else "accuracies"].wrap(kind.rows)  # type: ignore[method-assign]
    del experiment, evaluations
    start = time.process_time()
    result = run(settings, RunFolder(Path("run")), RunObserver())
    whole = time.process_time() - start
    if count:
        return {part: measured_part.floor(last + 1) for part, measured_part in parts.items()}
    phases = {part: measured_part.seconds for part, measured_part in parts.items()}
    phases["training"] = sum(
        row[f"{phase}_seconds"] for row in result.record.timing for phase in ("solver", "generator", "consolidation")
    )
    phases["rest"] = whole - sum(phases.values())
    return phases | {"memory": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024}


class _EvaluationPart:
    """Seconds of some evaluations, and the products that they compute after some tasks.

    Args:
        counted: Tasks after which products are counted.
    """

    def __init__(self, counted: set[int]) -> None:
        self.seconds = 0.0
        self._counted, self._products = counted, dict[int, Counter[Any]]()

    def wrap(self, rows: Callable[..., Any]) -> Callable[..., Any]:
        """`Evaluation.rows` that is measured."""
        from bench_step import CountProducts

        def call(evaluation: Any, context: Any) -> Any:
            counts = context.after_task in self._counted and context.phase != "within"
            with CountProducts() if counts else nullcontext() as counter:
                start = time.process_time()
                result = rows(evaluation, context)
                self.seconds += time.process_time() - start
            if counts:
                self._products.setdefault(context.after_task, Counter()).update(counter.counts)
            return result

        return call

    def floor(self, num_stages: int) -> float:
        """Seconds of the products of all evaluations, interpolated between those that were counted."""
        import numpy as np
        import torch
        from bench_step import _seconds_alone

        from gr_cli.system.devices import thread_limit

        with thread_limit(1):
            alone = {product: 0.0 for counts in self._products.values() for product in counts}
            for product in alone:
                alone[product] = _seconds_alone(product, torch.device("cpu"))
        seconds = {
            task: sum(n * alone[product] for product, n in counts.items()) for task, counts in self._products.items()
        }
        before, tasks = seconds.pop(-1, 0.0), sorted(seconds)
        after = np.interp(np.arange(num_stages), tasks, [seconds[task] for task in tasks]).sum() if tasks else 0.0
        return before + float(after)


# --- in the process that compares


def measured(overrides: list[str], cache: Path, count: bool = False) -> dict[str, float]:
    """The figures of one run in a new process and an empty folder."""
    command = [sys.executable, str(Path(__file__).resolve()), "--run", shlex.join(overrides)]
    with tempfile.TemporaryDirectory() as folder:
        words = [*command, *(["--count"] if count else []), "--cache", str(cache)]
        done = subprocess.run(words, cwd=folder, capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"{shlex.join(overrides)}\n{done.stderr[-2000:]}")
    figures: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return figures


def compare(configurations: dict[int, list[str]], turns: int, with_floor: bool, what: str, cache: Path) -> None:
    """Measure all sizes in turns and print a line for each."""
    results: dict[int, list[dict[str, float]]] = {size: [] for size in configurations}
    for _ in range(turns):
        for size, overrides in configurations.items():
            results[size].append(measured(overrides, cache))
    heading = "".join(f"{part:>12}" for part in PARTS)
    floors = "".join(f"{f'{part}/floor':>18}" for part in MEASURED)
    print(f"{what:>8}{heading}{'MiB':>8}{'all but evaluation':>20}{'ratio':>7}{floors if with_floor else ''}")
    first = None
    for size, runs in results.items():
        figures = {name: median(run[name] for run in runs) for name in runs[0]}
        other = figures["training"] + figures["rest"]
        first = first or other
        line = f"{size:>8}" + "".join(f"{figures[part]:>12.2f}" for part in PARTS)
        line += f"{figures['memory']:>8.0f}{other:>20.2f}{other / first:>7.2f}"
        if with_floor:
            floor = measured(configurations[size], cache, count=True)
            ratios = ((figures[part], floor[part]) for part in MEASURED)
            line += "".join(f"{f'{s / f:.2f} ({f:.2f} s)' if f else '-':>18}" for s, f in ratios)
        print(line, flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tasks", type=int, nargs="+", default=[10, 50, 100, 200], help="numbers of tasks")
    parser.add_argument("--classes", type=int, nargs="+", help="numbers of classes, instead of tasks")
    parser.add_argument("--overrides", default="", help="further overrides of gr-run, in quotes")
    parser.add_argument("--turns", type=int, default=1)
    parser.add_argument("--no-floor", action="store_true")
    for name in ("--run", "--count", "--cache"):
        parser.add_argument(name, help=argparse.SUPPRESS, **({"action": "store_true"} if name == "--count" else {}))
    chosen = parser.parse_args()
    if chosen.run is not None:
        words = [*shlex.split(chosen.run), "threads=1", f"cache_root={chosen.cache}"]
        print(json.dumps(run_once(words, chosen.count)))
        return
    with tempfile.TemporaryDirectory() as folder:
        further, configurations = shlex.split(chosen.overrides), {}
        print_all = partial(compare, turns=chosen.turns, with_floor=not chosen.no_floor, cache=Path(folder) / "cache")
        if chosen.classes is None:
            for size in chosen.tasks:
                configurations[size] = [*TASKS, f"benchmark.tasks={size}", *further]
            print_all(configurations, what="tasks")
            return
        for size in chosen.classes:
            path = Path(folder) / f"{size}.npz"
            write_classes(path, size)
            words = [f"benchmark.source.path={path}", f"benchmark.classes_per_task={size // CLASS_TASKS}"]
            configurations[size] = [*CLASSES, *words, *further]
        print_all(configurations, what="classes")


if __name__ == "__main__":
    main()
