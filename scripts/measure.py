#!/usr/bin/env python
"""Measure what the guides quote, and fill it in.

    python scripts/measure.py --list                  # every measurement: time, command, when it was last measured
    python scripts/measure.py --quick                 # all measurements of a few minutes, then fill in the guides
    python scripts/measure.py digits-strategies       # one measurement; every other result stays as it is
    python scripts/measure.py --fill                  # measure nothing, fill in the guides from measured.json
    python scripts/measure.py NAME --keep runs        # keep the runs; the same command continues an interrupted one

A measurement is a command line as a guide shows it (the table in `measurements.py`). It runs in an empty folder as a
user would run it; mean and spread over seeds are read from the run folders it leaves, and stored in `measured.json`
with version, commit, processor, torch, threads and date. Each result is stored whole or not at all: a command that
fails changes nothing.

`guide_tables.py` makes the tables of the guides of it; `tests/test_measured.py` holds guides, pictures and
`measured.json` equal.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import mean, stdev
from typing import Any

from guide_tables import ROOT, Results, fill_guides, replace_file
from measurements import MEASUREMENTS, MeasureError, Measurement

RESULTS = Path(__file__).with_name("measured.json")
PICTURES = ROOT / ".readme"
BROWSERS = ("chromium", "chromium-browser", "google-chrome", "chrome", "msedge")


# Reading the runs of a measurement


@dataclass(frozen=True)
class FinishedRun:
    """The metrics of a run's folder, and the provenance from its status.json."""

    folder: Path
    status: Mapping[str, Any]
    metrics: Mapping[str, float]

    def setting(self, name: str) -> str:
        """The value of an override, or the chosen option of a config group."""
        overrides = dict(override.split("=", 1) for override in self.status["overrides"] if "=" in override)
        return str(overrides.get(name) or self.status["choices"].get(name, ""))


def finished_runs(folder: Path) -> list[FinishedRun]:
    """Every run below `folder`, ordered by seed.

    Raises:
        MeasureError: there is none, or one is not finished.
    """
    from gr_cli.system.reading import read_table

    runs = []
    for path in sorted(folder.rglob("status.json")):
        status = json.loads(path.read_text(encoding="utf-8"))
        if status["state"] != "finished":
            raise MeasureError(f"{path.parent}: {status['state']}")
        metrics = {
            row["metric"]: float(row["value"]) for row in read_table(path.with_name("metrics.csv")) if row["value"]
        }
        timing = read_table(path.with_name("timing.csv"))
        metrics["seconds"] = sum(float(row[name]) for row in timing for name in row if name.endswith("_seconds"))
        runs.append(FinishedRun(path.parent, status, metrics))
    if not runs:
        raise MeasureError(f"no run below {folder}")
    return sorted(runs, key=lambda run: int(run.status["seed"]))


def summary(values: Mapping[str, float]) -> dict[str, Any]:
    """n, mean, standard deviation and standard error over seeds, and the values themselves."""
    numbers = list(values.values())
    deviation = stdev(numbers) if len(numbers) > 1 else None
    return {
        "n": len(numbers),
        "mean": round(mean(numbers), 6),
        "sd": None if deviation is None else round(deviation, 6),
        "sem": None if deviation is None else round(deviation / len(numbers) ** 0.5, 6),
        "values": {seed: round(value, 6) for seed, value in values.items()},
    }


def rows_of_runs(measurement: Measurement, runs: Sequence[FinishedRun]) -> dict[str, dict[str, Any]]:
    """Row -> metric -> summary over seeds."""
    rows: dict[str, dict[str, dict[str, float]]] = {}
    for run in runs:
        row = rows.setdefault(run.setting(measurement.rows_by) if measurement.rows_by else "", {})
        for metric in (*measurement.metrics, "seconds"):
            if metric in run.metrics:
                seed = str(run.status["seed"])
                if seed in row.setdefault(metric, {}):
                    raise MeasureError(f"{measurement.name}: two runs of one row have seed {seed}: {run.folder}")
                row[metric][seed] = run.metrics[metric]
    words = [word for command in measurement.commands for word in shlex.split(command)]
    swept = [word.partition("=")[2].split(",") for word in words if word.startswith(f"{measurement.rows_by}=")]
    order = [*(value for values in swept for value in values if value in rows), *rows]  # as the command names them
    return {name: {metric: summary(values) for metric, values in rows[name].items()} for name in dict.fromkeys(order)}


def git(*words: str) -> str:
    return subprocess.run(["git", *words], cwd=ROOT, capture_output=True, text=True, check=False).stdout.strip()


