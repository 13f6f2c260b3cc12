#!/usr/bin/env python
"""The same sweep run in several ways, each in a process and a folder of its own, in turns: seconds and ratios.

    python scripts/bench_sweep.py                             # the embedded default: 4 replay weights x 8 seeds
    python scripts/bench_sweep.py --subject mnist-100 --turns 1
    python scripts/bench_sweep.py --subject mnist-100 --seeds 2 --iterations 200
    python scripts/bench_sweep.py --subject mnist-400 --widths 1,4,8,16,32 --threads 1

Ways: `sequential`, the jobs one after the other in one process, imports excluded; `batched`, as programs with a
replica axis, imports of the first process excluded, their check included; `batched-1`, the same in one process;
`joblib`, a process per core (if its launcher is installed); `separate`, one gr-run process after the other, imports
included.
Figures are medians over the turns. To spend less time, fewer iterations and seeds can be asked for: all ways get them.

With `--widths`, seeds are trained as programs of these widths instead, in this one process, in a task with replay, so
many iterations (40 if not given) a turn, warm-up left out. Printed for each width: milliseconds of a run's iteration,
of the processor (which other programs disturb least) and of the clock, and both as multiples of those of the best
width; and which width the launcher's rule takes, which is measured too.
"""

import argparse
import importlib.util
import os
import shlex
import subprocess
import sys
import tempfile
import time
from dataclasses import replace
from itertools import product
from statistics import median

SUBJECTS = {
    "digits": [],
    **{
        f"mnist-{units}": [
            "preset=dgr_paper",
            f"model.hidden_sizes=[{units},{units}]",
            f"generator.hidden_dims=[{units},{units}]",
        ]
        for units in (100, 200, 400, 1000)
    },
    "mnist-cnn": ["benchmark=split_mnist", "model=cnn", "generator=conv_vae"],
    "digits-cnn": ["model=cnn", "generator=conv_vae"],
    "mnist-bir": ["preset=split_mnist_paper", "strategy=bir"],
    "mnist-ewc": ["preset=split_mnist_paper", "strategy=ewc"],
    "mnist-er": ["preset=split_mnist_paper", "strategy=er"],
    "digits-flow": ["generator=flow"],
    "digits-wgan_gp": ["strategy=dgr_gan"],
    "digits-mixture": ["generator=mixture"],
    "digits-si": ["strategy=si"],
}
WEIGHTS = ("0.25", "0.5", "1", "2")
WAYS = ("sequential", "batched", "batched-1", "joblib", "separate")
LAUNCHERS = {
    "sequential": [],
    "batched": ["hydra/launcher=batched"],
    "batched-1": ["hydra/launcher=batched", "hydra.launcher.processes=1"],
    "joblib": ["hydra/launcher=joblib"],
}
# Imports first, so that they are not measured.
INSIDE = """
import sys, time
import gr_cli.cli.main, gr_cli.terminal.run_display, gr_cli.runner.run, gr_cli.results.figures, hydra
start = time.perf_counter()
code = gr_cli.cli.main.main(sys.argv[1:])
print("seconds", time.perf_counter() - start)
sys.exit(code)
"""


def run(command: list[str], folder: str) -> str:
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"{shlex.join(command)}\n{done.stdout[-2000:]}{done.stderr[-2000:]}")
    return done.stdout


def seconds(way: str, overrides: list[str], seeds: int) -> float:
    """Run the sweep once in a fresh folder."""
    with tempfile.TemporaryDirectory() as folder:
        if way == "separate":
            start = time.perf_counter()
            for weight, seed in product(WEIGHTS, range(seeds)):
                job = [*overrides, f"strategy.replay_weight={weight}", f"seed={seed}"]
                run([sys.executable, "-m", "gr_cli", *job], folder)
            return time.perf_counter() - start
        sweep = [
            "-m",
            *overrides,
            f"strategy.replay_weight={','.join(WEIGHTS)}",
            f"seed=range({seeds})",
            *LAUNCHERS[way],
        ]
        out = run([sys.executable, "-c", INSIDE, *sweep], folder)
        for line in out.splitlines():
            if line.startswith("batched:"):
                print(f"    {way}: {line.partition(': ')[2]}", flush=True)
        return float(out.rsplit("seconds", 1)[1])


