"""The table of single runs (`--runs`): a row per run, finished or not, without statistics."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from gr_cli.errors import one_line
from gr_cli.report.groups import NO_VALUE, Grouping, SettingColumn, natural_key
from gr_cli.report.scaling import with_prefixes
from gr_cli.report.sorting import number_or_none, sort_by, value_by_name
from gr_cli.report.tables import ReportRow, ReportTable, TextTable, format_number
from gr_cli.results.discovery import DiscoveredRun
from gr_cli.results.tables import name_with_unit


@dataclass(frozen=True)
class RunRow:
    """A run of the report."""

    run: DiscoveredRun
    """The run."""
    configuration: ReportRow
    """The row of its configuration."""

    def metric(self, name: str, size: float = 1.0) -> float | None:
        """A metric of the run in a unit of this size; None if it has no value."""
        value = self.run.metric(name)
        return None if value is None else value / size

    @property
    def seconds(self) -> float | None:
        """Training and evaluation time; None unless the run is finished."""
        return None if self.run.cost is None else self.run.cost.seconds

    @property
    def peak_memory_mib(self) -> float | None:
        """Peak memory; None unless the run is finished."""
        return None if self.run.cost is None else self.run.cost.peak_memory_mib

    @property
    def reason(self) -> str:
        """Why the run failed; empty otherwise."""
        return one_line(self.run.status.get("reason") or "") if self.run.state == "failed" else ""


@dataclass(frozen=True)
class RunTable:
    """A row per run."""

    columns: list[SettingColumn]
    """Settings that distinguish the configurations."""
    naming_columns: list[SettingColumn]
    """Those of them that suffice to distinguish the configurations."""
    metrics: tuple[str, ...]
    """Names of the metrics."""
    units: dict[str, str]
    """Unit by metric."""
    shown_units: dict[str, str]
    """Unit by metric in tables for people: with a prefix."""
    sizes: dict[str, float]
    """By how much values are divided there, by metric."""
    rows: list[RunRow]
    """Rows in the order of configurations, then seeds."""
    notes: list[str]
    """Lines below the table."""


def run_table(table: ReportTable, grouping: Grouping, sort_keys: Sequence[str] = ()) -> RunTable:
    """A row for each run of a report.

    Args:
        table: The table of its configurations.
        grouping: The configurations.
        sort_keys: Names by which rows are sorted, as in `sort_rows`; also `seed` and `state`.

    Raises:
        ConfigError: There is no such name.
    """
    rows = [
        RunRow(run, row)
        for row in table.rows
        for run in sorted(row.group.runs, key=lambda run: (run.seed, str(run.path)))
    ]
    for key in reversed(sort_keys):
        sort_by(rows, value_by_name(key.removeprefix("-"), key, _sort_values(table, grouping)), key)
    notes = [f"set in every run: {' '.join(table.common_overrides)}"] if table.common_overrides else []
    notes += [f"{row.run.path}: {row.reason}" for row in rows if row.reason]
    shown, sizes = with_prefixes(table)
    return RunTable(
        table.columns, table.naming_columns, table.metrics, table.units, shown.units, sizes, rows,
        list(map(one_line, [*notes, *table.ungrouped_jobs])),
    )  # fmt: skip


def _sort_values(table: ReportTable, grouping: Grouping) -> dict[str, Callable[[RunRow], Any]]:
    """The values by which runs can be sorted, by name."""
    values: dict[str, Callable[[RunRow], Any]] = {
        "seed": lambda row: row.run.seed,
        "state": lambda row: row.run.state,
        "seconds": lambda row: row.seconds,
        "peak_memory_mib": lambda row: number_or_none(row.peak_memory_mib),
    }
    values |= {metric: partial(_metric_value, metric) for metric in sorted(grouping.metric_names | set(table.metrics))}
    for i, column in enumerate(table.columns):
        values[column.name] = values[column.label] = partial(_setting_key, i)
    return values


def _metric_value(metric: str, row: RunRow) -> float | None:
    return number_or_none(row.metric(metric))


def _setting_key(column: int, row: RunRow) -> Any:
    text = row.configuration.labels[column]
    return None if text == NO_VALUE else natural_key(text)


def text_table(table: RunTable) -> TextTable:
    """The table for people: rounded, fractions in percent."""
    headers = [column.label for column in table.columns] + ["seed", "state"]
    text_columns = len(headers)
    headers += [name_with_unit(metric, table.shown_units[metric]) for metric in table.metrics]
    headers += ["seconds", "peak MiB", "folder"]
    rows = [
        [
            *row.configuration.labels,
            str(row.run.seed),
            row.run.state,
            *(
                format_optional(row.metric(metric, table.sizes[metric]), table.shown_units[metric])
                for metric in table.metrics
            ),
            format_optional(row.seconds, "", 1),
            format_optional(row.peak_memory_mib, "", 0),
            str(row.run.path),
        ]
        for row in table.rows
    ]
    return TextTable(headers, rows, text_columns)


def format_optional(value: float | None, unit: str, digits: int = 2) -> str:
    """A rounded number; `–` for None."""
    return NO_VALUE if value is None else format_number(value, unit, digits)


def csv_table(table: RunTable) -> tuple[list[str], list[list[Any]]]:
    """Header and rows, unrounded; fractions in [0, 1]."""
    header = ["configuration", *(column.label for column in table.columns), "seed", "state", *table.metrics]
    header += ["seconds", "peak_memory_mib", "folder", "reason"]
    rows = [
        [
            row.configuration.label,
            *("" if text == NO_VALUE else text for text in row.configuration.labels),
            row.run.seed,
            row.run.state,
            *(row.metric(metric) for metric in table.metrics),
            row.seconds,
            row.peak_memory_mib,
            str(row.run.path),
            row.reason,
        ]
        for row in table.rows
    ]
    return header, rows


def json_report(table: RunTable) -> dict[str, Any]:
    """The table for JSON, unrounded."""
    rows = [
        {
            "configuration": row.configuration.label,
            "settings": {column.name: row.configuration.group.values.get(column.name) for column in table.columns},
            "seed": row.run.seed,
            "state": row.run.state,
            "metrics": {metric: row.metric(metric) for metric in table.metrics},
            "seconds": row.seconds,
            "peak_memory_mib": row.peak_memory_mib,
            "folder": str(row.run.path),
            "reason": row.reason,
        }
        for row in table.rows
    ]
    return {"metrics": {metric: {"unit": table.units[metric]} for metric in table.metrics}, "runs": rows}
