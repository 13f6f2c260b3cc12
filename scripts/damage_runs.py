#!/usr/bin/env python
"""Damage files that runs and sweeps leave, at random, and see that nothing wrong is believed.

    python scripts/damage_runs.py                                # 1,000 damages
    python scripts/damage_runs.py --damages 30 --seed 1          # fewer, and others

A file of a run, a sweep or a cache gets a flipped bit, is cut, emptied, or replaced by a file of the same name of
another run, by a folder or by a link. Then, at random, the same command is repeated, or the run is resumed, loaded,
verified or reported. Whatever ends with 0 must have left or shown what undamaged files leave or show, and whatever
does not must name what is wrong, without a traceback; the other runs of a sweep must be as if nothing had happened.
Processes are forked from one that has imported everything. Exit code 1 if anything else was seen.
"""

import argparse
import contextlib
import os
import random
import shutil
import signal
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import hydra  # noqa: F401
from kill_runs import tables

import gr_cli.cli.callback
import gr_cli.cli.main
import gr_cli.evaluation.measures.sample_quality
import gr_cli.report.cli
import gr_cli.results.figures
import gr_cli.runner.verify  # imported before the forks, with all that a run needs
import gr_cli.terminal.run_display
from gr_cli import load_run
from gr_cli.errors import GrError
from gr_cli.training.observer import RunObserver

SMALL = (
    "threads=1", "train.iterations=8", "log.every=3", "benchmark.classes_per_task=[2,4,4]", "model.hidden_sizes=[16]",
)  # fmt: skip
REPLAY = (*SMALL, "strategy=generative_replay", "generator.hidden_dims=[16]", "strategy.memory_size=40")
IMAGES = (
    "threads=1", "train.iterations=8", "log.every=3", "strategy=finetune", "benchmark=image_folder",
    "benchmark.source.path=images", "benchmark.classes_per_task=1", "model.hidden_sizes=[16]",
    "benchmark/features=conv", "benchmark.features.weights=random",
)  # fmt: skip
SWEEP = ("-m", *SMALL, "strategy=finetune", "seed=0,1,2", "hydra/launcher=batched", "hydra.launcher.width=3")
WORDS = {"replay": REPLAY, "images": IMAGES, "sweep": SWEEP}
PATIENCE = 300.0  # seconds, far more than any command needs

Command = Callable[[], int]


class StopAt(RunObserver):
    """Asks to stop within the third task."""

    def stepped(self, stage_index, step, losses):
        """One training step is over."""
        if (stage_index, step.iteration) == (2, 4):
            os.kill(os.getpid(), signal.SIGTERM)  # SIGINT is ignored in the background of a script


def run(words: tuple[str, ...], stop: bool = False) -> Command:
    """`gr-run words`; with `stop`, interrupted in its third task."""

    def do() -> int:
        gr_cli.terminal.run_display.TerminalObserver = lambda **_: StopAt() if stop else RunObserver()
        return gr_cli.cli.main.main(words)

    return do


def load(folder: str) -> Command:
    """Print what `load_run` reads of the matrix, which has a checksum once a run is finished, and of the networks."""

    def do() -> int:
        try:
            loaded = load_run(folder)
            matrix = loaded.matrix if loaded.state == "finished" else None
            weights = sum(value.double().sum().item() for value in loaded.solver.parameters())
        except GrError as error:
            print(f"gr-run: {error}")
            return error.exit_code
        print(matrix, loaded.config, weights)
        return 0

    return do


def report() -> int:
    """`gr-report` of all that is there."""
    return gr_cli.report.cli.main(["outputs", "--format", "csv"])


