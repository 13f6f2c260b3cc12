"""Tables for people in units with prefixes: 5.18 GFLOP instead of 5180620800 FLOP."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from gr_cli.report.tables import ReportRow, ReportTable
from gr_cli.results.tables import prefixed_unit


def with_prefixes(table: ReportTable) -> tuple[ReportTable, dict[str, float]]:
    """The table in the units in which its largest means have few digits.

    Returns:
        The table, and for each metric by how much its values are divided.
    """
    means = {
        metric: [abs(summary.mean) for row in table.rows if (summary := row.metrics[metric])]
        for metric in table.metrics
    }
    chosen = {metric: prefixed_unit(table.units[metric], max(means[metric], default=0.0)) for metric in table.metrics}
    sizes = {metric: size for metric, (_, size) in chosen.items()}
    rows = [_divided(row, sizes, table.metrics[0]) for row in table.rows]
    return replace(table, rows=rows, units={metric: unit for metric, (unit, _) in chosen.items()}), sizes


def _divided(row: ReportRow, sizes: Mapping[str, float], first: str) -> ReportRow:
    metrics = {name: summary and summary.scaled(1 / sizes[name]) for name, summary in row.metrics.items()}
    return replace(row, metrics=metrics, difference=row.difference and row.difference.scaled(1 / sizes[first]))
