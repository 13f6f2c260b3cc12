"""The table of accuracy, forgetting, epsilon and membership inference, for `reproduce.py privacy`.

A line is a generator or a memory on a benchmark. Each seed is a run, whose accuracy and forgetting are in the table,
and an audit of it: 16 shadow runs on halves of its samples, attacked after every task (`gr-audit RUN --attacks`). All
runs have the same short budget. Most learn from 300 samples of each class, so that each is seen about 40 times, as in
the published protocol on all samples; budgets of privacy need all samples, and `gaussian-all` is beside them. Finished
runs and shadows are not repeated. The page compares the runs, task by task.
"""

import argparse
import csv
import shlex
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from statistics import mean
from typing import Any

from gr_cli.audit.shadows import plan_shadows
from gr_cli.errors import GrError
from gr_cli.results.statistics import Bounds, summarize
from gr_cli.results.tables import ALL_TASKS
from gr_cli.system.files import csv_text, write_text
from gr_cli.system.reading import read_table, read_yaml

BUDGET = (
    "scenario=class benchmark.class_order=shuffled train.iterations=100 train.batch_size=128 "
    "evaluate.generated_samples=0 evaluate.tasks=seen"
)
BENCHMARKS = ("split_mnist", "split_fashion_mnist", "split_digits")
FEW = "labels.per_class=300"
MEMORY = "strategy=generative_classifier generator={}"
METHODS = {
    "er": f"strategy=er {FEW}",
    "vae": f"strategy=dgr generator=vae {FEW}",
    # A seventh of the multiplications of the default: its convolutions are trained one shadow after the other.
    "conv_vae": f"strategy=dgr generator=conv_vae generator.hidden_dims=[16,32] {FEW}",
    "cvae": f"strategy=dgr generator=cvae {FEW}",
    "wgan_gp": f"strategy=dgr_gan {FEW}",
    "flow": f"strategy=dgr generator=flow {FEW}",
    # A tenth of the default's draws: its classification is most of the time.
    "class_vae": f"{MEMORY.format('class_vae')} strategy.importance_samples=10 {FEW}",
    **{name: f"{MEMORY.format(name)} {FEW}" for name in ("mixture", "gaussian")},
    "gaussian-all": MEMORY.format("gaussian"),
    "private_gaussian-10": MEMORY.format("private_gaussian") + " privacy.epsilon=10",
    "private_gaussian-1": MEMORY.format("private_gaussian") + " privacy.epsilon=1",
}
SHADOWS, CANDIDATES = 16, 100
ENTRY_POINTS = {"gr-run": "gr_cli.cli.main", "gr-audit": "gr_cli.audit.cli", "gr-report": "gr_cli.report.cli"}
PAGE_METRICS = ("average_accuracy", "forgetting", "membership_solver_auc")
SHOWN = "likelihood_ratio"
RATE = "tpr_at_fpr_0.01"


@dataclass(frozen=True)
class Figure:
    """A figure of an audit: mean over seeds, with an interval of 95 %.

    Attributes:
        value: Mean over the seeds.
        low: Lower end: of one seed by bootstrap over targets, of several by the t distribution.
        high: Upper end.
        n: Number of seeds.
    """

    value: float
    low: float | None
    high: float | None
    n: int


@dataclass(frozen=True)
class PrivacyRow:
    """A row of the table: one attacked part of a method on a benchmark, after one task.

    Attributes:
        samples: Training samples of a class, at most (`labels.per_class`); None: all.
        epsilon: ε that the run claims; None: no claim.
        after_task: Task that was trained last.
        accuracy: Average accuracy on the tasks so far, in percent.
        forgetting: Average forgetting so far, in percentage points.
        part: What is attacked; the attack is the likelihood ratio.
        auc: Area under the curve on samples of all tasks so far.
        first_task_auc: That on samples of the first task.
        first_task_change: `first_task_auc` minus that right after the first task, of the same run.
        rate: Rate of true positives at 1 % false positives on all tasks so far, in percent.
    """

    benchmark: str
    method: str
    samples: int | None
    epsilon: float | None
    after_task: int
    accuracy: float
    forgetting: float | None
    part: str
    auc: Figure | None
    first_task_auc: Figure | None
    first_task_change: Figure | None
    rate: Figure | None


