"""Membership inference as a table of the audited run: what `gr-audit` wrote below the run's folder.

`audit/<hash of the shadows>/` holds audit.json, which says of which run and shadows the figures are, and
membership.csv, a row for each figure. Readers of runs get the likelihood-ratio attack as the table `membership`, with a
row after each task for each attacked task, and a column for each attacked part.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from gr_cli.config.settings import result_relevant, short_hash
from gr_cli.results.folder import AUDIT_FOLDER
from gr_cli.results.stored_config import read_config
from gr_cli.results.tables import AFTER_TASK, FRACTION, TASK, Column, TableFormat
from gr_cli.system.reading import naming_file, parse_finite_float, read_json, read_table

AUDIT_FILE = "audit.json"
MEMBERSHIP_FILE = "membership.csv"
MEMBERSHIP = "membership"  # name of the table
_ATTACK = "likelihood_ratio"
_AUC, _RATE = "auc", "tpr_at_fpr_0.01"
_PARTS = ("solver", "generator", "generated_samples")  # have columns in every run, so that tables of runs are alike
_PART = re.compile(r"\w{1,40}", re.ASCII)


@dataclass(frozen=True)
class Audit:
    """The figures of one audit of a run.

    Attributes:
        folder: Folder of the shadows.
        num_shadows: Number of shadow runs.
        overrides: Settings in which the shadows differ from the run.
        format: Format of the table.
        rows: Rows of the table, texts by column as in a CSV file.
    """

    folder: Path
    num_shadows: int
    overrides: tuple[str, ...]
    format: TableFormat
    rows: Sequence[dict[str, str]]

    def __str__(self) -> str:
        """What the shadows are: `16 shadows with train.iterations=500`."""
        changed = f" with {' '.join(self.overrides)}" if self.overrides else ""
        return f"{self.num_shadows} shadows{changed}"

    @property
    def metrics(self) -> dict[str, float]:
        """The values of all tasks together after the last task, by name of the metric."""
        last = self.rows[-1] if self.rows else {}
        values = {name: last.get(column.name) for name, column in self.format.metric_columns.items()}
        return {name: parse_finite_float(value) for name, value in values.items() if value}


def audit_of(run: Path) -> Audit | None:
    """The audit of a run by its folder; see `find_audit`."""
    if not (run / AUDIT_FOLDER).is_dir():
        return None
    config, _ = read_config(run)
    return find_audit(run, config["seed"], short_hash(result_relevant(config)))


def find_audit(run: Path, seed: int, identity: str) -> Audit | None:
    """The audit that counts: of shadows with the run's settings, else with others; of several, that of most shadows.

    Args:
        run: Folder of the run.
        seed: Its seed.
        identity: Its short hash.

    Raises:
        OSError, ValueError, LookupError, TypeError: A file can't be read, or is malformed.
    """
    folders = sorted(path.parent for path in (run / AUDIT_FOLDER).glob(f"*/{MEMBERSHIP_FILE}"))
    described = [(folder, read_json(folder / AUDIT_FILE)) for folder in folders if (folder / AUDIT_FILE).exists()]
    own = [pair for pair in described if (pair[1]["seed"], pair[1]["config_hash"]) == (seed, identity)]
    if not own:
        return None
    folder, audit = max(own, key=lambda pair: (not pair[1]["overrides"], len(pair[1]["draws"]), pair[0].name))
    path = folder / MEMBERSHIP_FILE
    figures = read_table(path)
    with naming_file(path):
        table, rows = _table_of(figures)
    return Audit(folder, len(audit["draws"]), tuple(map(str, audit["overrides"])), table, rows)


def _table_of(figures: Sequence[Mapping[str, str]]) -> tuple[TableFormat, list[dict[str, str]]]:
    """The table from a row for each figure."""
    shown = [row for row in figures if row["attack"] == _ATTACK and row["metric"] in (_AUC, _RATE)]
    parts = list(dict.fromkeys([*_PARTS, *(row["part"] for row in shown)]))
    if wrong := [part for part in parts if _PART.fullmatch(part) is None]:
        raise ValueError(f"{wrong[0]!r} is no name of an attacked part")
    values: dict[tuple[str, str], dict[str, str]] = {}
    for row in shown:
        key = (row["after_task"], row["task"])
        values.setdefault(key, {})[_column_name(row["part"], row["metric"])] = row["value"]
        if row["value"]:
            parse_finite_float(row["value"])
    columns = [column for part in parts for column in _columns(part)]
    rows = [
        {AFTER_TASK.name: after, TASK.name: task, **{column.name: row.get(column.name, "") for column in columns}}
        for (after, task), row in values.items()
    ]
    description = (
        "Membership inference by the likelihood ratio of shadow runs (gr-audit): what the score of a sample reveals of "
        "whether the run was trained on it."
    )
    return TableFormat(MEMBERSHIP, description, (AFTER_TASK, TASK, *columns)), rows


def _column_name(part: str, metric: str) -> str:
    return f"{part}_auc" if metric == _AUC else f"{part}_true_positive_rate"


def _columns(part: str) -> Iterator[Column]:
    """The columns of an attacked part."""
    whose = f"attack on the {part.replace('_', ' ')}"
    meanings = {
        _AUC: f"area under the curve of the {whose}; 50 % is guessing",
        _RATE: f"true positives of the {whose} at 1 % false positives; 1 % is guessing",
    }
    for metric, meaning in meanings.items():
        name = _column_name(part, metric)
        yield Column(name, meaning, FRACTION, "lower", metric=f"{MEMBERSHIP}_{name}")
