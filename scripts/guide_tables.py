"""The tables that guides quote from `measured.json`, and how they are filled in.

A guide quotes a table by comments that readers don't see; what stands between them is written by `measure.py`:

    <!-- table: digits-strategies -->
    (the table)
    <!-- /table -->
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import reproduce
from measurements import (
    BEST,
    CLASSIFIER,
    EARLIER,
    ENERGIES,
    FEATURES,
    IMAGES,
    MEASUREMENTS,
    PEERS,
    PRESETS,
    PUBLISHED,
    SPEED,
    WAYS,
    MeasureError,
    Measurement,
)

ROOT = Path(__file__).resolve().parent.parent
GUIDES = ("README.md", "scripts/README.md")
QUOTED_TABLE = re.compile(r"(<!-- table: (\S+) -->\n)(.*?)(<!-- /table -->)", re.DOTALL)
# Decimals of metrics that are no fractions. All others are shown in percent.
PLAIN_METRICS = {"sample_frechet": 2, "sample_density": 2, "seconds": 0, **dict.fromkeys(WAYS, 1)}

Results = dict[str, dict[str, Any]]


@dataclass(frozen=True)
class Table:
    """A table in a guide: the rows of some measurements. Measurements that were never made are left out.

    Attributes:
        measurements: Names, in the order of the table.
        first_column: Heading of the labels.
        columns: Metric -> heading.
        labels: Row -> text of the first column; the measurement's label or the row's name where there is none.
        decimals: Digits after the point of percentages.
        published: Heading of a column of published figures, followed by the difference; empty: no such columns.
        marked: Differences beyond so many points are marked.
    """

    name: str
    measurements: tuple[str, ...]
    first_column: str
    columns: Mapping[str, str]
    labels: Mapping[str, str] = field(default_factory=dict)
    decimals: int = 1
    published: str = ""
    marked: float = reproduce.MARKED


def names(measurements: Iterable[Measurement]) -> tuple[str, ...]:
    return tuple(measurement.name for measurement in measurements)


def after(ordered: tuple[str, ...], name: str, inserted: str) -> tuple[str, ...]:
    position = ordered.index(name) + 1
    return (*ordered[:position], inserted, *ordered[position:])


AVERAGE = {"average_accuracy": "average accuracy (%)"}
ACCURACY = {**AVERAGE, "forgetting": "forgetting (%)"}
_ALL = (
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
    Table("digits-methods", ("digits-methods",), "strategy", ACCURACY),
    Table(
        "digits-generators",
        ("digits-generators",),
        "generator",
        {
            **AVERAGE,
            "sample_label_agreement": "label agreement (%)",
            "sample_coverage": "coverage (%)",
            "sample_frechet": "Fréchet distance",
        },
    ),
    Table("digits-replay-weight", ("digits-replay-weight",), "`strategy.replay_weight`", ACCURACY),
    Table("digits-replay-candidates", ("digits-replay-candidates",), "`strategy.replay_candidates`", ACCURACY),
    Table("digits-task-free", ("digits-task-free-dgr", "digits-task-free-replay"), "", ACCURACY),
    Table("digits-online", ("digits-online",), "strategy", ACCURACY),
    Table("digits-label-noise-er", ("digits-label-noise-er",), "`labels.noise`, `er`", ACCURACY),
    Table("digits-label-noise-replay", ("digits-label-noise-replay",), "`labels.noise`, `generative_replay`", ACCURACY),
    Table("digits-few-labels-er", ("digits-few-labels-er",), "`labels.per_class`, `er`", ACCURACY),
    Table(
        "digits-references",
        ("digits-references",),
        "strategy",
        {
            **AVERAGE,
            "learning_accuracy": "learning accuracy (%)",
            "forward_transfer": "forward transfer (points)",
            "chance_accuracy": "random chance (%)",
        },
    ),
    Table(
        "split-mnist",
        after(
            names(PUBLISHED["split_mnist_three_scenarios"]),
            "split-mnist-class-generative_classifier-vae-likelihood",
            CLASSIFIER.name,
        ),
        "scenario | method",
        AVERAGE,
        decimals=2,
        published="published (%)",
    ),
    Table(
        "split-mnist-earlier",
        names(EARLIER),
        "scenario | method",
        AVERAGE,
        decimals=2,
        published="published (%)",
    ),
    Table(
        "permuted-mnist",
        (*names(PUBLISHED["permuted_mnist_10"]), "preset-dgr-paper-permuted"),
        "scenario | method",
        AVERAGE,
        labels={"preset-dgr-paper-permuted": "domain | `dgr`, as `gr-run preset=dgr_paper_permuted`"},
        decimals=2,
        published="published (%)",
    ),
    Table("best", names(BEST), "command", AVERAGE, decimals=2, published="best published without stored samples (%)"),
    Table(
        "energies",
        names(ENERGIES),
        "command",
        AVERAGE,
        decimals=2,
        published="best published without stored samples (%)",
    ),
    Table(
        "presets",
        names(PRESETS[:4]),
        "command",
        {**AVERAGE, "seconds": "seconds"},
    ),
    Table("features", names(FEATURES), "what is replayed", AVERAGE),
    Table(
        "images",
        names(IMAGES),
        "settings",
        {
            f"{images}{metric}": f"{images.replace('_', ' ')}: {heading}"
            for images in ("photographs", "emoji", "drawn_things")
            for metric, heading in (("", "accuracy (%)"), ("_forgetting", "forgetting (%)"))
        }
        | {"seconds": "seconds"},
    ),
    Table(
        "sweep-speed",
        names(SPEED),
        "sweep",
        WAYS,
        labels={
            "digits": "digits, the default, 16 short runs",
            "mnist-100": "MNIST, 100 units, 8 short runs",
            "mnist-400": "MNIST, 400 units, 8 short runs",
        },
    ),
    Table(
        "peers",
        names(PEERS),
        "method",
        {
            "gr (ms)": "gr (ms)",
            "avalanche (ms)": "Avalanche (ms)",
            "avalanche with its defaults (ms)": "Avalanche, defaults (ms)",
            "avalanche / gr": "Avalanche / gr",
            "avalanche with its defaults / gr": "Avalanche, defaults / gr",
            "accuracy (%)": "accuracy of the three (%)",
        },
        labels={
            f"{method} {sizes} {batch}": f"`{method}`, {sizes} units, batch {batch}"
            for method in ("finetune", "ewc", "replay", "generative_replay")
            for sizes, batch in (("400-400", 128), ("256-128", 32))
        },
    ),
)
TABLES: dict[str, Table] = {table.name: table for table in _ALL}


# Text of the tables


def shown(value: Mapping[str, Any], metric: str, decimals: int = 1) -> str:
    """`mean ± standard error`, in percent unless the metric has a unit of its own; with one run the value alone."""
    if "text" in value:  # a range over several runs, of which no more is known
        return str(value["text"])
    scale, decimals = (1.0, PLAIN_METRICS[metric]) if metric in PLAIN_METRICS else (100.0, decimals)
    text = f"{scale * value['mean']:.{decimals}f}"
    return text if value["sem"] is None else f"{text} ± {scale * value['sem']:.{decimals}f}"


def shown_stamp(result: Mapping[str, Any]) -> str:
    """Version, commit, date and machine of a result in one line."""
    stamp = result["stamp"]
    if "note" in stamp:
        return f"version {stamp['version']}, recorded {stamp['date']} in commit {stamp['commit']}, {stamp['note']}"
    threads = f", {stamp['threads']} thread{'s' * (stamp['threads'] != '1')}" if "threads" in stamp else ""
    where = f"{stamp['processor']}, torch {stamp['torch']}{threads}"
    return f"version {stamp['version']} (commit {stamp['commit']}), {stamp['date']}, {where}"


def quoted_table(results: Results, name: str) -> str:
    """A table in Markdown: a line for each row of its measurements, then commands and stamps."""
    if name not in TABLES:
        raise MeasureError(f"{name}: no table of that name; there are {', '.join(TABLES)}")
    return table_text(TABLES[name], results)


def table_text(table: Table, results: Results) -> str:
    """A line for each row; then one stamp for all, or a column of dates and one stamp for each of them."""
    measured = {name: results[name] for name in table.measurements if name in results}
    if not measured:
        return f"Not measured yet: `python scripts/measure.py {' '.join(table.measurements)}`\n"
    stamps = list(dict.fromkeys(shown_stamp(result) for result in measured.values()))
    header = [table.first_column, "seeds", *table.columns.values()]
    header += [table.published, "difference"] * bool(table.published) + ["measured"] * (len(stamps) > 1)
    lines: list[list[str]] = [header, ["---"] * (len(header) + table.first_column.count("|"))]
    for name, result in measured.items():
        for row, values in result["rows"].items():
            label = table.labels.get(row or name) or MEASUREMENTS[name].label or f"`{row}`"
            cells = [label, str(max(value.get("n", 0) for value in values.values()))]
            cells += [shown(values[m], m, table.decimals) if m in values else "–" for m in table.columns]
            if table.published:
                cells += published_cells(values["average_accuracy"]["mean"], MEASUREMENTS[name].published, table.marked)
            if len(stamps) > 1:
                cells.append(f"[{1 + stamps.index(shown_stamp(result))}]")
            lines.append(cells)
    text = "".join(f"| {' | '.join(cells)} |\n" for cells in lines)
    commands = list(dict.fromkeys(command for result in measured.values() for command in result["commands"]))
    if len(commands) <= 2:
        text += "\n" + "\\\n".join(f"`{command}`" for command in commands) + "\n"
    if len(stamps) == 1:
        text += f"\nMeasured with {stamps[0]}.\n"
    else:
        text += "\nMeasured with:\n\n" + "".join(f"- [{1 + i}] {stamp}\n" for i, stamp in enumerate(stamps))
    remarks = [(name, result["stamp"]["remark"]) for name, result in measured.items() if "remark" in result["stamp"]]
    remark_lines = [f"- {MEASUREMENTS[name].label.replace(' |', ':')}: {remark}" for name, remark in remarks]
    return text + "".join(f"{line}\n" for line in ([""] * (len(stamps) == 1) + remark_lines if remark_lines else []))


def published_cells(mean_accuracy: float, published: float | None, marked: float) -> list[str]:
    """The published figure and the difference, with a mark if it is larger than `marked` points."""
    if published is None:
        return ["", ""]
    difference = 100.0 * mean_accuracy - published
    return [f"{published:.2f}", f"{difference:+.2f}".replace("-", "−") + " **!**" * (abs(difference) > marked)]


def filled(text: str, results: Results) -> str:
    """A guide's text with every quoted table as it was measured."""
    return QUOTED_TABLE.sub(lambda m: m[1] + quoted_table(results, m[2]) + m[4], text)


def fill_guides(results: Results) -> list[str]:
    """Write what was measured into the guides; the names of those that changed."""
    changed = []
    for name in GUIDES:
        path = ROOT / name
        if path.exists() and (text := path.read_text(encoding="utf-8")) != (new := filled(text, results)):
            replace_file(path, new.encode())
            changed.append(name)
    return changed


def replace_file(path: Path, content: bytes) -> None:
    """Replace a file: whole or not at all."""
    temporary = path.with_name(f".{path.name}.tmp")
    temporary.write_bytes(content)
    os.replace(temporary, path)