def overrides_of(benchmark: str, method: str, extra: Sequence[str]) -> list[str]:
    """The overrides of a line, without its seed."""
    return [f"benchmark={benchmark}", *shlex.split(f"{BUDGET} {METHODS[method]}"), *extra]


def folders_of(overrides: Sequence[str], seeds: int) -> list[Path]:
    """The folders of the runs of a line."""
    from gr_cli.cli.compose import compose_settings

    settings = compose_settings([*overrides, "seed=0"])  # to compose takes longer than all else
    return [replace(settings, config={**settings.config, "seed": seed}).folder() for seed in range(seeds)]


def measure(benchmark: str, method: str, seeds: int, extra: Sequence[str]) -> bool:
    """Run the missing seeds of a line, and the missing audits; whether all finished."""
    overrides = overrides_of(benchmark, method, extra)
    codes = [_run("gr-run", ["-m", *overrides, f"seed=range({seeds})"])]
    for folder in folders_of(overrides, seeds):
        if is_finished(folder):
            options = ["--attacks", f"--shadows={SHADOWS}", f"--candidates={CANDIDATES}", "--format=csv"]
            codes.append(_run("gr-audit", [str(folder), *options], shows=False))
    return not any(codes)


def _run(command: str, arguments: Sequence[str], shows: bool = True) -> int:
    """Run a command; its exit code."""
    if command != "gr-report":  # which names every run
        print(f"\n$ {command} {shlex.join(arguments)}", flush=True)
    start = f"from {ENTRY_POINTS[command]} import entry; entry()"
    output = None if shows else subprocess.DEVNULL
    try:
        code = subprocess.run([sys.executable, "-c", start, *arguments], check=False, stdout=output).returncode
    except KeyboardInterrupt:
        code = 130
    if code == 130:
        sys.exit(130)
    return code


def is_finished(folder: Path) -> bool:
    """Whether a folder has a finished run."""
    from gr_cli.results.folder import RunFolder

    return RunFolder(folder).state() == "finished"


def read(folder: Path) -> list[dict[str, str]]:
    """The figures of a run's audit; empty without one."""
    path = plan_shadows(folder, SHADOWS, CANDIDATES, []).folder / "membership.csv"
    if not path.exists():
        return []
    with path.open(encoding="utf-8", newline="") as file:
        return [row for row in csv.DictReader(file) if row["attack"] == SHOWN]


def figure(rows: Sequence[dict[str, str]], scale: float = 1.0) -> Figure | None:
    """The mean over seeds of a figure, of which `rows` has one a seed."""
    rows = [row for row in rows if row["value"]]
    if len(rows) != 1:
        return mean_figure([scale * float(row["value"]) for row in rows], Bounds(0.0, scale))
    value, low, high = (scale * float(rows[0][name]) if rows[0][name] else None for name in ("value", "low", "high"))
    return None if value is None else Figure(value, low, high, 1)


def mean_figure(values: Sequence[float], bounds: Bounds) -> Figure | None:
    """The mean of values with its interval, which needs three of them."""
    found = summarize(values, bounds)
    return None if found is None else Figure(found.mean, *(found.interval or (None, None)), found.n)


