"""What is measured: the commands as the guides show them, and the tables made of their results."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Measurement:
    """Command lines and what is read from the runs that they leave.

    Attributes:
        name: How guides and the command line call it; without dots.
        commands: Lines as a guide shows them, run one after the other in one empty folder.
        minutes: About how long it takes on two cores.
        rows_by: The setting whose values name the rows; empty: all runs are one row.
        metrics: From metrics.csv. The seconds of timing.csv are always read.
        quick: Whether `--quick` includes it.
        pictures: Name in `.readme/` -> (row, file in the folder of that row's run of seed 0).
        page: Name in `.readme/` of the picture of the page that gr-report makes of these runs; empty: none.
    """

    name: str
    commands: tuple[str, ...]
    minutes: float
    rows_by: str = ""
    metrics: tuple[str, ...] = ("average_accuracy", "forgetting")
    quick: bool = False
    pictures: Mapping[str, tuple[str, str]] = field(default_factory=dict)
    page: str = ""


@dataclass(frozen=True)
class Table:
    """A table in a guide: the rows of some measurements.

    Attributes:
        measurements: Names, in the order of the table.
        first_column: Heading of the labels.
        columns: Metric -> heading.
        labels: Row -> text of the first column; the row's name as code where there is none.
        decimals: Digits after the point of percentages.
    """

    name: str
    measurements: tuple[str, ...]
    first_column: str
    columns: Mapping[str, str]
    labels: Mapping[str, str] = field(default_factory=dict)
    decimals: int = 1


def by_name(*entries):  # type: ignore[no-untyped-def]
    return {entry.name: entry for entry in entries}


MEASUREMENTS: dict[str, Measurement] = by_name(
    Measurement(
        "digits-strategies",
        ("gr-run -m strategy=finetune,generative_replay,joint 'seed=range(5)'",),
        minutes=2.5,
        rows_by="strategy",
        quick=True,
        pictures={
            "accuracy_matrix.png": ("generative_replay", "figures/accuracy_matrix.png"),
            "samples.png": ("generative_replay", "figures/samples_task_4.png"),
        },
        page="page.png",
    ),
    Measurement(
        "digits-replay-weight",
        ("gr-run -m strategy.replay_weight=0.5,1,2 'seed=range(5)' hydra/launcher=batched",),
        minutes=1.0,
        rows_by="strategy.replay_weight",
        quick=True,
    ),
)

ACCURACY = {"average_accuracy": "average accuracy (%)", "forgetting": "forgetting (%)"}
TABLES: dict[str, Table] = by_name(
    Table(
        "digits-strategies",
        ("digits-strategies",),
        "strategy",
        ACCURACY,
        labels={
            "finetune": "`finetune`: no replay, the lower bound",
            "generative_replay": "`generative_replay`: generated samples only",
            "joint": "`joint`: all tasks at once, the upper bound",
        },
    ),
    Table("digits-replay-weight", ("digits-replay-weight",), "`strategy.replay_weight`", ACCURACY),
)
