#!/usr/bin/env python
"""Runs on a data set larger than memory, within a limit on the memory of the process.

    python scripts/bench_large.py                                  # 1.2 million images of 64x64, 20,000 as files
    python scripts/bench_large.py --images 200000 --files 2000     # smaller
    python scripts/bench_large.py --folder /big/disk               # where the set is made; it is deleted afterwards

Makes a set of colour images as one array (`.npy`) and, smaller, as a folder of PNG files, and trains some iterations of
five tasks on each with `gr-run`, as a process with a limit on its data segment (RLIMIT_DATA): allocations beyond it
fail, pages of mapped files don't count. The parent reads the process's anonymous memory (RssAnon of /proc/<pid>/status)
every 20 ms and prints the peak, and the seconds until training begins, in which the set is opened. One image in 17 of
the array is written: the others are holes of a sparse file, which are read like zeros but take no space on the disk.

Then samples per second of a set in memory and of the same set mapped, in turns within one process; medians.
"""

import argparse
import os
import resource
import shutil
import subprocess
import sys
from math import isnan
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from time import perf_counter, sleep
from typing import NamedTuple

import numpy as np

SHAPE, CLASSES = (3, 64, 64), 10
PAGE = 4096  # bytes of a block of the file system, and of the header of the array
STRIDE = 17  # one image in so many is written; it shares no divisor with the number of classes
PROGRAM = "import sys; from gr_cli.cli.main import main; sys.exit(main(sys.argv[1:]))"
TRAINING = ("train.iterations=50", "evaluate.samples=200", "threads=1", "model.hidden_sizes=[100]")


