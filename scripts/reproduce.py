#!/usr/bin/env python
"""Measure a published table: mean and standard error over seeds beside the published figure.

    python scripts/reproduce.py split_mnist_three_scenarios
    python scripts/reproduce.py split_mnist_three_scenarios --seeds 5 --methods dgr bir --scenarios class
    python scripts/reproduce.py permuted_mnist_10 --seeds 1 precision=auto threads=1

Further overrides are passed to every `gr-run`. Runs are written below outputs/ as those of any sweep; finished runs are
not repeated, so the same command continues after an interruption. The table is written to outputs/reproduced/ after
every line, as CSV and as Markdown: measured, published, difference (marked beyond 2 points), seconds of a run. A line
with a baseline has the mean of the paired differences from it, with their 95 % interval, in a second table: of accuracy
and of the Fréchet distance between generated and real samples.

    python scripts/reproduce.py privacy

is a table of its own, of accuracy, forgetting, epsilon and membership inference; see `privacy --help`.
"""

import argparse
import shlex
import subprocess
import sys
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import mean, stdev

import privacy_table
from paired_table import Comparison, Result, compare, comparison_markdown, read_result

MARKED = 2.0  # points of difference

VDV18 = "van de Ven & Tolias 2018"
VDV22 = "van de Ven et al. 2022"
VDV21 = "van de Ven, Li & Tolias 2021"
MEASURED = "their program, one run, measured by us"


@dataclass(frozen=True)
class Line:
    """A line of a table: a method in a scenario.

    Attributes:
        overrides: Of `gr-run`, as one text.
        published: Average accuracy in percent; None: not published.
        source: Where it was published.
        baseline: The method of the same scenario that runs with the same seed are compared with; empty: none.
    """

    method: str
    scenario: str
    overrides: str
    published: float | None = None
    source: str = ""
    baseline: str = ""


