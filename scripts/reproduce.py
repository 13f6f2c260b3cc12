#!/usr/bin/env python
"""A published table, measured anew: mean and standard error over seeds beside the published figure.

    python scripts/reproduce.py split_mnist_three_scenarios
    python scripts/reproduce.py split_mnist_three_scenarios --seeds 5 --methods dgr bir --scenarios class
    python scripts/reproduce.py permuted_mnist_10 --seeds 1 precision=auto threads=1

Further words go to every `gr-run`. The runs lie below outputs/ as those of any sweep; what is there already is not run
again, so that the same command goes on where it was stopped. The table is written to outputs/reproduced/ after every
line, as CSV and as Markdown: ours, published, their difference (marked beyond 2 points), seconds of a run.
"""

import argparse
import shlex
import subprocess
import sys
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import mean, stdev

MARKED = 2.0  # points of difference

VDV18 = "van de Ven & Tolias 2018"
VDV22 = "van de Ven et al. 2022"
MEASURED = "their program, one run, measured by us"


@dataclass(frozen=True)
class Line:
    """A method in a scenario: the words that make it, and what was published (average accuracy in percent)."""

    method: str
    scenario: str
    words: str
    published: float | None = None
    source: str = ""


def lines(
    protocol: str, scenario: str, found: dict[str, tuple[float | None, str]], words: dict[str, str]
) -> list[Line]:
    """A line per method: the preset of the protocol, the strategy of that name, and its own words."""
    return [
        Line(method, scenario, f"{protocol} scenario={scenario} strategy={words.get(method, method)}", accuracy, source)
        for method, (accuracy, source) in found.items()
    ]


SPLIT = "preset=split_mnist_paper"
FASHION = "preset=split_mnist_paper benchmark=split_fashion_mnist benchmark.class_order=shuffled"
PERMUTED = "preset=permuted_mnist_paper"

TABLES = {
    "split_mnist_three_scenarios": [
        *lines(
            SPLIT,
            "class",
            {
                "finetune": (19.90, VDV18),
                "ewc": (20.64, VDV22),
                "online_ewc": (None, ""),
                "si": (20.04, VDV18),
                "lwf": (21.89, VDV22),
                "a_gem": (65.10, VDV22),
                "er": (88.79, VDV22),
                "er_plus": (None, ""),
                "icarl": (92.49, VDV22),
                "generative_classifier": (93.82, VDV22),
                "dgr": (90.35, VDV22),
                "dgr_distill": (91.84, VDV18),
                "dgr_gan": (None, ""),
                "rtf": (92.56, VDV18),
                "bir": (94.41, VDV22),
                "bir+si": (None, ""),
                "joint": (98.17, VDV22),
            },
            {
                "bir+si": "bir strategy/regularizer=si",
                # As theirs: 1,000 steps of 128 samples of each class, and weights that begin as torch makes them.
                "generative_classifier": "generative_classifier train.iterations=1000 train.batch_size=256 "
                "generator.initialisation=torch",
            },
        ),
        *lines(
            SPLIT,
            "domain",
            {
                "finetune": (57.33, VDV18),
                "ewc": (63.03, VDV22),
                "si": (63.77, VDV18),
                "lwf": (71.02, VDV18),
                "er": (93.75, VDV22),
                "dgr": (95.74, VDV18),
                "dgr_distill": (96.94, VDV18),
                "rtf": (97.31, VDV18),
                "bir": (97.26, VDV22),
                "joint": (98.41, VDV18),
            },
            {},
        ),
        *lines(
            SPLIT,
            "task",
            {
                "finetune": (85.15, VDV18),
                "ewc": (99.06, VDV22),
                "si": (99.14, VDV18),
                "lwf": (99.60, VDV18),
                "dgr": (99.47, VDV18),
                "dgr_distill": (99.59, VDV18),
                "rtf": (99.66, VDV18),
                "joint": (99.64, VDV18),
            },
            # A penalty that leaves room to learn: with heads of their own, tasks hardly compete.
            {"si": "si strategy.regularizer.strength=10"},
        ),
    ],
    "permuted_mnist_10": lines(
        PERMUTED,
        "domain",
        {
            "finetune": (78.51, VDV18),
            "ewc": (94.31, VDV18),
            "online_ewc": (94.42, VDV18),
            "si": (95.33, VDV18),
            "lwf": (72.64, VDV18),
            "dgr": (95.09, VDV18),
            "dgr_distill": (97.35, VDV18),
            "rtf": (97.06, VDV18),
            "joint": (97.59, VDV18),
        },
        # Of the order of the published ones for this benchmark: its tasks are far more alike than those of Split MNIST.
        {
            "ewc": "ewc strategy.regularizer.strength=500",
            "online_ewc": "online_ewc strategy.regularizer.strength=500",
            "si": "si strategy.regularizer.strength=5",
        },
    ),
    "split_fashion_mnist": [
        *lines(
            FASHION,
            "class",
            {
                "finetune": (None, ""),
                "dgr": (76.27, MEASURED),
                "bir": (71.02, MEASURED),
                "generative_classifier": (None, ""),
                "joint": (86.58, MEASURED),
            },
            {},
        ),
        Line("best", "class", "preset=best_split_fashion_mnist"),
    ],
}
TABLES["split_mnist_three_scenarios"].append(Line("best", "class", "preset=best_split_mnist"))