def compare_widths(overrides: list[str], widths: list[int], threads: int | None, steps: int, turns: int) -> None:
    """Print how long an iteration of a run takes in programs of these widths, and which of them the rule takes."""
    from bench_step import StepBenchmark

    from gr_cli.cli.compose import compose_settings
    from gr_cli.cli.launchers.program_width import choose_width
    from gr_cli.system.devices import flush_denormals
    from gr_cli.system.memory import keep_freed_memory

    job = compose_settings(overrides)
    jobs = [replace(job, config=job.config | {"seed": seed}) for seed in range(max(widths))]
    keep_freed_memory()
    with flush_denormals():  # before torch makes its threads, which then do as this one
        choice = choose_width(jobs, max(widths), 4096 << 20)
        widths = sorted({*widths, choice.width})
        programs = [StepBenchmark(shlex.join(overrides), width, threads) for width in widths]
        for program in programs:
            program.time_steps(steps=max(2, steps // 10))
        clock: dict[int, list[float]] = {width: [] for width in widths}
        processor: dict[int, list[float]] = {width: [] for width in widths}
        for _ in range(turns):
            for program in programs:
                start = time.process_time()
                clock[program.runs].append(program.time_steps(steps=steps) / program.runs)
                processor[program.runs].append((time.process_time() - start) / steps / program.runs)
    medians = {
        name: {w: median(v) for w, v in measured.items()} for name, measured in (("cpu", processor), ("wall", clock))
    }
    print(f"    {programs[-1].threads} thread(s); the rule: {choice.width}{choice.reason and f' ({choice.reason})'}")
    for width in widths:
        cells = [f"{name} {v[width] * 1e3:8.3f} ms {v[width] / min(v.values()):5.2f}" for name, v in medians.items()]
        print(f"    width {width:>3}  {'  '.join(cells)}{'  <- the rule' if width == choice.width else ''}")
    for name, v in medians.items():
        best, ruled = min(v, key=v.__getitem__), v[choice.width]
        one = f", {ruled / v[1]:.2f} times as long as alone" if 1 in v else ""
        print(f"    {name}: best {best}; the rule's takes {ruled / v[best]:.2f} times as long as that{one}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--subject", choices=SUBJECTS, action="append", help="default: digits")
    parser.add_argument("--way", choices=WAYS, action="append", help="default: all that are installed")
    parser.add_argument("--seeds", type=int, default=8)
    parser.add_argument("--iterations", type=int, help="per task; default: those of the configuration")
    parser.add_argument("--turns", type=int, default=3)
    parser.add_argument("--widths", help="compare programs of these widths, as 1,4,8,16,32")
    parser.add_argument("--threads", type=int, help="with --widths; default: those that the runs would take")
    chosen = parser.parse_args()
    if chosen.widths:
        for subject in chosen.subject or ["digits"]:
            print(f"{subject}: {shlex.join(SUBJECTS[subject]) or 'the defaults'}", flush=True)
            widths = [int(width) for width in chosen.widths.split(",")]
            compare_widths(SUBJECTS[subject], widths, chosen.threads, chosen.iterations or 40, chosen.turns)
        return
    joblib = importlib.util.find_spec("hydra_plugins") and importlib.util.find_spec(
        "hydra_plugins.hydra_joblib_launcher"
    )
    ways = chosen.way or [way for way in WAYS if way != "joblib" or joblib]
    print(f"{os.cpu_count()} cores; {len(WEIGHTS)} replay weights x {chosen.seeds} seeds")
    for subject in chosen.subject or ["digits"]:
        budget = [] if chosen.iterations is None else [f"train.iterations={chosen.iterations}"]
        overrides = [*SUBJECTS[subject], *budget]
        print(f"\n{subject}: {shlex.join(overrides) or 'the defaults'}", flush=True)
        measured: dict[str, list[float]] = {way: [] for way in ways}
        for _ in range(chosen.turns):
            for way in ways:
                measured[way].append(seconds(way, overrides, chosen.seeds))
        slowest = median(measured[ways[0]])
        for way, values in measured.items():
            times = f"{median(values):>8.1f} s ({min(values):.1f} to {max(values):.1f})"
            print(f"{way:>12} {times}; {ways[0]}: {slowest / median(values):.2f} times as long", flush=True)


if __name__ == "__main__":
    main()