def rows_of(benchmark: str, method: str, folders: Sequence[Path]) -> Iterator[PrivacyRow]:
    """The rows of a line from its audited runs."""
    audits = {folder: audit for folder in folders if (audit := read(folder))}
    matrices = [accuracy_matrix(folder) for folder in audits]

    def chosen(after: int, part: str, task: str, metric: str) -> list[dict[str, str]]:
        wanted = {"after_task": str(after), "part": part, "task": task, "metric": metric}
        return [row for audit in audits.values() for row in audit if wanted.items() <= row.items()]

    for part in dict.fromkeys(row["part"] for audit in audits.values() for row in audit):
        first = chosen(0, part, "0", "auc")
        for after in range(len(matrices[0])):
            of_first = chosen(after, part, "0", "auc")
            yield PrivacyRow(
                benchmark,
                method,
                next(map(samples, audits)),
                next(map(epsilon, audits)),
                after,
                mean(100 * mean(matrix[after][: after + 1]) for matrix in matrices),
                mean(100 * forgetting(matrix, after) for matrix in matrices) if after else None,
                part,
                figure(chosen(after, part, ALL_TASKS, "auc")),
                figure(of_first),
                change(first, of_first) if after else None,
                figure(chosen(after, part, ALL_TASKS, RATE), 100.0),
            )


def change(first: Sequence[dict[str, str]], later: Sequence[dict[str, str]]) -> Figure | None:
    """The mean over seeds of a later figure minus the first one of the same seed."""
    pairs = [(before["value"], after["value"]) for before, after in zip(first, later, strict=True)]
    return mean_figure([float(after) - float(before) for before, after in pairs if before and after], Bounds(-1.0, 1.0))


def accuracy_matrix(folder: Path) -> list[list[float]]:
    """The accuracy matrix of a run, as fractions; not a number for tasks that were not evaluated."""
    rows = read_table(folder / "accuracy_matrix.csv")
    return [[float(value or "nan") for name, value in row.items() if name != "after_task"] for row in rows]


def forgetting(matrix: Sequence[Sequence[float]], after: int) -> float:
    """Mean over earlier tasks of the best accuracy so far minus that after task `after`."""
    return mean(max(row[task] for row in matrix[task : after + 1]) - matrix[after][task] for task in range(after))


def samples(folder: Path) -> int | None:
    """How many training samples of a class a run may have; None: all."""
    found: int | None = read_yaml(folder / "config.yaml")["labels"]["per_class"]
    return found


def epsilon(folder: Path) -> float | None:
    """The total ε that a run claims; None: no claim."""
    path = folder / "privacy.csv"
    if not path.exists():
        return None
    totals = [row for row in read_table(path) if row["task"] == row["class"] == ALL_TASKS]
    return float(totals[-1]["epsilon"])


# --- the table as text


def cell(value: Figure | None, form: str) -> str:
    """A figure with its interval."""
    if value is None:
        return "–"
    interval = "" if value.low is None or value.high is None else f" ({value.low:{form}} to {value.high:{form}})"
    return f"{value.value:{form}}{interval}".replace("-", "−")


HEAD = (
    "method",
    "seeds",
    "samples a class, at most",
    "ε",
    "accuracy (%)",
    "forgetting",
    "attacked",
    "AUC",
    "first task: AUC",
    "first task: last minus first",
    "TPR at 1 % FPR (%)",
)


def markdown(rows: Sequence[PrivacyRow]) -> str:
    """The rows after the last task as Markdown, a table for each benchmark."""
    last = max((row.after_task for row in rows), default=0)
    text = []
    for benchmark in dict.fromkeys(row.benchmark for row in rows):
        text += [f"`{benchmark}`, after task {last + 1}:", "", f"| {' | '.join(HEAD)} |", "|" + " --- |" * len(HEAD)]
        of_benchmark = (row for row in rows if row.benchmark == benchmark and row.after_task == last)
        text += [f"| {' | '.join(cells(row))} |" for row in of_benchmark]
        text.append("")
    return "\n".join(text)