def run(line: Line, seeds: int, launcher: str, words: list[str]) -> bool:
    """Run what is missing of a line, each seed in its folder; whether all went well."""
    choice = [] if launcher == "basic" or seeds == 1 else [f"hydra/launcher={launcher}"]
    command = ["-m", *choice, *shlex.split(line.words), *words, f"seed=range({seeds})"]
    print(f"\n=== {line.scenario}: {line.method}\ngr-run {shlex.join(command)}", flush=True)
    try:
        code = subprocess.run([sys.executable, "-m", "gr_cli", *command], check=False).returncode
    except KeyboardInterrupt:
        code = 130
    if code == 130:
        sys.exit(130)
    return code == 0


def measured(line: Line, seeds: int, words: list[str]) -> list[tuple[float, float]]:
    """Average accuracy in percent and seconds of each seed's run that is finished."""
    from gr_cli.cli.compose import compose_settings
    from gr_cli.config.groups import OUTPUTS
    from gr_cli.results.folder import RunFolder
    from gr_cli.system.reading import read_table

    found = []
    for seed in range(seeds):
        folder = compose_settings([*shlex.split(line.words), *words, f"seed={seed}"]).folder(OUTPUTS)
        if (RunFolder(folder).status() or {}).get("state") != "finished":
            continue
        metrics = {row["metric"]: row["value"] for row in read_table(folder / "metrics.csv")}
        timing = read_table(folder / "timing.csv")
        seconds = sum(float(row[name]) for row in timing for name in row if name.endswith("_seconds"))
        found.append((100.0 * float(metrics["average_accuracy"]), seconds))
    return found


@dataclass(frozen=True)
class Row:
    """A line of the table as it is written."""

    method: str
    scenario: str
    n: int
    mean: float
    sem: float | None
    published: float | None
    difference: float | None
    flag: str
    seconds: float
    source: str
    command: str


def row(line: Line, found: list[tuple[float, float]], seeds: int, words: list[str]) -> Row:
    """The figures of a line from those of its runs."""
    accuracies = [accuracy for accuracy, _ in found]
    difference = None if line.published is None else mean(accuracies) - line.published
    return Row(
        line.method,
        line.scenario,
        len(found),
        mean(accuracies),
        stdev(accuracies) / len(found) ** 0.5 if len(found) > 1 else None,
        line.published,
        difference,
        "" if difference is None or abs(difference) <= MARKED else ("above" if difference > 0 else "below"),
        mean(seconds for _, seconds in found),
        line.source,
        shlex.join(["gr-run", "-m", *shlex.split(line.words), *words, f"seed=range({seeds})"]),
    )


