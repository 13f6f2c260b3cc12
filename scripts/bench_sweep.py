#!/usr/bin/env python
"""The same sweep run in several ways, each in a process and a folder of its own, in turns: seconds and ratios.

    python scripts/bench_sweep.py                             # the embedded default: 4 replay weights x 8 seeds
    python scripts/bench_sweep.py --subject mnist-100 --turns 1
    python scripts/bench_sweep.py --subject mnist-100 --seeds 2 --iterations 200

Ways: `sequential`, the jobs one after the other in one process, imports excluded; `batched`, as programs with a
replica axis, imports excluded, their check included; `batched-2`, the same in two processes; `joblib`,
a process per core (if its launcher is installed); `separate`, one gr-run process after the other, imports included.
Figures are medians over the turns. To spend less time, fewer iterations and seeds can be asked for: all ways get them.
"""

import argparse
import importlib.util
import os
import shlex
import subprocess
import sys
import tempfile
import time
from itertools import product
from statistics import median

SUBJECTS = {
    "digits": [],
    **{
        f"mnist-{width}": [
            "preset=dgr_paper",
            f"model.hidden_sizes=[{width},{width}]",
            f"generator.hidden_dims=[{width},{width}]",
        ]
        for width in (100, 200, 400)
    },
    "mnist-cnn": ["benchmark=split_mnist", "model=cnn", "generator=conv_vae"],
    "digits-cnn": ["model=cnn", "generator=conv_vae"],
}
WEIGHTS = ("0.25", "0.5", "1", "2")
WAYS = ("sequential", "batched", "batched-2", "joblib", "separate")
LAUNCHERS = {
    "sequential": [],
    "batched": ["hydra/launcher=batched"],
    "batched-2": ["hydra/launcher=batched", "hydra.launcher.processes=2"],
    "joblib": ["hydra/launcher=joblib"],
}
# Imports first, so that they are not measured.
INSIDE = """
import sys, time
import gr_cli.cli.main, gr_cli.terminal.run_view, gr_cli.runner.run, gr_cli.results.figures, hydra, torchvision
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


def seconds(way: str, words: list[str], seeds: int) -> float:
    """Run the sweep once in a fresh folder."""
    with tempfile.TemporaryDirectory() as folder:
        if way == "separate":
            start = time.perf_counter()
            for weight, seed in product(WEIGHTS, range(seeds)):
                job = [*words, f"strategy.replay_weight={weight}", f"seed={seed}"]
                run([sys.executable, "-m", "gr_cli", *job], folder)
            return time.perf_counter() - start
        sweep = ["-m", *words, f"strategy.replay_weight={','.join(WEIGHTS)}", f"seed=range({seeds})", *LAUNCHERS[way]]
        out = run([sys.executable, "-c", INSIDE, *sweep], folder)
        for line in out.splitlines():
            if line.startswith("batched:"):
                print(f"    {way}: {line.partition(': ')[2]}", flush=True)
        return float(out.rsplit("seconds", 1)[1])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--subject", choices=SUBJECTS, action="append", help="default: digits")
    parser.add_argument("--way", choices=WAYS, action="append", help="default: all that are installed")
    parser.add_argument("--seeds", type=int, default=8)
    parser.add_argument("--iterations", type=int, help="per task; default: those of the configuration")
    parser.add_argument("--turns", type=int, default=3)
    chosen = parser.parse_args()
    joblib = importlib.util.find_spec("hydra_plugins") and importlib.util.find_spec(
        "hydra_plugins.hydra_joblib_launcher"
    )
    ways = chosen.way or [way for way in WAYS if way != "joblib" or joblib]
    print(f"{os.cpu_count()} cores; {len(WEIGHTS)} replay weights x {chosen.seeds} seeds")
    for subject in chosen.subject or ["digits"]:
        budget = [] if chosen.iterations is None else [f"train.iterations={chosen.iterations}"]
        words = [*SUBJECTS[subject], *budget]
        print(f"\n{subject}: {shlex.join(words) or 'the defaults'}", flush=True)
        found: dict[str, list[float]] = {way: [] for way in ways}
        for _ in range(chosen.turns):
            for way in ways:
                found[way].append(seconds(way, words, chosen.seeds))
        slowest = median(found[ways[0]])
        for way, values in found.items():
            times = f"{median(values):>8.1f} s ({min(values):.1f} to {max(values):.1f})"
            print(f"{way:>12} {times}; {ways[0]}: {slowest / median(values):.2f} times as long", flush=True)


if __name__ == "__main__":
    main()
