"""The numbers and texts of the page as one JSON value, computed by the functions of the report's tables."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from gr_cli.errors import one_line
from gr_cli.report import series
from gr_cli.report.groups import Group, format_value, last_heartbeat
from gr_cli.report.page_curves import MAX_DETAILS, Family, counts_of, families, matrix_of, shown
from gr_cli.report.page_measures import PageMetric, cost_units, costs_of, metrics_of, page_metrics
from gr_cli.report.page_pictures import MAX_CHARACTERS, sample_pictures
from gr_cli.report.page_verdict import verdict
from gr_cli.report.records import missing_seeds_warning
from gr_cli.report.tables import ReportRow, ReportTable, format_difference, format_p_value, p_value_header
from gr_cli.results.statistics import t_quantile
from gr_cli.results.tables import TableFormat

_COMPARED = ("benchmark", "scenario")  # configurations that differ in these are not compared


def page_data(table: ReportTable) -> dict[str, Any]:
    """Everything that the script of the page draws."""
    formats = series.table_formats(table)
    metrics = page_metrics(table, formats)
    names, comparables = _names(table), [_comparable(row, table) for row in table.rows]
    common, own = _settings([row.group for row in table.rows])
    units = cost_units(table, formats)
    configurations = [
        {
            **_configuration(row, metrics),
            "name": name,
            "comparable": list(dict.fromkeys(comparables)).index(comparable),
            "settings": settings,
            "difference": _difference(row, metrics[0]),
            "costs": costs_of(row.group, units),
        }
        for row, name, comparable, settings in zip(table.rows, names, comparables, own, strict=True)
    ]
    rows_by_comparable: dict[str, list[tuple[str, ReportRow]]] = {}
    for comparable, name, row in zip(comparables, names, table.rows, strict=True):
        rows_by_comparable.setdefault(comparable, []).append((name, row))
    return {
        "metrics": [metric.as_dict() for metric in metrics],
        "shown_metrics": list(table.metrics),
        "columns": [column.label for column in table.columns],
        "in_names": [column.label for column in table.naming_columns],
        "comparables": list(rows_by_comparable),
        "common": common,
        "verdicts": [[verdict(metric, rows) for metric in metrics] for rows in rows_by_comparable.values()],
        "p_value": p_value_header(table) if table.num_comparisons else None,
        "t_quantiles": [t_quantile(n) for n in range(1, max((row.n for row in table.rows), default=1))],
        "configurations": configurations,
        **_details(configurations, table, metrics[0], formats),
    }


def _configuration(row: ReportRow, metrics: Sequence[PageMetric]) -> dict[str, Any]:
    """Values, seeds, warnings and runs of a row."""
    runs = sorted(row.group.runs, key=lambda run: (run.seed, str(run.path)))
    return {
        "cells": list(row.labels),
        "n": row.n,
        "of": len(row.group.seeds),
        "metrics": metrics_of(row.group, metrics),
        "warnings": missing_seeds_warning(row) + row.warnings,
        "runs": [[run.seed, run.state, run.status.get("command", ""), str(run.path)] for run in runs],
    }


def as_json(data: Any) -> str:
    """Strict JSON that can stand inside a <script> element; texts without control characters."""
    text = json.dumps(_cleaned(data), ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def _cleaned(value: Any) -> Any:
    """The value with texts on one line; lists of numbers, which are most of it, are not copied."""
    if isinstance(value, str):
        return one_line(value)
    if isinstance(value, Mapping):
        return {key if isinstance(key, int) else one_line(key): _cleaned(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return value if value and isinstance(value[0], float) else [_cleaned(item) for item in value]
    return value


# --- configurations


def _difference(row: ReportRow, metric: PageMetric) -> dict[str, Any]:
    """The paired difference to the baseline: its text, and the number by which it is sorted."""
    if row.baseline is row.group:
        return {"text": "baseline", "value": 0.0, "p": None}
    difference = row.difference and row.difference.scaled(1 / metric.size)
    return {
        "text": format_difference(difference, metric.unit),
        "value": None if difference is None else shown(difference.mean, metric.unit),
        "p": None if row.p_value is None else format_p_value(row.p_value),
    }


def _names(table: ReportTable) -> list[str]:
    """Unique short names of the rows."""
    numbers: dict[str, int] = {}
    names = []
    for row in table.rows:
        label = row.label or "all runs"
        numbers[label] = numbers.get(label, 0) + 1
        names.append(label if numbers[label] == 1 else f"{label} #{numbers[label]}")
    return names


def _comparable(row: ReportRow, table: ReportTable) -> str:
    """Benchmark and scenario of a row."""
    by_name = {column.name: label for column, label in zip(table.columns, row.labels, strict=True)}
    return " · ".join(by_name[name] for name in _COMPARED if name in by_name)


def _settings(groups: Sequence[Group]) -> tuple[dict[str, str], list[dict[str, str]]]:
    """Settings and options that all groups share, and those of each group in which some differ, as text."""
    texts = [{name: format_value(value) for name, value in group.values.items()} for group in groups]
    first = texts[0] if texts else {}
    common = {name: value for name, value in first.items() if all(other.get(name) == value for other in texts)}
    return common, [{name: value for name, value in own.items() if name not in common} for own in texts]


def _details(
    configurations: list[dict[str, Any]], table: ReportTable, metric: PageMetric, formats: Sequence[TableFormat]
) -> dict[str, Any]:
    """Add curves, matrices, counts and pictures to the configurations, with all details to the best ones only.

    Returns:
        What they are, and how many configurations have all of them.
    """
    sign = -1.0 if metric.better == "lower" else 1.0
    order = sorted(range(len(table.rows)), key=lambda i: -_rank_value(table.rows[i], metric.name, sign))
    shown_families = families(formats)
    detailed = _add_details(configurations, table, order, shown_families, formats)
    illustrated, pictures_left_out = _add_pictures(configurations, table, order)
    return {
        "families": [family.as_dict() for family in shown_families if family.curves],
        "counts": [_counts_table(fmt) for fmt in formats if fmt.layout == "matrix"],
        "detailed": detailed,
        "illustrated": illustrated,
        "pictures_left_out": pictures_left_out,
    }


def _counts_table(fmt: TableFormat) -> dict[str, Any]:
    """Texts of a table of counts."""
    return {
        "name": fmt.name,
        "title": fmt.name.replace("_", " ").capitalize(),
        "description": fmt.description,
        "keys": fmt.key_names[-2:],
        "meaning": fmt.value_columns[0].meaning,
    }


def _rank_value(row: ReportRow, metric: str, sign: float) -> float:
    """Mean of a metric times a sign, for sorting; lowest for rows without values."""
    summary = row.metrics[metric]
    return sign * summary.mean if summary is not None and summary.mean == summary.mean else float("-inf")


def _add_details(
    configurations: list[dict[str, Any]],
    table: ReportTable,
    order: Sequence[int],
    shown_families: Sequence[Family],
    formats: Sequence[TableFormat],
) -> int:
    """Add curves, matrix and counts to the configurations, with all details to the first ones of `order` only.

    Returns:
        The number of configurations with all details.
    """
    numbers, detailed = 0, 0
    for i in order:
        group, has_details = table.rows[i].group, numbers < MAX_DETAILS
        curves, sizes = {}, []
        for family in shown_families:
            curves[family.name], size = family.curves_of(group, has_details)
            sizes.append(size)
        configurations[i]["curves"] = {name: columns for name, columns in curves.items() if columns}
        if has_details:
            matrix = matrix_of(group)
            configurations[i]["matrix"] = matrix
            configurations[i]["counts"] = {fmt.name: counts_of(group, fmt) for fmt in formats if fmt.layout == "matrix"}
            cells = len(matrix["rows"]) * len(matrix["columns"]) if matrix else 0
            numbers += sum(sizes) + cells * (1 + len(group.finished))
            detailed += 1
    return detailed


def _add_pictures(configurations: list[dict[str, Any]], table: ReportTable, order: Sequence[int]) -> tuple[int, bool]:
    """Add pictures of generated samples to the first configurations of `order`, up to their limit.

    Returns:
        The number of configurations with pictures, and whether some were left out.
    """
    characters, illustrated = 0, 0
    for i in order:
        if characters >= MAX_CHARACTERS:
            return illustrated, True
        pictures = sample_pictures(list(table.rows[i].group.finished.values()))
        if pictures:
            characters += sum(map(len, pictures["after"].values()))
            configurations[i]["samples"] = pictures
            illustrated += 1
    return illustrated, False


def newest_update(table: ReportTable) -> str:
    """Time of the newest status of all runs."""
    runs = [run for row in table.rows for run in row.group.runs]
    return str(max(runs, key=last_heartbeat).status.get("updated", "")) if runs else ""
