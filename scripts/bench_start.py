#!/usr/bin/env python
"""Whole commands beside `import torch` alone: seconds of the clock and of the processor, and both as ratios.

    python scripts/bench_start.py                                  # digits and one iteration of Split MNIST
    python scripts/bench_start.py --turns 9 "preset=smoke" "benchmark=permuted_digits train.iterations=1"

Each command is a process in an empty folder; the commands take turns, and the first turn, which fills the caches, is
left out. Figures are medians over the turns.
"""

import argparse
import os
import shlex
import subprocess
import sys
import tempfile
import time
from statistics import median

COMMANDS = ("preset=smoke", "benchmark=split_mnist strategy=finetune train.iterations=1")
IMPORT = (sys.executable, "-c", "import torch")


def measured(command: tuple[str, ...], folder: str) -> tuple[float, float]:
    """Seconds of the clock and of the processor that a command takes."""
    before, start = os.times(), time.perf_counter()
    subprocess.run(command, cwd=folder, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    seconds, after = time.perf_counter() - start, os.times()
    return seconds, after.children_user - before.children_user + after.children_system - before.children_system


def table(commands: list[str], turns: int) -> list[tuple[str, float, float, float, float]]:
    """Name, seconds of clock and processor, and their ratios to those of the import, for it and each command."""
    gr_run = os.path.join(os.path.dirname(sys.executable), "gr-run")
    processes = {"import torch": IMPORT} | {words: (gr_run, *shlex.split(words), "fresh=true") for words in commands}
    seconds: dict[str, list[tuple[float, float]]] = {name: [] for name in processes}
    with tempfile.TemporaryDirectory() as folder:
        for turn in range(turns + 1):
            for name, command in processes.items():
                figures = measured(command, folder)
                if turn:
                    seconds[name].append(figures)
    medians = {name: [median(column) for column in zip(*rows, strict=True)] for name, rows in seconds.items()}
    clock, processor = medians["import torch"]
    return [(name, wall, cpu, wall / clock, cpu / processor) for name, (wall, cpu) in medians.items()]


def main() -> None:
    """Measure the commands and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("commands", nargs="*", default=COMMANDS, help="arguments of gr-run, each command in quotes")
    parser.add_argument("--turns", type=int, default=5)
    arguments = parser.parse_args()
    print("| command | seconds | of the processor | over `import torch` | of the processor |")
    print("| --- | --- | --- | --- | --- |")
    for name, wall, cpu, ratio, cpu_ratio in table(list(arguments.commands), arguments.turns):
        print(f"| `{name}` | {wall:.2f} | {cpu:.2f} | {ratio:.2f} | {cpu_ratio:.2f} |")


if __name__ == "__main__":
    main()