class Outcome(NamedTuple):
    """What a command took.

    Attributes:
        seconds: Wall-clock time.
        opening: Of these, until a run began to train: imports, and reading the set for its hash. NaN if none did.
        anonymous: Peak of its anonymous memory in bytes.
        resident: Peak of its memory with the pages of mapped files, which the system can drop.
    """

    seconds: float
    opening: float
    anonymous: int
    resident: int


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--images", type=int, default=1_200_000, help="images of the array")
    parser.add_argument("--files", type=int, default=20_000, help="image files")
    parser.add_argument("--small", type=int, default=40_000, help="images of the set that is compared with memory")
    parser.add_argument("--limit", type=float, default=4.0, help="GiB of anonymous memory")
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS), help="what is measured")
    parser.add_argument("--folder", type=Path, help="where the sets are made and deleted; default: for temporary files")
    parser.add_argument("--rates", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.rates:
        print_rates(*map(Path, options.rates))
        return
    with TemporaryDirectory(dir=options.folder, prefix="bench_large-") as name:
        home = Path(name)
        check_space(home, options)
        os.environ["GR_CACHE_ROOT"] = str(home / "cache")
        for part in options.parts:
            PARTS[part](home, options)


def check_space(home: Path, options: argparse.Namespace) -> None:
    """Exit unless the disk has room for all sets, and a GiB more."""
    image = int(np.prod(SHAPE))
    written = (options.images + options.small) // STRIDE
    needed = (written + options.files) * (image + 3 * PAGE) + options.images * 8 + (1 << 30)
    free = shutil.disk_usage(home).free
    if needed > free:
        sys.exit(f"{home.parent}: {needed / 2**30:.1f} GiB are needed, {free / 2**30:.1f} are free; name a --folder")


# --- sets


def write_images(path: Path, number: int) -> None:
    """Write one in 17 of `number` images as one array with holes, and the labels of all beside it."""
    rng, shape = np.random.default_rng(0), (number, *SHAPE)
    header = f"{{'descr': '|u1', 'fortran_order': False, 'shape': {shape}, }}"
    with path.open("wb") as file:
        magic = b"\x93NUMPY\x01\x00" + (PAGE - 10).to_bytes(2, "little")
        file.write(magic + header.encode().ljust(PAGE - 11) + b"\n")
        file.truncate(PAGE + int(np.prod(shape)))
        for i in range(0, number, STRIDE):
            file.seek(PAGE + i * int(np.prod(SHAPE)))
            file.write((rng.integers(0, 64, SHAPE, dtype=np.uint8) + np.uint8(i % CLASSES * 18)).data)
    np.save(path.with_name("y.npy"), np.arange(number) % CLASSES)


def write_files(folder: Path, number: int) -> None:
    """Write `number` images as PNG files, in a folder for each class."""
    from PIL import Image

    rng = np.random.default_rng(0)
    for name in range(CLASSES):
        (folder / str(name)).mkdir(parents=True)
    for i in range(number):
        pixels = rng.integers(0, 64, (*SHAPE[1:], 1), dtype=np.uint8) + np.uint8(i % CLASSES * 18)
        Image.fromarray(np.repeat(pixels, 3, 2)).save(folder / str(i % CLASSES) / f"{i}.png", compress_level=1)


# --- measuring


def limited(command: list[str], limit: float, home: Path) -> Outcome:
    """Run a command in `home` under the limit, and watch its memory."""

    def set_limit() -> None:
        resource.setrlimit(resource.RLIMIT_DATA, (int(limit * 2**30),) * 2)

    start, peaks = perf_counter(), {"RssAnon": 0, "VmHWM": 0}
    opening, num_runs = float("nan"), count_runs(home)
    with (home / "output.txt").open("w+") as output:
        process = subprocess.Popen(command, cwd=home, preexec_fn=set_limit, stdout=output, stderr=output)
        has_ended = False
        while not has_ended:
            has_ended = process.poll() is not None
            if isnan(opening) and count_runs(home) > num_runs:
                opening = perf_counter() - start
            try:
                lines = Path(f"/proc/{process.pid}/status").read_text(encoding="utf-8").splitlines()
            except OSError:  # it has ended
                continue
            for line in lines:
                field, _, value = line.partition(":")
                if field in peaks:
                    peaks[field] = max(peaks[field], int(value.split()[0]) << 10)
            sleep(0.02)
        if process.wait():
            output.seek(0)
            message = f"{' '.join(command)}: exit code {process.returncode}\n{output.read()[-2000:]}"
            print(message, file=sys.stderr, flush=True)
            sys.exit(1)
    return Outcome(perf_counter() - start, opening, peaks["RssAnon"], peaks["VmHWM"])


def count_runs(home: Path) -> int:
    """Number of runs in `home` that began to train."""
    return sum(1 for _ in home.glob("outputs/*/*/*/config.yaml"))


def report(what: str, outcome: Outcome) -> None:
    print(
        f"{what}: {outcome.seconds:.1f} s, {outcome.opening:.1f} of them until training, "
        f"peak of anonymous memory {outcome.anonymous / 2**20:,.0f} MiB "
        f"(with pages of files {outcome.resident / 2**20:,.0f} MiB)",
        flush=True,
    )


def run(limit: float, home: Path, *words: str) -> Outcome:
    return limited([sys.executable, "-c", PROGRAM, *words], limit, home)


def measure_array(home: Path, options: argparse.Namespace) -> None:
    start = perf_counter()
    write_images(home / "x.npy", options.images)
    file = (home / "x.npy").stat()
    print(
        f"array of {options.images:,} images, {file.st_size / 2**30:.1f} GiB, {file.st_blocks / 2**21:.1f} GiB of them "
        f"on the disk, made in {perf_counter() - start:.0f} s; limit {options.limit:g} GiB",
        flush=True,
    )
    words = ("benchmark=arrays", "benchmark.source.path=x.npy", "benchmark.source.labels=y.npy", *TRAINING)
    report("array, er, 5 tasks of 50 iterations", run(options.limit, home, *words, "strategy=er"))
    shutil.rmtree(home / "outputs")
    (home / "x.npy").unlink()


def measure_files(home: Path, options: argparse.Namespace) -> None:
    write_files(home / "photos", options.files)
    words = ("benchmark=image_folder", "benchmark.source.path=photos", "storage=mapped", *TRAINING, "strategy=er")
    for what in ("decoded and trained on", "trained on again"):
        report(f"{options.files:,} files, {what}", run(options.limit, home, *words, "fresh=true"))
    words = (*words, "benchmark/features=conv_random")
    report(f"{options.files:,} files, their features", run(options.limit, home, *words))


def measure_rates(home: Path, options: argparse.Namespace) -> None:
    write_images(home / "x.npy", options.small)
    subprocess.run([sys.executable, __file__, "--rates", home / "x.npy", home / "y.npy"], cwd=home, check=True)


def print_rates(x: Path, y: Path) -> None:
    """Print samples per second in training batches, in memory and mapped, in turns."""
    from gr_cli.cli.compose import compose_settings
    from gr_cli.system.devices import thread_limit
    from gr_cli.training.batches import batches
    from gr_cli.training.experiment import prepare

    words = ["benchmark=arrays", f"benchmark.source.path={x}", f"benchmark.source.labels={y}", *TRAINING]
    streams, rates = {}, {"memory": [], "mapped": []}
    for storage in rates:
        experiment = prepare(compose_settings([*words, "benchmark.classes_per_task=10", f"storage={storage}"]))
        streams[storage] = batches([experiment], 0, 0)
    with thread_limit(1):
        for turn in range(8):
            for storage, stream in streams.items():
                start = perf_counter()
                for _ in range(200):
                    number = next(stream).y.numel()
                if turn:  # the first is for warming up
                    rates[storage].append(200 * number / (perf_counter() - start))
    memory, mapped = (median(values) for values in rates.values())
    print(
        f"samples per second in batches of {number}, file in the cache of the system: {memory:,.0f} in memory, "
        f"{mapped:,.0f} mapped, ratio {mapped / memory:.2f}"
    )


PARTS = {"array": measure_array, "files": measure_files, "rates": measure_rates}

if __name__ == "__main__":
    main()
