"""The numbers and texts of the page as one JSON value, computed by the functions of the report's tables."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from gr_cli.errors import one_line
from gr_cli.report import series
from gr_cli.report.baseline import paired_differences
from gr_cli.report.groups import Group, format_value, last_heartbeat
from gr_cli.report.page_curves import (
    MAX_DETAILS,
    Family,
    counts_of,
    families,
    matrix_of,
    shown,
    shown_bounds,
    shown_statistics,
)
from gr_cli.report.page_pictures import MAX_CHARACTERS, sample_pictures
from gr_cli.report.records import missing_seeds_warning
from gr_cli.report.tables import (
    ReportRow,
    ReportTable,
    format_difference,
    format_mean,
    format_number,
    format_p_value,
    p_value_header,
)
from gr_cli.results.metrics import fraction_metrics, metric_bounds, metric_directions
from gr_cli.results.statistics import SIGNED_UNIT, UNBOUNDED, UNIT_INTERVAL, Bounds, Summary, paired_summary, summarize
from gr_cli.results.tables import FRACTION, TableFormat, name_with_unit, prefixed_unit

_PARAMETERS = "parameters_"  # prefix of metrics that are costs
_COST_UNITS = ("FLOP", "bytes", "s", "J")  # units of other metrics that are costs
_COMPARED = ("benchmark", "scenario")  # configurations that differ in these are not compared


def page_data(table: ReportTable) -> dict[str, Any]:
    """Everything that the script of the page draws; see the keys below."""
    formats = series.table_formats(table)
    metrics = _metrics(table, formats)
    units = {metric["name"]: metric["unit"] for metric in metrics}
    cost_units, cost_sizes = _prefixed_cost_units(table, formats)
    bounds = {name: metric_bounds(name, formats) for name in units}
    comparables = list(dict.fromkeys(_comparable(row, table) for row in table.rows))
    common, own = _settings([row.group for row in table.rows])
    configurations = [
        {
            "name": name,
            "comparable": comparables.index(_comparable(row, table)),
            "cells": list(row.labels),
            "settings": settings,
            "n": row.n,
            "of": len(row.group.seeds),
            "metrics": {
                metric: _statistics(row.group.metric(metric), unit, bounds[metric]) for metric, unit in units.items()
            },
            "difference": _difference(row, table),
            "costs": _costs(row.group, cost_units, cost_sizes),
            "warnings": missing_seeds_warning(row) + row.warnings,
            "runs": [
                [run.seed, run.state, run.status.get("command", ""), str(run.path)]
                for run in sorted(row.group.runs, key=lambda run: (run.seed, str(run.path)))
            ],
        }
        for row, name, settings in zip(table.rows, _names(table), own, strict=True)
    ]
    shown_families = families(formats)
    sign = -1.0 if metrics[0]["better"] == "lower" else 1.0
    order = sorted(range(len(table.rows)), key=lambda i: -_rank_value(table.rows[i], table.metrics[0], sign))
    detailed = _add_details(configurations, table, order, shown_families, formats)
    illustrated, pictures_left_out = _add_pictures(configurations, table, order)
    return {
        "metrics": metrics,
        "shown_metrics": list(table.metrics),
        "columns": [column.label for column in table.columns],
        "in_names": [column.label for column in table.naming_columns],
        "comparables": comparables,
        "common": common,
        "verdicts": [
            [_verdict(metric, bounds[metric["name"]], comparable, table) for metric in metrics]
            for comparable in comparables
        ],
        "p_value": p_value_header(table) if table.num_comparisons else None,
        "configurations": configurations,
        "families": [family.as_dict() for family in shown_families if family.curves],
        "counts": [
            {"name": fmt.name, "title": fmt.name.replace("_", " ").capitalize(), "description": fmt.description,
             "keys": fmt.key_names[-2:], "meaning": fmt.value_columns[0].meaning}
            for fmt in formats if fmt.layout == "matrix"
        ],
        "detailed": detailed,
        "illustrated": illustrated,
        "pictures_left_out": pictures_left_out,
    }  # fmt: skip


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


# --- metrics and costs


def _metrics(table: ReportTable, formats: Sequence[TableFormat]) -> list[dict[str, Any]]:
    """Names, units and directions of all metrics: those of the table first."""
    names = {name for row in table.rows for run in row.group.finished.values() for name in run.metrics or ()}
    costs = _cost_units(formats)
    others = sorted(name for name in names if not name.startswith(_PARAMETERS) and name not in costs)
    ordered = dict.fromkeys([*table.metrics, *others])
    fractions = fraction_metrics(formats)
    directions = metric_directions(formats, [])
    result = []
    for name in ordered:
        unit = FRACTION if name in fractions else ""
        better = directions.get(name, "none")
        limits = shown_bounds(metric_bounds(name, formats), unit)
        result.append({"name": name, "label": name_with_unit(name, unit), "unit": unit, "better": better, **limits})
    return result


def _statistics(values: Mapping[int, float], unit: str, bounds: Bounds) -> dict[str, Any] | None:
    """Mean, interval and values by seed; None without values."""
    statistics = shown_statistics(summarize(list(values.values()), bounds), unit)
    if statistics is None:
        return None
    return {"statistics": statistics, "seeds": {seed: shown(value, unit) for seed, value in values.items()}}


def _cost_units(formats: Sequence[TableFormat]) -> dict[str, str]:
    """Units of the metrics of evaluations that are costs."""
    columns = {name: column.unit for fmt in formats for name, column in fmt.metric_columns.items()}
    return {name: unit for name, unit in columns.items() if unit in _COST_UNITS}


def _prefixed_cost_units(table: ReportTable, formats: Sequence[TableFormat]) -> tuple[dict[str, str], dict[str, float]]:
    """Units in which the largest costs have few digits, and by how much costs are divided, by name."""
    chosen = {
        name: prefixed_unit(
            unit, max((value for row in table.rows for value in row.group.metric(name).values()), default=0)
        )
        for name, unit in _cost_units(formats).items()
    }
    return {name: unit for name, (unit, _) in chosen.items()}, {name: size for name, (_, size) in chosen.items()}


def _costs(group: Group, units: Mapping[str, str], sizes: Mapping[str, float]) -> dict[str, Any]:
    """What a configuration costs, by name with unit: mean, interval, and values by seed."""
    finished = group.finished
    costs: dict[str, dict[int, float]] = {
        "seconds": {seed: run.cost.seconds for seed, run in finished.items() if run.cost},
        "peak memory (MiB)": {seed: run.cost.peak_memory_mib for seed, run in finished.items() if run.cost},
    }
    names = dict.fromkeys(name for run in finished.values() for name in run.metrics or ())
    costs |= {
        name_with_unit(name, unit): {seed: value / sizes[name] for seed, value in group.metric(name).items()}
        for name, unit in units.items()
        if name in names
    }
    costs |= {
        f"parameters of the {name.removeprefix(_PARAMETERS)}": group.metric(name)
        for name in names
        if name.startswith(_PARAMETERS)
    }
    statistics = {name: _statistics(values, "", Bounds(0.0)) for name, values in costs.items()}
    return {name: value for name, value in statistics.items() if value}


def _difference(row: ReportRow, table: ReportTable) -> dict[str, Any]:
    """The paired difference to the baseline: its text, and the number by which it is sorted."""
    unit = table.units[table.metrics[0]]
    if row.baseline is row.group:
        return {"text": "baseline", "value": 0.0, "p": None}
    mean = None if row.difference is None else row.difference.mean
    p_value = None if row.p_value is None else format_p_value(row.p_value)
    return {"text": format_difference(row.difference, unit), "value": shown(mean, unit), "p": p_value}


# --- configurations


def _names(table: ReportTable) -> list[str]:
    """Unique short names of the rows."""
    names: list[str] = []
    for row in table.rows:
        label = row.label or "all runs"
        same = sum(other == label or other.startswith(f"{label} #") for other in names)
        names.append(label if not same else f"{label} #{same + 1}")
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


# --- the answer


def _verdict(metric: Mapping[str, Any], bounds: Bounds, comparable: str, table: ReportTable) -> str:
    """Which configuration is best in a metric, and by how much, in a sentence; empty without a direction."""
    name, unit = metric["name"], metric["unit"]
    rows = [row for row in table.rows if _comparable(row, table) == comparable]
    means = [(summary, row) for row in rows if (summary := summarize(list(row.group.metric(name).values())))]
    means = [(summary, row) for summary, row in means if summary.mean == summary.mean]
    if not means or metric["better"] == "none":
        return ""
    sign = 1.0 if metric["better"] == "higher" else -1.0
    means.sort(key=lambda pair: -sign * pair[0].mean)
    names = dict(zip(map(id, table.rows), _names(table), strict=True))
    (best, row), *others = means
    text = f"{names[id(row)]} has {_mean_text(best, metric)}"
    if not others:
        return f"{text}."
    second, other = others[0]
    limits = SIGNED_UNIT if bounds == UNIT_INTERVAL else UNBOUNDED
    gains = [sign * gain for gain in paired_differences(row.group, other.group, name)]
    order = f"{'best' if len(means) > 2 else 'better'} of {len(means)}"
    text += f", the {order}; next is {names[id(other)]} with {format_number(second.mean, unit)}{_percent(unit)}."
    return f"{text} {_difference_text(paired_summary(gains, limits), unit, len(means))}"


def _mean_text(summary: Summary, metric: Mapping[str, Any]) -> str:
    unit = metric["unit"]
    number = format_mean(summary, unit, summary.n).replace(" ± ", "\u00a0±\u00a0")
    return f"{metric['name'].replace('_', ' ')} {number}{_percent(unit)}"


def _percent(unit: str) -> str:
    """A percent sign behind a number, on the same line."""
    return "\u00a0%" if unit == FRACTION else ""


def _difference_text(difference: Summary | None, unit: str, compared: int) -> str:
    """What the paired difference of the two best says.

    Args:
        difference: Of the best from the next, positive where the best is better. Over the common seeds, which need not
            be all, it can be negative.
        unit: Unit of the metric.
        compared: Number of configurations.
    """
    if difference is None:
        return "They have no common seed."
    points = " points" * (unit == FRACTION)
    seeds = f"over {difference.n} common {'seeds' if difference.n > 1 else 'seed'}"
    text = f"{format_number(difference.mean, unit)}{points} apart {seeds}"
    if difference.mean < 0:
        text = f"But {seeds} the next is better, by {format_number(-difference.mean, unit)}{points}"
        difference = difference.scaled(-1.0)
    if difference.interval is None:
        return f"{text}: too few for an interval."
    low, high = difference.interval
    interval = " to ".join(format_number(end, unit) for end in (low, high))
    decided = "" if low * high > 0 else ": these seeds don't decide between them"
    chosen = " The best of several looks better than it is." if compared > 2 else ""
    return f"{text}, 95 % interval {interval}{decided}.{chosen}"


def newest_update(table: ReportTable) -> str:
    """Time of the newest status of all runs."""
    runs = [run for row in table.rows for run in row.group.runs]
    return str(max(runs, key=last_heartbeat).status.get("updated", "")) if runs else ""