def code_version() -> str:
    """The commit of this working tree, and whether the program was changed since."""
    commit = git("rev-parse", "--short=9", "HEAD") or "unknown"
    return commit + (" with changes" if git("status", "--porcelain", "--", "gr_cli", "conf") else "")


def stamp_of_runs(runs: Sequence[FinishedRun], date: str) -> dict[str, Any]:
    """With which versions and on which machine the runs were made."""

    def common(of_run: Callable[[Mapping[str, Any]], Any]) -> str:
        return ", ".join(sorted({str(of_run(run.status)) for run in runs}))

    return {
        "version": common(lambda status: status["versions"]["gr-cli"]),
        "commit": code_version(),
        "date": date,
        "processor": common(lambda status: f"{status['processor']['name']} ({status['processor']['instructions']})"),
        "device": common(lambda status: status["device"]),
        "torch": common(lambda status: status["versions"]["torch"]),
        "python": common(lambda status: status["versions"]["python"]),
        "threads": common(lambda status: status["threads"]),
    }


def rows_of_bench_sweep(output: str) -> dict[str, dict[str, Any]]:
    """Subject -> way -> median seconds, from what `bench_sweep.py` prints."""
    rows: dict[str, dict[str, Any]] = {}
    for line in output.splitlines():
        if subject := re.match(r"([\w-]+): ", line):
            row = rows.setdefault(subject[1], {})
        elif way := re.match(r" +([\w-]+) +([\d.]+) s \(", line):
            row[way[1]] = {"n": 1, "mean": float(way[2]), "sd": None, "sem": None}
    return rows


def rows_of_printed_table(output: str) -> dict[str, dict[str, Any]]:
    """First cell -> heading -> text, from a table in Markdown whose second column is n."""
    header, _, *lines = ([cell.strip() for cell in line.strip("| ").split("|")] for line in _table_lines(output))
    columns = header[2:]
    return {
        name: {column: {"n": int(n), "text": cell} for column, cell in zip(columns, cells, strict=True)}
        for name, n, *cells in lines
    }


def _table_lines(output: str) -> list[str]:
    return [line for line in output.splitlines() if line.startswith("|")]


def stamp_of_machine(date: str) -> dict[str, Any]:
    """Version and machine of a measurement that leaves no runs."""
    from importlib.metadata import version
    from platform import python_version

    from gr_cli.runner.provenance import processor

    cpu = processor()
    return {
        "version": version("gr-cli"),
        "commit": code_version(),
        "date": date,
        "processor": f"{cpu['name']} ({cpu['instructions']})",
        "torch": version("torch"),
        "python": python_version(),
    }


# Measuring


def program(command: str) -> list[str]:
    """The arguments that start `command` with the programs beside this Python."""
    first, *rest = shlex.split(command)
    if first == "python":
        return [sys.executable, *(str(ROOT / word) if word.startswith("scripts/") else word for word in rest)]
    path = shutil.which(first, path=str(Path(sys.executable).parent))
    if path is None:
        raise MeasureError(f"{first}: not beside {sys.executable}; pip install --editable '.[dev]'")
    return [path, *rest]


def run_command(command: str, folder: Path) -> str:
    """Run a command line in `folder`, and return what it printed.

    Raises:
        MeasureError: it failed; the message ends with its last lines.
    """
    done = subprocess.run(
        program(command), cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        encoding="utf-8", errors="replace", check=False,
    )  # fmt: skip
    if done.returncode:
        raise MeasureError(f"{command}\n{done.stdout[-2000:]}exit code {done.returncode}")
    return done.stdout


def browser() -> str:
    """A Chromium that can draw a page without a window."""
    for name in (os.environ.get("BROWSER", ""), *BROWSERS):
        if name and (path := shutil.which(name)):
            return path
    raise MeasureError(f"the picture of the page needs one of {', '.join(BROWSERS)} on the PATH, or BROWSER=<program>")


def picture_of_page(folder: Path, picture: Path, width: int = 1200, height: int = 860) -> None:
    """Draw the page that gr-report makes of the runs in `folder`, its first `height` pixels."""
    from PIL import Image

    run_command("gr-report --html page.html", folder)
    run_as_root = ["--no-sandbox"] if getattr(os, "geteuid", lambda: 1)() == 0 else []
    subprocess.run(
        [
            browser(), "--headless", *run_as_root, "--disable-gpu", "--hide-scrollbars", f"--screenshot={picture}",
            f"--window-size={width},{height}", "--virtual-time-budget=10000", (folder / "page.html").as_uri(),
        ],
        check=True, capture_output=True, timeout=180,
    )  # fmt: skip
    with Image.open(picture) as image:
        image.convert("RGB").quantize(64, dither=Image.Dither.NONE).save(picture, optimize=True)