def lines(
    protocol: str, scenario: str, published: dict[str, tuple[float | None, str]], strategies: dict[str, str]
) -> list[Line]:
    """A line per method: the overrides of the protocol, the strategy of that name or what `strategies` has for it."""
    return [
        Line(
            method,
            scenario,
            f"{protocol} scenario={scenario} strategy={strategies.get(method, method)}",
            accuracy,
            source,
        )
        for method, (accuracy, source) in published.items()
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
                # As published: 1,000 steps of 128 samples of each class, and torch's initial weights.
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
            # A weaker penalty than in the other scenarios: output units of different tasks don't compete.
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
        # Of the order of the published strengths: tasks of this benchmark are more alike than those of Split MNIST.
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
# On frozen features. Their deep generative replay is of pixels (9.22 on Split CIFAR-100): no line here.
TABLES["split_cifar100"] = lines(
    "preset=split_cifar100_paper",
    "class",
    {
        "finetune": (7.96, VDV21),
        "labels_trick": (23.68, VDV21),
        "bir": (21.51, VDV21),
        "bir+si": (34.38, VDV21),
        "slda": (44.49, VDV21),
        "generative_classifier": (49.26, VDV21),
        "joint": (54.08, VDV21),
    },
    {
        "labels_trick": "finetune train.active_classes=task",
        "bir": "bir generator.gating=0.7",
        "bir+si": "bir generator.gating=0.6 strategy/regularizer=si strategy.regularizer.strength=1e8",
        # 100 importance samples; with 10,000, as in their Table 2, they had 49.55.
        "generative_classifier": "generative_classifier generator.hidden_dims=[85] generator.latent_dim=20 "
        "generator.initialisation=torch optimizer.lr=0.001 benchmark.classes_per_task=1 train.iterations=500 "
        "strategy.importance_samples=100 evaluate.tasks=sampled evaluate.generated_samples=0",
    },
)
# From scratch.
TABLES["split_cifar10"] = lines(
    "preset=split_cifar10_paper",
    "class",
    {
        "finetune": (18.74, VDV21),
        "slda": (38.35, VDV21),
        "generative_classifier": (56.03, VDV21),
        "joint": (82.07, VDV21),
    },
    {
        "generative_classifier": "generative_classifier generator=class_conv_vae "
        "benchmark.classes_per_task=1 train.iterations=2500 strategy.importance_samples=100 "
        "evaluate.generated_samples=0",
    },
)
# A network that learns from generated images alone. Published: replay of the images of a VAE.
IMAGE_REPLAY = (
    "benchmark=split_cifar10 benchmark.class_order=shuffled scenario=class model=cnn strategy=dgr generator=conv_flow "
    "strategy.generator_distillation=3 strategy.generator_training=before strategy.current_data=generated "
    "strategy.replay_source=pool strategy.pool_size=5000 train.iterations=2000 train.batch_size=32 "
    "optimizer.schedule=cosine optimizer.reset_per_task=true augment.flip=0.5 evaluate.generated_samples=0"
)
TABLES["split_cifar10"].append(Line("image_replay", "class", IMAGE_REPLAY, 17.21, VDV21))
# A budget of minutes a run: the generator is small, and trained on 64 images in each of 1,500 steps.
IMAGE_FLOW = (
    f"{FASHION} scenario=class strategy=dgr generator=conv_flow generator.channels=[16,32] train.iterations=300 "
    "train.batch_size=32 strategy.replay_source=pool strategy.pool_size=1000 evaluate.generated_samples=200"
)
# Ours, on patch features of the first task, without a pretraining set. Only `best_replay` replays.
for benchmark in ("split_cifar100", "split_cifar10"):
    presets = {"best": f"best_{benchmark}", "best_replay": f"replay_{benchmark}"}
    TABLES[benchmark] += [Line(method, "class", f"preset={preset}") for method, preset in presets.items()]
TABLES["split_fashion_mnist_distillation"] = [
    Line("dgr", "class", IMAGE_FLOW),
    Line("dgr+distillation", "class", f"{IMAGE_FLOW} strategy.generator_distillation=3", baseline="dgr"),
]
TABLES["split_mnist_three_scenarios"].append(Line("best", "class", "preset=best_split_mnist"))


def run(line: Line, seeds: int, launcher: str, overrides: list[str]) -> bool:
    """Run the missing seeds of a line; whether all runs finished."""
    launcher_override = [] if launcher == "basic" or seeds == 1 else [f"hydra/launcher={launcher}"]
    command = ["-m", *launcher_override, *shlex.split(line.overrides), *overrides, f"seed=range({seeds})"]
    print(f"\n=== {line.scenario}: {line.method}\ngr-run {shlex.join(command)}", flush=True)
    try:
        code = subprocess.run([sys.executable, "-m", "gr_cli", *command], check=False).returncode
    except KeyboardInterrupt:
        code = 130
    if code == 130:
        sys.exit(130)
    return code == 0


def finished(line: Line, seeds: int, overrides: list[str]) -> list[Result]:
    """The finished runs of a line."""
    from gr_cli.cli.compose import compose_settings
    from gr_cli.results.folder import RunFolder

    results = []
    for seed in range(seeds):
        folder = compose_settings([*shlex.split(line.overrides), *overrides, f"seed={seed}"]).folder()
        if (RunFolder(folder).status() or {}).get("state") != "finished":
            continue
        results.append(read_result(folder, seed))
    return results


@dataclass(frozen=True)
class Row:
    """A row of the written table; accuracies in percent, n finished runs."""

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


def summary(line: Line, results: list[Result], seeds: int, overrides: list[str]) -> Row:
    """The row of a line from the accuracies and seconds of its runs."""
    accuracies = [result.accuracy for result in results]
    difference = None if line.published is None else mean(accuracies) - line.published
    return Row(
        line.method,
        line.scenario,
        len(results),
        mean(accuracies),
        stdev(accuracies) / len(results) ** 0.5 if len(results) > 1 else None,
        line.published,
        difference,
        "" if difference is None or abs(difference) <= MARKED else ("above" if difference > 0 else "below"),
        mean(result.seconds for result in results),
        line.source,
        shlex.join(["gr-run", "-m", *shlex.split(line.overrides), *overrides, f"seed=range({seeds})"]),
    )


def markdown(rows: list[Row]) -> str:
    """The table as Markdown."""

    def cell(value: float | None, form: str = ".2f") -> str:
        return "–" if value is None else format(value, form)

    text = ["| scenario | method | measured (%) | published (%) | difference | seconds a run |", "|" + " --- |" * 6]
    for r in rows:
        measured = f"{r.mean:.2f}" + ("" if r.sem is None else f" ± {r.sem:.2f}") + f" ({r.n})"
        mark = " **!**" if r.flag else ""
        text.append(
            f"| {r.scenario} | `{r.method}` | {measured} | {cell(r.published)} | {cell(r.difference, '+.2f')}{mark} "
            f"| {r.seconds:.0f} |"
        )
    return "\n".join(text) + "\n"


def main() -> None:
    """Run the chosen lines, and write the table after each."""
    if sys.argv[1:2] == ["privacy"]:
        privacy_table.main(sys.argv[2:])
        return
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("table", choices=[*TABLES, "privacy"])
    parser.add_argument("--seeds", type=int, default=3, help="runs of each line (3)")
    parser.add_argument("--methods", nargs="+", help="only these")
    parser.add_argument("--scenarios", nargs="+", help="only these")
    parser.add_argument("--launcher", default="batched", help="batched (default), joblib, basic ...")
    parser.add_argument("--show", action="store_true", help="run nothing; write the table of finished runs")
    arguments, overrides = parser.parse_known_args()
    for name in ("methods", "scenarios"):
        # argparse adds the overrides that follow to the values of such an option.
        values = getattr(arguments, name) or []
        overrides += [value for value in values if "=" in value]
        setattr(arguments, name, [value for value in values if "=" not in value])
        known = sorted({getattr(line, name.removesuffix("s")) for line in TABLES[arguments.table]})
        if unknown := set(getattr(arguments, name)) - set(known):
            parser.error(f"--{name}: not in this table: {', '.join(sorted(unknown))}; there are {', '.join(known)}")
    if wrong := [word for word in overrides if word.startswith("-") or "=" not in word]:
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
        parser.error("no line has this method and scenario: not all methods are in all scenarios")
    if any(word.lstrip("+").startswith(("fresh=", "seed=", "scenario=", "strategy=")) for word in overrides):
        parser.error("fresh, seed, scenario and strategy are set by the table")
    table, failed = TABLES[arguments.table], []
    # The table keeps lines that were measured before, whichever are chosen now.
    results = {id(line): finished(line, arguments.seeds, overrides) for line in table}
    for line in chosen[:1] if arguments.show else chosen:
        if not arguments.show:
            if not run(line, arguments.seeds, arguments.launcher, overrides):
                failed.append(f"{line.scenario}: {line.method}")
            results[id(line)] = finished(line, arguments.seeds, overrides)
        pairs = [(line, results[id(line)]) for line in table]
        write(
            arguments.table,
            [summary(line, runs, arguments.seeds, overrides) for line, runs in pairs if runs],
            comparisons(pairs),
        )
    if failed:
        sys.exit(f"did not finish: {', '.join(failed)}; the same command continues")


def comparisons(pairs: list[tuple[Line, list[Result]]]) -> list[Comparison]:
    """The paired differences of all lines with a baseline."""
    by_name = {(line.scenario, line.method): results for line, results in pairs}
    return [
        row
        for line, results in pairs
        for row in compare(line.method, results, line.baseline, by_name.get((line.scenario, line.baseline), []))
    ]


def write(table: str, rows: list[Row], compared: list[Comparison]) -> None:
    """Write the table as CSV and Markdown, with the paired differences if there are any, and print it."""
    from gr_cli.system.files import csv_text, write_text

    folder = Path("outputs/reproduced")
    folder.mkdir(parents=True, exist_ok=True)
    values = [[*asdict(row).values()] for row in rows]
    write_text(folder / f"{table}.csv", csv_text(list(Row.__dataclass_fields__), values))
    text = markdown(rows)
    if compared:
        values = [[*asdict(row).values()] for row in compared]
        write_text(folder / f"{table}_paired.csv", csv_text(list(Comparison.__dataclass_fields__), values))
        text += "\n" + comparison_markdown(compared)
    write_text(folder / f"{table}.md", text)
    print(text, flush=True)


if __name__ == "__main__":
    main()
