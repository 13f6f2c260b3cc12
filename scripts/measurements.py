"""What is measured: the commands as the guides show them, and what is read from their runs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import reproduce


@dataclass(frozen=True)
class Measurement:
    """Command lines and what is read from the runs that they leave.

    Attributes:
        name: How guides and the command line call it; without dots.
        commands: Lines as a guide shows them, run one after the other in one empty folder.
        minutes: About how long it takes on two cores; an estimate, replaced in `--list` by what it took.
        rows_by: The setting whose values name the rows; empty: all runs are one row.
        metrics: From metrics.csv; the seconds of timing.csv are always read. Of `bench_sweep`: the ways of a sweep.
        quick: Whether `--quick` includes it.
        pictures: Name in `.readme/` -> (row, file in the folder of that row's run of seed 0).
        page: Name in `.readme/` of the picture of the page that gr-report makes of these runs; empty: none.
        reader: `runs`: from run folders; `bench_sweep`: seconds, from what that script prints;
            `printed_table`: the cells of a table in Markdown.
        label: First column of its line in a table, where it has one row.
        published: Average accuracy in percent in a paper.
        needs: What this repository lacks to measure it; empty: nothing.
    """

    name: str
    commands: tuple[str, ...]
    minutes: float
    rows_by: str = ""
    metrics: tuple[str, ...] = ("average_accuracy", "forgetting")
    quick: bool = False
    pictures: Mapping[str, tuple[str, str]] = field(default_factory=dict)
    page: str = ""
    reader: str = "runs"
    label: str = ""
    published: float | None = None
    needs: str = ""


class MeasureError(Exception):
    """A mistake in a name, a failed command, or folders without the expected runs."""


# Embedded digits: seconds to minutes

QUALITY = ("sample_label_agreement", "sample_coverage", "sample_frechet")
DIGITS = (
    Measurement(
        "digits-strategies",
        ("gr-run -m strategy=finetune,generative_replay,joint 'seed=range(5)'",),
        minutes=2,
        rows_by="strategy",
        quick=True,
        pictures={
            "accuracy_matrix.png": ("generative_replay", "figures/accuracy_matrix.png"),
            "samples.png": ("generative_replay", "figures/samples_task_4.png"),
        },
        page="page.png",
    ),
    Measurement(
        "digits-methods",
        (
            "gr-run -m strategy=dgr,dgr_distill,dgr_gan,rtf,bir,generative_classifier 'seed=range(3)' "
            "hydra/launcher=batched",
        ),
        minutes=2.5,
        rows_by="strategy",
        quick=True,
    ),
    Measurement(
        "digits-generators",
        ("gr-run -m generator=vae,conv_vae,mixture 'seed=range(3)' hydra/launcher=batched",),
        minutes=1,
        rows_by="generator",
        metrics=("average_accuracy", "forgetting", *QUALITY),
        quick=True,
    ),
    Measurement(
        "digits-replay-weight",
        ("gr-run -m strategy.replay_weight=0.5,1,2 'seed=range(5)' hydra/launcher=batched",),
        minutes=0.7,
        rows_by="strategy.replay_weight",
        quick=True,
    ),
    Measurement(
        "digits-replay-candidates",
        ("gr-run -m strategy.replay_candidates=1,4 'seed=range(5)' hydra/launcher=batched",),
        minutes=1.5,
        rows_by="strategy.replay_candidates",
        quick=True,
    ),
    Measurement(
        "digits-task-free-dgr",
        ("gr-run -m strategy=dgr train.task_boundaries=unknown strategy.consolidate_every=1000 'seed=range(3)'",),
        minutes=0.5,
        quick=True,
        label="`strategy=dgr`, consolidated every 1,000 iterations",
    ),
    Measurement(
        "digits-task-free-replay",
        ("gr-run -m train.task_boundaries=unknown strategy.consolidate_every=500 'seed=range(3)'",),
        minutes=0.5,
        quick=True,
        label="`generative_replay`, consolidated every 500 iterations",
    ),
    Measurement(
        "digits-online",
        (
            "gr-run -m preset=online strategy=finetune,er_plus,er,generative_replay,joint 'seed=range(3)' "
            "hydra/launcher=batched evaluate.generated_samples=0",
        ),
        minutes=1,
        rows_by="strategy",
        quick=True,
    ),
    Measurement(
        "digits-label-noise-er",
        ("gr-run -m strategy=er labels.noise=0,0.2,0.4 train.iterations=200 'seed=range(3)' hydra/launcher=batched",),
        minutes=0.5,
        rows_by="labels.noise",
        quick=True,
    ),
    Measurement(
        "digits-label-noise-replay",
        (
            "gr-run -m labels.noise=0,0.2,0.4 train.iterations=200 evaluate.generated_samples=0 'seed=range(3)' "
            "hydra/launcher=batched",
        ),
        minutes=0.5,
        rows_by="labels.noise",
        quick=True,
    ),
    Measurement(
        "digits-few-labels-er",
        ("gr-run -m strategy=er labels.per_class=5,20,80 train.iterations=200 'seed=range(3)' hydra/launcher=batched",),
        minutes=0.5,
        rows_by="labels.per_class",
        quick=True,
    ),
    Measurement(
        "digits-references",
        (
            "gr-run -m scenario=task strategy=finetune,er,generative_replay,cumulative,separate train.iterations=200 "
            "'seed=range(3)' hydra/launcher=batched",
        ),
        minutes=1,
        rows_by="strategy",
        metrics=("average_accuracy", "learning_accuracy", "forward_transfer", "chance_accuracy"),
        quick=True,
    ),
)

# The tables of scripts/reproduce.py: a measurement for each line

PROTOCOLS = {
    "split_mnist_three_scenarios": ("split-mnist", 3, 5.0),
    "permuted_mnist_10": ("permuted-mnist", 1, 30.0),
}


def reproduced(table: str, line: reproduce.Line, variant: str = "", overrides: str = "") -> Measurement:
    """The measurement of a line of a published table, under other settings if it is a variant."""
    name, seeds, minutes = PROTOCOLS[table]
    command = f"python scripts/reproduce.py {table} --seeds {seeds} --methods {line.method} --scenarios {line.scenario}"
    return Measurement(
        f"{name}-{line.scenario}-{line.method.replace('+', '-')}{variant and f'-{variant}'}",
        (f"{command} precision=auto threads=1{overrides and f' {overrides}'}",),
        minutes=minutes,
        label=f"{line.scenario} | `{line.method}`{overrides and f' `{overrides}`'}",
        published=line.published,
    )


def reproduced_lines(table: str) -> list[Measurement]:
    """Measurements of all lines of a table, each followed by its variants."""
    variants = {
        ("split_mnist_three_scenarios", "class", "generative_classifier"): [
            ("vae-likelihood", "strategy.likelihood=generator")
        ],
        ("split_mnist_three_scenarios", "domain", "lwf"): [("weight-1", "strategy.replay_weight=1")],
        ("split_mnist_three_scenarios", "task", "lwf"): [("weight-1", "strategy.replay_weight=1")],
    }
    measurements = []
    for line in reproduce.TABLES[table]:
        if line.method == "best":
            continue  # a preset of this program: below
        measurements.append(reproduced(table, line))
        for variant, overrides in variants.get((table, line.scenario, line.method), ()):
            measurements.append(reproduced(table, line, variant, overrides))
    return measurements


PUBLISHED = {table: reproduced_lines(table) for table in PROTOCOLS}

# Presets and variants of the published protocols


def preset(name: str, command: str, minutes: float, published: float | None = None) -> Measurement:
    return Measurement(name, (command,), minutes=minutes, label=f"`{command}`", published=published)


BEST = (
    preset("best-split-mnist", "gr-run -m preset=best_split_mnist threads=1 'seed=range(5)'", 10, 94.41),
    preset(
        "best-split-fashion-mnist", "gr-run -m preset=best_split_fashion_mnist threads=1 'seed=range(5)'", 10, 76.27
    ),
)
ENERGIES = tuple(
    preset(
        f"energies-{benchmark.replace('_', '-')}",
        f"gr-run -m benchmark={benchmark} scenario=class benchmark.class_order=shuffled benchmark/features=energies "
        "benchmark.features.frequencies=6 benchmark.features.orientations=8 benchmark.features.scales=3 "
        "strategy=ranpac threads=1 'seed=range(5)'",
        3,
        published,
    )
    for benchmark, published in (("split_mnist", 94.41), ("split_fashion_mnist", 76.27))
)
CLASSIFIER = Measurement(
    "split-mnist-classifier-default-weights",
    (
        "gr-run -m preset=split_mnist_paper strategy=generative_classifier strategy.likelihood=generator "
        "precision=auto threads=1 'seed=range(3)'",
    ),
    minutes=5,
    label="class | `generative_classifier` `strategy.likelihood=generator`, its default initial weights",
    published=93.82,
)
EARLIER = (
    Measurement(
        "split-mnist-earlier-task-dgr",
        ("gr-run -m preset=dgr_paper scenario=task seed=0,1",),
        minutes=5,
        label="task | `dgr`",
        published=99.47,
    ),
    Measurement(
        "split-mnist-earlier-class-finetune",
        ("gr-run -m preset=split_mnist_paper strategy=finetune seed=0,1",),
        minutes=2,
        label="class | `finetune`",
        published=19.90,
    ),
    Measurement(
        "split-mnist-earlier-class-joint",
        ("gr-run -m preset=split_mnist_paper strategy=joint seed=0,1",),
        minutes=2,
        label="class | `joint`",
        published=98.17,
    ),
)
PRESETS = (
    preset("preset-dgr-paper", "gr-run preset=dgr_paper precision=auto threads=1", 3),
    preset("preset-split-mnist-bir", "gr-run preset=split_mnist_paper strategy=bir precision=auto threads=1", 3),
    preset("preset-best-split-mnist", "gr-run preset=best_split_mnist threads=1", 2),
    preset("preset-best-split-fashion-mnist", "gr-run preset=best_split_fashion_mnist threads=1", 2),
    preset(
        "preset-dgr-paper-permuted", "gr-run preset=dgr_paper_permuted precision=auto threads=1", 30, published=95.09
    ),
)

# Frozen features: replay of features instead of pixels

_FEATURES = "gr-run preset=split_mnist_paper strategy=bir train.iterations=1000 precision=auto threads=1"
FEATURES = (
    Measurement("features-none", (_FEATURES,), minutes=2, label="pixels"),
    Measurement(
        "features-conv-fashion-mnist",
        (f"{_FEATURES} benchmark/features=conv_fashion_mnist",),
        minutes=5,
        label="`benchmark/features=conv_fashion_mnist`",
    ),
    Measurement(
        "features-conv", (f"{_FEATURES} benchmark/features=conv",), minutes=5, label="`benchmark/features=conv`"
    ),
)

# Colour images of one's own

_IMAGES = "three sets of images that can't be shipped"
IMAGE_ROWS = {
    "preset": "",
    "default": "strategy=generative_replay generator=vae",
    "replay": "strategy=generative_replay",
    "symmetric": "strategy=dgr generator=symmetric_vae",
    "er": "strategy=er",
    "finetune": "strategy=finetune",
    "joint": "strategy=joint",
    "cnn": "strategy=joint model=cnn",
    "conv": "benchmark/features=conv",
}
IMAGES = tuple(
    Measurement(
        f"images-{name}",
        (f"gr-run preset=best_image_folder benchmark.source.path=photos {overrides}".rstrip(),),
        minutes=3,
        label=f"`{overrides}`" if overrides else "(the preset)",
        needs=_IMAGES,
    )
    for name, overrides in IMAGE_ROWS.items()
)

# Speed

WAYS = {
    "sequential": "one after the other",
    "batched": "`batched`",
    "batched-1": "`batched`, one process",
    "joblib": "`joblib`",
    "separate": "separate `gr-run`s",
}
SPEED = (
    Measurement(
        "sweep-speed-digits",
        ("python scripts/bench_sweep.py --turns 1 --seeds 4 --iterations 350",),
        minutes=5,
        metrics=tuple(WAYS),
        reader="bench_sweep",
    ),
    Measurement(
        "sweep-speed-mnist",
        (
            "python scripts/bench_sweep.py --turns 1 --seeds 2 --iterations 60 --subject mnist-100 "
            "--subject mnist-400 --way sequential --way batched --way batched-1 --way joblib",
        ),
        minutes=5,
        metrics=tuple(WAYS),
        reader="bench_sweep",
    ),
)
PEERS = tuple(
    Measurement(
        f"peers-{'-'.join(hidden)}",
        (
            f"python scripts/bench_peers.py --hidden {' '.join(hidden)} --batch-size {batch_size} "
            f"--iterations {iterations}",
        ),
        minutes=4,
        reader="printed_table",
    )
    for hidden, batch_size, iterations in ((("400", "400"), 128, 60), (("256", "128"), 32, 200))
)

_ALL = (
    *DIGITS,
    *(measurement for measurements in PUBLISHED.values() for measurement in measurements),
    CLASSIFIER,
    *EARLIER,
    *BEST,
    *ENERGIES,
    *PRESETS,
    *FEATURES,
    *IMAGES,
    *SPEED,
    *PEERS,
)
MEASUREMENTS: dict[str, Measurement] = {measurement.name: measurement for measurement in _ALL}