def measure(measurement: Measurement, folder: Path, date: str) -> tuple[dict[str, Any], dict[str, Path]]:
    """Run a measurement's commands in `folder`: its result, and the files of its pictures by name."""
    if measurement.page:
        browser()  # fail before the runs
    printed = "".join(run_command(command, folder) for command in measurement.commands)
    if measurement.reader != "runs":
        rows = {"bench_sweep": rows_of_bench_sweep, "printed_table": rows_of_printed_table}[measurement.reader](printed)
        return {"commands": list(measurement.commands), "stamp": stamp_of_machine(date), "rows": rows}, {}
    runs = finished_runs(folder)
    result = {
        "commands": list(measurement.commands),
        "stamp": stamp_of_runs(runs, date),
        "rows": rows_of_runs(measurement, runs),
    }
    pictures = {}
    for name, (row, file) in measurement.pictures.items():
        (run,) = [run for run in runs if run.status["seed"] == 0 and run.setting(measurement.rows_by) == row]
        pictures[name] = run.folder / file
    if measurement.page:
        pictures[measurement.page] = folder / measurement.page
        picture_of_page(folder, pictures[measurement.page])
    result["pictures"] = {name: sha256(path) for name, path in pictures.items()}
    return result, pictures


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def load_results(path: Path = RESULTS) -> Results:
    results: Results = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    return results


def store(results: Results, path: Path = RESULTS) -> None:
    """Replace the file of results: whole or not at all."""
    ordered = {name: results[name] for name in sorted(results)}
    replace_file(path, (json.dumps(ordered, indent=1, ensure_ascii=False) + "\n").encode())


def listing(results: Results) -> str:
    """Every measurement with its time, the date of its result and its commands."""
    lines = []
    for measurement in MEASUREMENTS.values():
        result = results.get(measurement.name)
        date = f"measured {result['stamp']['date']}" if result else "never measured"
        seconds = result.get("wall_seconds") if result else None
        minutes = measurement.minutes if seconds is None else seconds / 60
        state = f"{'quick' if measurement.quick else '':<5}  {date}"
        lines.append(
            f"{measurement.name:<48} {minutes:>5.1f} min  {state}{measurement.needs and f'; needs {measurement.needs}'}"
        )
        lines += [f"    {command}" for command in measurement.commands]
    return "\n".join(lines)


def chosen(names: Iterable[str], quick: bool) -> list[Measurement]:
    names = list(names)
    if unknown := [name for name in names if name not in MEASUREMENTS]:
        raise MeasureError(f"{', '.join(unknown)}: no such measurement; --list names all")
    return [m for m in MEASUREMENTS.values() if m.name in names or (quick and m.quick)]


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="NAME", help="measurements to make")
    parser.add_argument("--quick", action="store_true", help="all that take a few minutes")
    parser.add_argument("--list", action="store_true", help="name all measurements")
    parser.add_argument("--fill", action="store_true", help="only fill in the guides")
    parser.add_argument("--keep", type=Path, metavar="FOLDER", help="keep the runs, and continue those found there")
    arguments = parser.parse_args(argv)
    results = load_results()
    if arguments.list:
        print(listing(results))
        return 0
    if not (arguments.names or arguments.quick or arguments.fill):
        parser.print_usage()
        return 2
    failed = 0
    for measurement in chosen(arguments.names, arguments.quick):
        print(
            f"{measurement.name}: about {measurement.minutes:g} min\n  " + "\n  ".join(measurement.commands), flush=True
        )
        start = time.monotonic()
        with tempfile.TemporaryDirectory() as temporary:
            folder = (arguments.keep / measurement.name).resolve() if arguments.keep else Path(temporary)
            folder.mkdir(parents=True, exist_ok=True)
            try:
                result, pictures = measure(measurement, folder, time.strftime("%Y-%m-%d"))
            except MeasureError as error:
                print(f"failed, the earlier result stays: {error}", file=sys.stderr)
                failed = 1
                continue
            for name, path in pictures.items():
                replace_file(PICTURES / name, path.read_bytes())
            result["wall_seconds"] = round(time.monotonic() - start)
            results = load_results() | {measurement.name: result}
            store(results)
        print(f"  {result['wall_seconds']} s", flush=True)
    for name in fill_guides(results):
        print(f"filled in {name}")
    return failed


if __name__ == "__main__":
    try:
        sys.exit(main())
    except MeasureError as error:
        sys.exit(f"measure: {error}")