def cells(row: PrivacyRow) -> list[str]:
    """The cells of a row."""
    return [
        f"`{row.method}`",
        str(row.auc.n) if row.auc else "–",
        "all" if row.samples is None else str(row.samples),
        "none" if row.epsilon is None else f"{row.epsilon:g}",
        f"{row.accuracy:.1f}",
        "–" if row.forgetting is None else f"{row.forgetting:.1f}",
        row.part.replace("_", " "),
        cell(row.auc, ".3f"),
        cell(row.first_task_auc, ".3f"),
        cell(row.first_task_change, "+.3f"),
        cell(row.rate, ".1f"),
    ]


def write(rows: Sequence[PrivacyRow]) -> None:
    """Write the table as CSV and Markdown, and print it."""
    folder = Path("outputs/reproduced")
    folder.mkdir(parents=True, exist_ok=True)
    lines = [flat(asdict(row)) for row in rows]
    columns = list(dict.fromkeys(column for line in lines for column in line))
    write_text(folder / "privacy.csv", csv_text(columns, [[line.get(column) for column in columns] for line in lines]))
    text = markdown(rows)
    write_text(folder / "privacy.md", text)
    print(text, flush=True)


def write_page(folders: Sequence[Path]) -> None:
    """Write the page of the audited runs."""
    if audited := [str(folder) for folder in folders if read(folder)]:
        page = "outputs/reproduced/privacy.html"
        _run("gr-report", [*audited, "--metrics", *PAGE_METRICS, "--html", page, "--format=csv"], shows=False)
        print(page)


def flat(row: dict[str, Any]) -> dict[str, Any]:
    """A row with the parts of its figures as columns."""
    columns: dict[str, Any] = {}
    for name, value in row.items():
        if isinstance(value, dict):
            columns |= {name if part == "value" else f"{name}_{part}": of_part for part, of_part in value.items()}
        else:
            columns[name] = value
    return columns


def main(arguments: Sequence[str]) -> None:
    """Run the chosen lines, and write the table after each."""
    parser = argparse.ArgumentParser("reproduce.py privacy", description=__doc__)
    parser.add_argument("--seeds", type=int, default=3, help="runs of each line, each with 16 shadows (3)")
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=list(METHODS), help="only these")
    parser.add_argument(
        "--benchmarks", nargs="+", choices=BENCHMARKS, default=list(BENCHMARKS[:2]), help="only these (the first two)"
    )
    parser.add_argument("--show", action="store_true", help="run nothing; write the table of finished runs")
    options, extra = parser.parse_known_args(arguments)
    if wrong := [word for word in extra if word.startswith("-") or "=" not in word]:
        parser.error(f"not understood: {' '.join(wrong)}")
    if options.seeds < 1:
        parser.error("--seeds: at least 1")
    lines = [(benchmark, method) for benchmark in BENCHMARKS for method in METHODS]
    chosen = [line for line in lines if line[0] in options.benchmarks and line[1] in options.methods]
    folders = {}
    for line in lines:
        try:
            folders[line] = finished_folders(line, options.seeds, extra)
        except GrError as error:  # a setting that other lines have
            if line in chosen:
                parser.error(f"{': '.join(line)}: {error}")
    failed = []
    for line in chosen[:1] if options.show else chosen:
        if not options.show:
            if not measure(*line, options.seeds, extra):
                failed.append(": ".join(line))
            folders[line] = finished_folders(line, options.seeds, extra)
        found = [(line, of_line) for line, of_line in folders.items() if any(map(read, of_line))]
        rows = [row for line, of_line in found for row in rows_of(*line, of_line)]
        if rows:
            write(rows)
    write_page([folder for of_line in folders.values() for folder in of_line])
    if failed:
        sys.exit(f"did not finish: {', '.join(failed)}; the same command continues")


def finished_folders(line: tuple[str, str], seeds: int, extra: Sequence[str]) -> list[Path]:
    """The folders of the finished runs of a line."""
    return [folder for folder in folders_of(overrides_of(*line, extra), seeds) if is_finished(folder)]
