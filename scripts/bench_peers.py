#!/usr/bin/env python
"""Milliseconds of a training iteration of this program and of Avalanche, in turns, and the accuracy of both.

    python scripts/bench_peers.py                                   # installs Avalanche into a temporary environment
    python scripts/bench_peers.py --environment outputs/avalanche   # keeps the environment, and uses it again
    python scripts/bench_peers.py --method ewc --turns 5

Split MNIST, class-incremental (the embedded digits where MNIST is not in GR_DATA_ROOT), with the same networks, batch
size, optimizer and iterations (`peer_trainers.py`). Both have the torch of this Python and the same number of threads.
Tasks are trained alternately, each program in one process. Avalanche is measured twice: in the conditions of this
program, which are no metrics, samples as one tensor in memory, and denormal numbers flushed to zero; and with its
defaults, which are accuracy, loss and a progress bar for every batch, images that torchvision turns into tensors (as in
its own SplitMNIST, without the normalization), and denormal numbers, which slow down long training.

Timed is the training loop from the end of one iteration to the end of the next: taking a batch, replay, forward and
backward pass, optimizer step; for generative replay those of the solver and of the generator. Not timed: loading the
data, the first iteration of a task, whatever happens at its beginning and end, evaluation. Times are
medians over the iterations of the tasks after the first, then over the turns; a turn has a seed of its own.
"""

import argparse
import json
import os
import site
import subprocess
import sys
import tempfile
import venv
from contextlib import ExitStack
from pathlib import Path
from statistics import mean, median

REQUIREMENT = "avalanche-lib==0.6.0"
PEERS = ("avalanche", "avalanche with its defaults")
METHODS = ("finetune", "ewc", "replay", "generative_replay")
TASKS = 5
PROGRAM = Path(__file__).with_name("peer_trainers.py")


def make_environment(folder: Path) -> Path:
    """Install Avalanche into an environment that shares the packages of this Python, and return its Python."""
    python = folder / ("Scripts" if os.name == "nt" else "bin") / "python"
    complete = folder / ".complete"
    if complete.exists() and complete.read_text(encoding="utf-8") == REQUIREMENT:
        return python
    print(f"installing {REQUIREMENT} into {folder} (a minute or two) ...", file=sys.stderr, flush=True)
    venv.create(folder, with_pip=True)
    own = subprocess.run(
        [python, "-c", "import site; print(site.getsitepackages()[0])"], capture_output=True, text=True
    )
    # Packages of the environment come first; torch and what else fits is that of this Python.
    (Path(own.stdout.strip()) / "shared.pth").write_text(
        "".join(f"{path}\n" for path in site.getsitepackages()), encoding="utf-8"
    )
    installed = [str(python), "-m", "pip", "install", "-qq", REQUIREMENT, f"torch=={torch_version()}"]
    if subprocess.run(installed).returncode:
        sys.exit(f"bench_peers: {REQUIREMENT} could not be installed; see the messages above")
    complete.write_text(REQUIREMENT, encoding="utf-8")
    return python


def torch_version() -> str:
    from importlib.metadata import version

    return version("torch")


class Trainer:
    """A process that trains: `peer_trainers.py` with one of the programs."""

    def __init__(self, python: Path | str, program: str, options: dict[str, object]) -> None:
        command = [str(python), "-W", "ignore", str(PROGRAM), program, json.dumps(options)]
        self.program, self.messages = program, tempfile.TemporaryFile("w+")  # noqa: SIM115
        self.process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self.messages, text=True
        )

    def ask(self, *request: object) -> object:
        """Send a request, and wait for the answer."""
        assert self.process.stdin is not None and self.process.stdout is not None
        print(json.dumps(request), file=self.process.stdin, flush=True)
        answer = self.process.stdout.readline()
        if not answer:
            code = self.process.wait()
            self.messages.seek(0)
            sys.exit(f"{self.messages.read()[-4000:]}\nbench_peers: {self.program} ended with {code}")
        return json.loads(answer)

    def close(self) -> None:
        assert self.process.stdin is not None and self.process.stdout is not None
        self.process.stdin.close()
        self.process.wait()
        self.process.stdout.close()
        self.messages.close()