def forked(command: Command, home: Path) -> tuple[int, str]:
    """A command in a process of its own, in `home`: its exit code and all that it printed."""
    output = home.with_suffix(".txt")
    sys.stdout.flush()
    child = os.fork()
    if not child:
        code = 1
        try:
            os.chdir(home)
            os.environ["GR_CACHE_ROOT"] = str(home / "cache")
            quiet = os.open(output, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
            os.dup2(quiet, 1)
            os.dup2(quiet, 2)
            code = command()
        except BaseException:
            traceback.print_exc()
        finally:
            sys.stdout.flush()
            os._exit(code)
    end = time.monotonic() + PATIENCE
    while time.monotonic() < end:
        ended, status = os.waitpid(child, os.WNOHANG)
        if ended:
            return os.waitstatus_to_exitcode(status), output.read_text(encoding="utf-8", errors="replace")
        time.sleep(0.005)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    return -1, "Traceback: it does not come to an end"


def images(home: Path) -> None:
    """Three classes of eight small pictures."""
    from PIL import Image

    rng = random.Random(0)
    for name in "abc":
        folder = home / "images" / name
        folder.mkdir(parents=True)
        for number in range(8):
            Image.frombytes("L", (12, 12), rng.randbytes(144)).save(folder / f"{number}.png")


def prepared(temporary: Path) -> dict[str, Path]:
    """Folders in which runs are over or were stopped, by name; `<name> over` is what `<name> stopped` comes to."""
    homes = {}
    for name, words in WORDS.items():
        for state in ("over", "stopped"):
            home = homes[f"{name} {state}"] = temporary / f"{name}-{state}"
            home.mkdir()
            if name == "images":
                images(home)
            code, printed = forked(run(words, stop=state == "stopped"), home)
            if code != (130 if state == "stopped" else 0):
                sys.exit(f"exit code {code} in {home}:\n{printed[-2000:]}")
    return homes


# --- damages


def flip(path: Path, others: list[Path], rng: random.Random) -> None:
    """One bit."""
    content = bytearray(path.read_bytes())
    if content:
        content[rng.randrange(len(content))] ^= 1 << rng.randrange(8)
    path.write_bytes(content)


def cut(path: Path, others: list[Path], rng: random.Random) -> None:
    """Some of the end is missing."""
    content = path.read_bytes()
    path.write_bytes(content[: rng.randrange(len(content) + 1)])


def empty(path: Path, others: list[Path], rng: random.Random) -> None:
    """Nothing is left."""
    path.write_bytes(b"")


def replace(path: Path, others: list[Path], rng: random.Random) -> None:
    """The file of another run takes its place."""
    if others:
        shutil.copy(rng.choice(others), path)


def folder(path: Path, others: list[Path], rng: random.Random) -> None:
    """A folder takes its place."""
    path.unlink()
    path.mkdir()


def link(path: Path, others: list[Path], rng: random.Random) -> None:
    """A link takes its place, to the file of another run or to what never ends."""
    path.unlink()
    path.symlink_to(rng.choice([*others, Path("/dev/zero"), Path("nowhere")]))


DAMAGES = (flip, flip, flip, cut, empty, replace, folder, link)


# --- what must hold


def actions(name: str, home: Path, target: Path) -> dict[str, Command]:
    """What may be done after a damage; `target`: the run that it is done to."""
    own = str(target.relative_to(home))
    return {
        "again": run(WORDS[name.split()[0]]),
        "resume": run((f"resume={own}",)),
        "load": load(own),
        "verify": run((f"verify={own}",)),
        "report": report,
    }


def violation(
    action: str,
    code: int,
    printed: str,
    expected: str,
    home: Path,
    undamaged: Path,
    target: Path,
    damaged_run: Path | None,
) -> str:
    """A violated invariant; empty if there is none.

    Args:
        expected: Output of the same command without damage.
        target: The run that the command names.
        damaged_run: The run that was damaged; None if it was the cache or the sweep's folder.
    """
    actual, expected_tables = tables(home), tables(undamaged)
    if "Traceback" in printed:
        return "a traceback, or no end"
    if code != 0 and not any(word in printed for word in ("gr-run: ", "gr-report: ", "NOT the same", "agrees within")):
        return "refused without a word"
    if code == 0 and action in ("load", "report") and printed != expected:
        return "something else is shown"
    own = target.relative_to(home).parts
    ours = {name: content for name, content in expected_tables.items() if Path(name).parts[:4] == own}
    if code == 0 and action == "verify" and any(actual.get(name) != content for name, content in ours.items()):
        return "changed tables are verified"
    if action == "resume" and code == 0 and any(actual.get(name) != content for name, content in ours.items()):
        return "other tables"
    if action == "again":
        if code == 0 and actual != expected_tables:
            return "other tables"
        others = [name for name in expected_tables if Path(name).parts[:4] != own]
        if damaged_run == target and any(actual.get(name) != expected_tables[name] for name in others):
            return "another run of the sweep was changed"
    return ""


def main() -> None:
    """Damage and look."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--damages", type=int, default=1000, help="how many (1,000)")
    parser.add_argument("--seed", type=int, default=0, help="of the damages")
    arguments = parser.parse_args()
    rng, seen, wrong = random.Random(arguments.seed), Counter[str](), 0
    with tempfile.TemporaryDirectory() as directory:
        temporary = Path(directory)
        homes, expected = prepared(temporary), dict[tuple[str, str, str], str]()
        for number in range(arguments.damages):
            name = rng.choice(sorted(homes))
            source, home, undamaged = homes[name], temporary / "tried", homes[f"{name.split()[0]} over"]
            with contextlib.suppress(FileNotFoundError):
                shutil.rmtree(home)
            shutil.copytree(source, home)
            files = [path for top in ("outputs", "cache") for path in sorted((home / top).rglob("*")) if path.is_file()]
            kind = rng.choice(sorted({path.suffix for path in files}))  # else nearly all would be pictures and tables
            path, damage = rng.choice([path for path in files if path.suffix == kind]), rng.choice(DAMAGES)
            runs = sorted(status.parent for status in home.glob("outputs/*/*/*/status.json"))
            damaged_run = next(
                (folder for folder in runs if folder in path.parents), None
            )  # else what all of them share
            target = damaged_run or rng.choice(runs)
            others = [p for other in homes.values() for p in sorted(other.rglob(path.name))]
            others = [p for p in others if p.is_file() and p.read_bytes() != path.read_bytes()]
            action = rng.choice(sorted(actions(name, home, target)))
            key = (name, action, str(target.relative_to(home)))
            if action in ("load", "report") and key not in expected:
                expected[key] = forked(actions(name, home, target)[action], home)[1]
            damage(path, others, rng)
            code, printed = forked(actions(name, home, target)[action], home)
            what = violation(action, code, printed, expected.get(key, ""), home, undamaged, target, damaged_run)
            seen["sound" if code == 0 else "refused"] += 1
            if what:
                wrong += 1
                printed = "\n    ".join(printed.splitlines()[-6:])
                which = f"{damage.__name__} {path.relative_to(home)}"
                print(f"{number}: {name}: {which}, {action}: {what}\n    {printed}", flush=True)
    print(f"{arguments.damages - wrong} of {arguments.damages} damages refused or without effect; {dict(seen)}")
    sys.exit(wrong > 0)


if __name__ == "__main__":
    main()