def markdown(rows: list[Row]) -> str:
    """The table for people."""

    def shown(value: float | None, form: str = ".2f") -> str:
        return "–" if value is None else format(value, form)

    text = ["| scenario | method | measured (%) | published (%) | difference | seconds a run |", "|" + " --- |" * 6]
    for r in rows:
        ours = f"{r.mean:.2f}" + ("" if r.sem is None else f" ± {r.sem:.2f}") + f" ({r.n})"
        mark = " **!**" if r.flag else ""
        text.append(
            f"| {r.scenario} | `{r.method}` | {ours} | {shown(r.published)} | {shown(r.difference, '+.2f')}{mark} "
            f"| {r.seconds:.0f} |"
        )
    return "\n".join(text) + "\n"


def main() -> None:
    """Run and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("table", choices=TABLES)
    parser.add_argument("--seeds", type=int, default=3, help="runs of each line (3)")
    parser.add_argument("--methods", nargs="+", help="only these")
    parser.add_argument("--scenarios", nargs="+", help="only these")
    parser.add_argument("--launcher", default="batched", help="batched (default), joblib, basic ...")
    parser.add_argument("--show", action="store_true", help="run nothing; write what is there")
    arguments, words = parser.parse_known_args()
    for name in ("methods", "scenarios"):
        # An option that takes several values takes what comes after them, too.
        given = getattr(arguments, name) or []
        words += [value for value in given if "=" in value]
        setattr(arguments, name, [value for value in given if "=" not in value])
        known = sorted({getattr(line, name.removesuffix("s")) for line in TABLES[arguments.table]})
        if unknown := set(getattr(arguments, name)) - set(known):
            parser.error(f"--{name}: not in this table: {', '.join(sorted(unknown))}; there are {', '.join(known)}")
    if wrong := [word for word in words if word.startswith("-") or "=" not in word]:
        parser.error(f"not understood: {' '.join(wrong)}")
    if arguments.seeds < 1:
        parser.error("--seeds: at least 1")
    chosen = [
        line
        for line in TABLES[arguments.table]
        if line.method in (arguments.methods or [line.method])
        and line.scenario in (arguments.scenarios or [line.scenario])
    ]
    if not chosen:
        parser.error("nothing is left of the table: not all methods are in all scenarios")
    if any(word.lstrip("+").startswith(("fresh=", "seed=", "scenario=", "strategy=")) for word in words):
        parser.error("fresh, seed, scenario and strategy are the table's to set")
    table, failed = TABLES[arguments.table], []
    # Lines that were measured before stay in the table, whatever is chosen now.
    known = {id(line): measured(line, arguments.seeds, words) for line in table}
    for line in chosen[:1] if arguments.show else chosen:
        if not arguments.show:
            if not run(line, arguments.seeds, arguments.launcher, words):
                failed.append(f"{line.scenario}: {line.method}")
            known[id(line)] = measured(line, arguments.seeds, words)
        pairs = [(line, known[id(line)]) for line in table]
        write(arguments.table, [row(line, found, arguments.seeds, words) for line, found in pairs if found])
    if failed:
        sys.exit(f"did not finish: {', '.join(failed)}; the same command goes on")


def write(table: str, rows: list[Row]) -> None:
    """Write the table as it stands."""
    from gr_cli.system.files import csv_text, write_text

    folder = Path("outputs/reproduced")
    folder.mkdir(parents=True, exist_ok=True)
    values = [[*asdict(row).values()] for row in rows]
    write_text(folder / f"{table}.csv", csv_text(list(Row.__dataclass_fields__), values))
    write_text(folder / f"{table}.md", markdown(rows))
    print(markdown(rows), flush=True)


if __name__ == "__main__":
    main()
