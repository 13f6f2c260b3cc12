#!/usr/bin/env python
"""Kill runs at random instants until they are done, and compare what they leave with an undisturbed run.

    python scripts/kill_runs.py                                # 200 runs of a small configuration
    python scripts/kill_runs.py --runs 20 strategy=er          # fewer, and another configuration
    python scripts/kill_runs.py --launcher batched             # sweeps of four runs, trained as one program
    python scripts/kill_runs.py --launcher joblib --runs 50    # ... in two processes

Each run (or sweep) is started again and again, and killed by SIGKILL at an instant drawn at random, until it comes to
its end; then its tables must be the undisturbed ones, byte for byte. Processes are forked from one that has imported
everything, so that kills fall into the runs and not into imports. Exit code 1 if any table differs.
"""

import argparse
import os
import random
import signal
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

# Imported before the forks, with all that a run needs.
import hydra  # noqa: F401

import gr_cli.cli.callback
import gr_cli.cli.main
import gr_cli.evaluation.measures.sample_quality
import gr_cli.results.figures
import gr_cli.runner.run
import gr_cli.terminal.run_display

SMALL = (
    "threads=1", "train.iterations=60", "log.every=7", "evaluate.every=25", "strategy.memory_size=100",
    "strategy.generator_update_freq=2", "checkpoint.every_seconds=0.001",
)  # fmt: skip
SWEEP = ("-m", "seed=0,1", "strategy.replay_weight=0.5,2.0")
LAUNCHERS = {
    "alone": (),
    "basic": SWEEP,
    "batched": (*SWEEP, "hydra/launcher=batched", "hydra.launcher.width=4"),
    "joblib": (*SWEEP, "hydra/launcher=joblib", "hydra.launcher.n_jobs=2"),
}


def start(words: list[str], home: Path) -> int:
    """Start `gr-run words` in `home`, in a process group of its own; returns its id."""
    child = os.fork()
    if child:
        return child
    code = 1
    try:
        os.setsid()
        os.chdir(home)
        quiet = os.open(home / "output.txt", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.dup2(quiet, 1)
        os.dup2(quiet, 2)
        code = gr_cli.cli.main.main(words)
    finally:
        os._exit(code)


def kill_after(child: int, seconds: float) -> int | None:
    """Kill a process group after `seconds`; the exit code of one that ended before, else None."""
    end = time.monotonic() + seconds
    while (left := end - time.monotonic()) > 0:
        ended, status = os.waitpid(child, os.WNOHANG)
        if ended:
            return os.waitstatus_to_exitcode(status)
        time.sleep(min(0.001, left))
    for target in (lambda: os.killpg(child, signal.SIGKILL), lambda: os.kill(child, signal.SIGKILL)):
        try:
            target()
            break
        except ProcessLookupError:
            continue  # it has no group of its own yet
    os.waitpid(child, 0)
    return None


def tables(home: Path) -> dict[str, bytes]:
    """Every table of the runs below `home` that follows from configuration and seed, by folder and name."""
    paths = sorted(path for path in home.glob("outputs/*/*/*/*.csv") if path.is_file() and path.name != "timing.csv")
    return {str(path.relative_to(home)): path.read_bytes() for path in paths}


def kill_until_done(words: list[str], home: Path, longest: float, rng: random.Random) -> Counter[str]:
    """Start a run and kill it until it finishes; counts of what the kills interrupted."""
    seen: Counter[str] = Counter()
    while True:
        # The first start never comes to its end: half of the time of an undisturbed run.
        code = kill_after(start(words, home), rng.uniform(0, longest if seen["kills"] else longest / 2.4))
        if code == 0:
            return seen
        if code is not None:
            sys.exit(f"exit code {code} in {home}:\n{(home / 'output.txt').read_text(encoding='utf-8')[-2000:]}")
        seen["kills"] += 1
        seen["while a file was written"] += bool(list(home.rglob("*.tmp")))
        seen["between writing and adopting a checkpoint"] += bool(list(home.rglob("checkpoint.next.pt")))


def main() -> None:
    """Kill and compare."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=200, help="how many runs, or sweeps (200)")
    parser.add_argument("--launcher", choices=LAUNCHERS, action="append", help="may be given several times (alone)")
    parser.add_argument("--seed", type=int, default=0, help="of the instants")
    arguments, words = parser.parse_known_args()
    rng = random.Random(arguments.seed)
    ends = [
        compare([*LAUNCHERS[name], *SMALL, *words], arguments.runs, rng) for name in arguments.launcher or ["alone"]
    ]
    sys.exit(not all(ends))


def compare(words: list[str], runs: int, rng: random.Random) -> bool:
    """Whether each of `runs` runs, killed at least once, has the tables of an undisturbed run."""
    with tempfile.TemporaryDirectory() as temporary:
        undisturbed = Path(temporary) / "undisturbed"
        undisturbed.mkdir()
        began = time.monotonic()
        if kill_after(start(words, undisturbed), 600) != 0:
            sys.exit((undisturbed / "output.txt").read_text(encoding="utf-8"))
        longest = 1.2 * (time.monotonic() - began)
        expected, same, seen = tables(undisturbed), 0, Counter()
        for number in range(runs):
            home = Path(temporary) / str(number)
            home.mkdir()
            seen += kill_until_done(words, home, longest, rng)
            actual = tables(home)
            same += actual == expected
            for name in sorted(expected.keys() | actual.keys()):
                if expected.get(name) != actual.get(name):
                    print(f"{number}: {name} differs", flush=True)
        print(f"{same} of {runs} the same byte for byte, {len(expected)} tables each; {dict(seen)}")
        return same == runs and seen["kills"] >= runs


if __name__ == "__main__":
    main()
