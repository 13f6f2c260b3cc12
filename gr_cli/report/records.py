"""The table of a report unrounded, with all statistics: as CSV and JSON."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from gr_cli.report.groups import NO_VALUE, Group, format_seeds
from gr_cli.report.tables import ReportRow, ReportTable
from gr_cli.results.statistics import Summary


def csv_table(table: ReportTable) -> tuple[list[str], list[list[Any]]]:
    """Header and rows with all statistics of each metric, unrounded; fractions in [0, 1]."""
    statistics = ("mean", "sem", "ci95_low", "ci95_high", "n")
    columns = ["configuration"] + [column.label for column in table.columns] + ["runs", "seeds", "unfinished_seeds"]
    columns += [f"{metric}_{name}" for metric in table.metrics for name in statistics]
    columns += ["baseline"] + [f"difference_{name}" for name in (*statistics, "p_holm")]
    columns += ["seconds_mean", "seconds_sem", "peak_memory_mib", "warnings"]
    rows: list[list[Any]] = []
    for row in table.rows:
        finished, unfinished = set(row.group.finished), row.group.seeds - set(row.group.finished)
        seconds = row.seconds
        rows.append(
            [
                row.label,
                *("" if label == NO_VALUE else label for label in row.labels),
                row.n,
                " ".join(map(str, sorted(finished))),
                " ".join(map(str, sorted(unfinished))),
                *(value for metric in table.metrics for value in _statistics_cells(row.metrics[metric])),
                _overrides_text(row.baseline, table),
                *_statistics_cells(row.difference),
                row.p_value,
                seconds and seconds.mean,
                seconds and seconds.sem,
                row.peak_memory_mib,
                "; ".join(missing_seeds_warning(row) + row.warnings),
            ]
        )
    return columns, rows


def missing_seeds_warning(row: ReportRow) -> list[str]:
    """The warning that a row lacks seeds that comparable rows have, if it does."""
    return [f"no run of {format_seeds(row.missing_seeds)}, which others have"] if row.missing_seeds else []


def json_report(table: ReportTable) -> dict[str, Any]:
    """The table for JSON, unrounded, with the values of all seeds.

    `rows` has for each configuration its settings, seeds, statistics by metric, and difference from the baseline.
    """
    labels = {id(row.group): row.label for row in table.rows}
    rows = [
        {
            "configuration": row.label,
            "settings": {column.name: row.group.values.get(column.name) for column in table.columns},
            "seeds": sorted(row.group.finished),
            "unfinished_seeds": sorted(row.group.seeds - set(row.group.finished)),
            "metrics": {
                metric: _statistics_node(row.metrics[metric], list(row.group.metric(metric)))
                for metric in table.metrics
            },
            "baseline": labels.get(id(row.baseline)),
            "difference": _difference_node(row, table.metrics[0]),
            "seconds": _statistics_node(row.seconds, list(row.group.finished)),
            "peak_memory_mib": row.peak_memory_mib,
            "warnings": missing_seeds_warning(row) + row.warnings,
        }
        for row in table.rows
    ]
    return {
        "metrics": {metric: {"unit": table.units[metric]} for metric in table.metrics},
        "comparisons": table.num_comparisons,
        "set_in_every_run": table.common_overrides,
        "rows": rows,
    }


def _statistics_node(summary: Summary | None, seeds: Sequence[int]) -> dict[str, Any] | None:
    if summary is None:
        return None
    return {
        "mean": summary.mean,
        "sem": summary.sem,
        "ci95": summary.interval,
        "n": summary.n,
        "values": {str(seed): value for seed, value in zip(seeds, summary.values, strict=True)},
    }


def _difference_node(row: ReportRow, metric: str) -> dict[str, Any] | None:
    if row.difference is None or row.baseline is None:
        return None
    seeds = sorted(row.group.metric(metric).keys() & row.baseline.metric(metric).keys())
    return {**(_statistics_node(row.difference, seeds) or {}), "p_holm": row.p_value}


def _statistics_cells(summary: Summary | None) -> list[Any]:
    if summary is None:
        return [None] * 4 + [0]
    low, high = summary.interval or (None, None)
    return [summary.mean, summary.sem, low, high, summary.n]


def _overrides_text(group: Group | None, table: ReportTable) -> str:
    """A group as overrides: `strategy=ewc scenario=class`."""
    values = [] if group is None else [(column.label, column.text_for(group)) for column in table.columns]
    return " ".join(f"{name}={value}" for name, value in values if value != NO_VALUE)