def run_turn(trainers: list[Trainer], method: str, seed: int) -> list[tuple[float, float]]:
    """Train all tasks, alternately; for each program, the median seconds of an iteration and the accuracy."""
    seconds: list[list[float]] = [[] for _ in trainers]
    for trainer in trainers:
        trainer.ask("begin", method, seed)
    for task in range(TASKS):
        for trainer, values in zip(trainers, seconds, strict=True):
            times = trainer.ask("train", task)
            values.extend(times if task else ())
    return [(median(values), trainer.ask("accuracy")) for trainer, values in zip(trainers, seconds, strict=True)]


def compare(trainers: list[Trainer], methods: list[str], turns: int, label: str) -> None:
    """Print a line of the table for each method."""
    columns = ["method", "n", *(f"{trainer.program} (ms)" for trainer in trainers)]
    columns += [f"{trainer.program} / gr" for trainer in trainers[1:]] + ["accuracy (%)"]
    print("| " + " | ".join(columns) + " |\n" + "| --- " * len(columns) + "|", flush=True)
    for method in methods:
        results = [run_turn(trainers, method, seed) for seed in range(turns)]
        times, accuracies = ([[turn[i][value] for turn in results] for i in range(len(trainers))] for value in (0, 1))
        cells = [f"{method} {label}", str(turns), *(f"{median(values) * 1e3:.2f}" for values in times)]
        for values in times[1:]:
            ratios = [theirs / ours for ours, theirs in zip(times[0], values, strict=True)]
            cells.append(f"{median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})")
        cells.append(", ".join(f"{mean(values) * 100:.1f}" for values in accuracies))
        print("| " + " | ".join(cells) + " |", flush=True)


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--method", choices=METHODS, action="append", help="default: all four")
    parser.add_argument("--turns", type=int, default=3)
    parser.add_argument("--iterations", type=int, default=300, help="of each task")
    parser.add_argument("--batch-size", type=int, default=128)
    parser.add_argument("--hidden", type=int, nargs="+", default=[400, 400], help="units of the hidden layers")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--environment", type=Path, help="folder of Avalanche's environment, made if it is missing")
    parser.add_argument("--python", default=sys.executable, help="Python of this program, to compare another checkout")
    parser.add_argument("--benchmark", choices=("split_mnist", "split_digits"), help="default: by the files that exist")
    chosen = parser.parse_args(argv)
    with ExitStack() as stack:
        folder = chosen.environment or Path(stack.enter_context(tempfile.TemporaryDirectory()))
        files = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        options = {
            "benchmark": chosen.benchmark or ("split_mnist" if has_mnist() else "split_digits"),
            "data": str(files / "tasks.pt"),
            **{name: getattr(chosen, name) for name in ("batch_size", "hidden", "iterations", "threads")},
        }
        theirs = make_environment(folder)
        trainers = [Trainer(chosen.python, "gr", options)]
        trainers += [Trainer(theirs, program, options) for program in PEERS]
        for trainer in trainers:
            stack.callback(trainer.close)
        versions = sorted({trainer.ask("version") for trainer in trainers})
        if len(versions) > 1:
            sys.exit(f"bench_peers: times with different torch can't be compared: {', '.join(versions)}")
        print(f"{REQUIREMENT}, torch {versions[0]}, {options['benchmark']}, hidden units {chosen.hidden},", end=" ")
        print(f"batch {chosen.batch_size}, {chosen.iterations} iterations of each task, {chosen.threads} thread(s)\n")
        trainers[0].ask("save", options["data"])
        label = f"{'-'.join(map(str, chosen.hidden))} {chosen.batch_size}"
        compare(trainers, chosen.method or list(METHODS), chosen.turns, label)


def has_mnist() -> bool:
    root = os.environ.get("GR_DATA_ROOT")
    return root is not None and (Path(root) / "MNIST").is_dir()


if __name__ == "__main__":
    main()
