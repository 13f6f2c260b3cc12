"""The order of rows (`--sort`)."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from statistics import fmean
from typing import Any

from gr_cli.errors import ConfigError, suggestion
from gr_cli.report.groups import NO_VALUE, Grouping, natural_key
from gr_cli.report.tables import ReportRow, ReportTable


def sort_rows(table: ReportTable, grouping: Grouping, keys: Sequence[str]) -> ReportTable:
    """The table with its rows sorted by metrics, settings or costs; by the first key first.

    Args:
        table: The table.
        grouping: Its groups.
        keys: Names; `-` in front: descending. Rows without a value come last.

    Raises:
        ConfigError: There is no such name.
    """
    rows = list(table.rows)
    for key in reversed(keys):
        value_of = _sort_value(key, table, grouping)
        sort_by(rows, value_of, key)
    return replace(table, rows=rows)


def sort_by(rows: list[Any], value_of: Callable[[Any], Any], key: str) -> None:
    """Sort rows in place by a value, descending if `key` starts with `-`; rows without a value come last."""
    known = [row for row in rows if value_of(row) is not None]
    unknown = [row for row in rows if value_of(row) is None]
    rows[:] = [*sorted(known, key=value_of, reverse=key.startswith("-")), *unknown]


def _sort_value(key: str, table: ReportTable, grouping: Grouping) -> Callable[[ReportRow], Any]:
    """A function that returns the value of a row by which it is sorted; None for no value."""
    name = key.removeprefix("-")
    values: dict[str, Callable[[ReportRow], Any]] = {
        "n": lambda row: row.n,
        "seconds": lambda row: row.seconds and row.seconds.mean,
        "peak_memory_mib": lambda row: number_or_none(row.peak_memory_mib),
        "difference": lambda row: row.difference and number_or_none(row.difference.mean),
    }
    values |= {metric: partial(_mean, metric) for metric in sorted(grouping.metric_names | set(table.metrics))}
    for i, column in enumerate(table.columns):
        values[column.name] = values[column.label] = partial(_setting_key, i)
    return value_by_name(name, key, values)


def value_by_name(name: str, key: str, values: Mapping[str, Callable[[Any], Any]]) -> Callable[[Any], Any]:
    """The function of `values` with this name.

    Raises:
        ConfigError: There is none.
    """
    if name not in values:
        listed = ", ".join(values)
        raise ConfigError("--sort", key, f"rows can't be sorted by it; there are {listed}", suggestion(name, values))
    return values[name]


def number_or_none(value: float | None) -> float | None:
    """A number by which rows can be sorted; None for NaN."""
    return None if value is None or math.isnan(value) else value


def _setting_key(column: int, row: ReportRow) -> Any:
    return None if row.labels[column] == NO_VALUE else natural_key(row.labels[column])


def _mean(metric: str, row: ReportRow) -> float | None:
    values = row.group.metric(metric).values()
    return number_or_none(fmean(values)) if values else None
