"""The main table of a report, a row per group of runs: statistics, differences to a baseline, and cells for people."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from gr_cli.errors import one_line
from gr_cli.report.baseline import baseline_of, paired_differences, parse_baseline
from gr_cli.report.groups import NO_VALUE, Group, Grouping, SettingColumn, format_ranges, format_seeds, group_warnings
from gr_cli.report.metric_names import check_metrics, units_and_bounds
from gr_cli.report.privacy_notes import privacy_notes
from gr_cli.results.manifest import SweepJob
from gr_cli.results.statistics import (
    MIN_SEEDS,
    SIGNED_UNIT,
    UNBOUNDED,
    UNIT_INTERVAL,
    Bounds,
    Summary,
    holm,
    paired_p_value,
    paired_summary,
    summarize,
)
from gr_cli.results.tables import FRACTION, display_factor, name_with_unit
from gr_cli.terminal.format import with_plural

DEFAULT_METRICS = ("average_accuracy", "forgetting")
_MAX_BASELINES = 4  # that a line names
_COMPARABLE = ("benchmark", "scenario")  # groups that differ in these are not compared


@dataclass(frozen=True)
class ReportRow:
    """Statistics of a group.

    Attributes:
        group: The group. `group.metric(name)` has the values by seed.
        label: Short name of the group, from the fewest values that distinguish it.
        labels: Values of the table's setting columns.
        metrics: Statistics over seeds by metric; None if no seed has a value.
        baseline: Group that it is compared with; None if several fit equally well.
        difference: Paired differences of the first metric to the baseline, over common seeds; None for the baseline.
        p_value: Of the paired t-test, adjusted by Holm for all comparisons of the table; None if there is none.
        seconds: Training and evaluation time.
        peak_memory_mib: Maximum over seeds.
        missing_seeds: Seeds that comparable rows have and this one lacks.
        warnings: What is missing or mixed, a line each.
    """

    group: Group
    label: str
    labels: tuple[str, ...]
    metrics: dict[str, Summary | None]
    baseline: Group | None
    difference: Summary | None
    p_value: float | None
    seconds: Summary | None
    peak_memory_mib: float | None
    missing_seeds: tuple[int, ...]
    warnings: list[str]

    @property
    def n(self) -> int:
        """Number of finished runs, one per seed."""
        return len(self.group.finished)


@dataclass(frozen=True)
class ReportTable:
    """The main table of a report."""

    columns: list[SettingColumn]
    """Settings that distinguish the rows."""
    naming_columns: list[SettingColumn]
    """Those of them that suffice to distinguish the rows; their values make the labels of rows."""
    metrics: tuple[str, ...]
    """Metrics in order; the first one is compared with the baseline and drawn against settings."""
    rows: list[ReportRow]
    """A row per group."""
    common_overrides: list[str]
    """Overrides that all runs have."""
    ungrouped_jobs: list[str]
    """A line on jobs that have not started, of configurations without a row; empty without such jobs."""
    units: dict[str, str] = field(default_factory=dict)
    """Unit by metric: `fraction`, `FLOP`, ...; empty for numbers without a unit."""
    bounds: dict[str, Bounds] = field(default_factory=dict)
    """Range of possible values by metric."""
    is_baseline_chosen: bool = True
    """Whether the baseline is the row with the most seeds, and not one that was asked for."""

    @property
    def num_comparisons(self) -> int:
        """Number of rows that are tested against a baseline."""
        return sum(row.p_value is not None for row in self.rows)


def report_table(
    grouping: Grouping, metrics: Sequence[str], baseline: Sequence[str] = (), option: str = "--metrics"
) -> ReportTable:
    """Statistics of `metrics` over the seeds of each group, and paired differences to a baseline.

    Args:
        grouping: The groups.
        metrics: Names of metrics, or addresses of cells.
        baseline: Values that the baseline has, such as `strategy=finetune`. Each row is compared with the row that has
            them, the same benchmark and scenario, and otherwise the most values in common. Without values, the baseline
            is the first row of the benchmark and scenario among those in which the most seeds have the first metric.
        option: The option or argument that names the metrics, for messages.

    Raises:
        ConfigError: There is no such metric or baseline.
    """
    metrics = tuple(dict.fromkeys(metrics))
    check_metrics(grouping, metrics, option)
    units, bounds = units_and_bounds(grouping, metrics)
    baseline_values = parse_baseline(grouping, baseline)
    fixed = {column.name for column in baseline_values}
    kept_equal = [column for column in grouping.columns if column.name in _COMPARABLE and column.name not in fixed]
    keys = [tuple(column.text_for(group) for column in kept_equal) for group in grouping.groups]
    comparable: dict[tuple[str, ...], list[Group]] = {}
    for key, group in zip(keys, grouping.groups, strict=True):
        comparable.setdefault(key, []).append(group)
    seeds = {key: set[int]().union(*(group.seeds for group in groups)) for key, groups in comparable.items()}
    rows = [
        _report_row(
            group,
            label,
            grouping.columns,
            bounds,
            baseline_of(group, comparable[key], grouping.columns, baseline_values, metrics[0]),
            seeds[key] - group.seeds,
        )
        for key, group, label in zip(keys, grouping.groups, grouping.labels, strict=True)
    ]
    return ReportTable(
        grouping.columns,
        [column for column in grouping.columns if any(column in values for values in grouping.naming_values)],
        metrics,
        _with_p_values(rows),
        grouping.common_overrides,
        _pending_lines(grouping.ungrouped_jobs),
        units,
        bounds,
        is_baseline_chosen=not baseline,
    )


def _pending_lines(jobs: Sequence[SweepJob]) -> list[str]:
    """A line for each state of jobs whose configurations have no run."""
    by_state: dict[str, list[SweepJob]] = {}
    for job in jobs:
        by_state.setdefault(job.pending_state, []).append(job)
    lines = []
    for state, pending in by_state.items():
        configurations = len({job.seed_and_identity[1] for job in pending})
        text = f"{with_plural(len(pending), 'job')} of {with_plural(configurations, 'configuration')} without a run"
        lines.append(f"{state}: {text}, first {pending[0].path}")
    return lines


def _report_row(
    group: Group,
    label: str,
    columns: Sequence[SettingColumn],
    bounds: dict[str, Bounds],
    baseline: Group | None,
    missing_seeds: set[int],
) -> ReportRow:
    first = next(iter(bounds))
    differences = [] if baseline is None or baseline is group else paired_differences(group, baseline, first)
    difference = paired_summary(differences, SIGNED_UNIT if bounds[first] == UNIT_INTERVAL else UNBOUNDED)
    costs = [run.cost for run in group.finished.values() if run.cost is not None]
    return ReportRow(
        group=group,
        label=label,
        labels=tuple(column.text_for(group) for column in columns),
        metrics={name: summarize(list(group.metric(name).values()), limits) for name, limits in bounds.items()},
        baseline=baseline,
        difference=difference,
        p_value=paired_p_value(difference),
        seconds=summarize([cost.seconds for cost in costs], Bounds(0.0)),
        peak_memory_mib=max((cost.peak_memory_mib for cost in costs), default=None),
        missing_seeds=tuple(sorted(missing_seeds)),
        warnings=group_warnings(group, list(bounds)),
    )


def _with_p_values(rows: Sequence[ReportRow]) -> list[ReportRow]:
    """The rows with p values adjusted for the number of comparisons."""
    adjusted = iter(holm([row.p_value for row in rows if row.p_value is not None]))
    return [row if row.p_value is None else replace(row, p_value=next(adjusted)) for row in rows]


# --- text


@dataclass(frozen=True)
class TextTable:
    """A table of formatted cells."""

    headers: list[str]
    rows: list[list[str]]
    text_columns: int
    """Number of columns at the left that are text; the others are numbers."""


def text_table(table: ReportTable) -> TextTable:
    """The main table for people: rounded, fractions in percent, differences only if there are any."""
    headers = [column.label for column in table.columns]
    text_columns = len(headers)
    first = table.metrics[0]
    has_differences = any(row.difference for row in table.rows)
    has_p_values = table.num_comparisons > 0
    headers.append("n")
    units = table.units
    for metric in table.metrics:
        header = name_with_unit(metric, units[metric])
        headers += [header, "95 % interval"] if metric == first else [header]
    difference = (
        first.replace("_", " ") + " (points)" if units[first] == FRACTION else name_with_unit(first, units[first])
    )
    headers += [f"paired difference in {difference}"] if has_differences else []
    headers += [p_value_header(table)] if has_p_values else []
    headers += ["seconds", "peak MiB"]
    rows = []
    for row in table.rows:
        cells = [*row.labels, str(row.n) if row.n == len(row.group.seeds) else f"{row.n} of {len(row.group.seeds)}"]
        for metric in table.metrics:
            cells.append(format_mean(row.metrics[metric], units[metric], row.n))
            if metric == first:
                cells.append(format_interval(row.metrics[metric], units[metric]))
        if has_differences:
            cells.append("baseline" if row.baseline is row.group else format_difference(row.difference, units[first]))
        if has_p_values:
            cells.append(format_p_value(row.p_value))
        cells += [
            format_mean(row.seconds, "", row.n, 1),
            NO_VALUE if row.peak_memory_mib is None else f"{row.peak_memory_mib:.0f}",
        ]
        rows.append(cells)
    return TextTable(headers, rows, text_columns)


def format_number(value: float, unit: str, digits: int = 2, sign: str = "") -> str:
    """A rounded number, in percent if its unit is `fraction`, with a minus sign (−).

    Args:
        value: The number; NaN becomes `NaN`.
        unit: Its unit.
        digits: Digits after the point.
        sign: `+` for an explicit plus sign.
    """
    scaled = display_factor(unit) * value
    return f"{scaled:{sign}.{digits}f}".replace("-", "−") if scaled == scaled else "NaN"


def format_mean(summary: Summary | None, unit: str, expected_n: int, digits: int = 2) -> str:
    """`mean ± standard error`, below `MIN_SEEDS` the values; `(n)` if n is not `expected_n`; `–` without values."""
    if summary is None:
        return NO_VALUE
    text = format_number(summary.mean, unit, digits)
    if summary.sem is not None:
        text += f" ± {format_number(summary.sem, unit, digits)}"
    elif summary.shown_values:
        text = _format_values(summary, unit, digits)
    return text if summary.n == expected_n else f"{text} ({summary.n})"


def _format_values(summary: Summary, unit: str, digits: int, sign: str = "") -> str:
    return ", ".join(format_number(value, unit, digits, sign) for value in summary.shown_values)


def format_interval(summary: Summary | None, unit: str, digits: int = 2, sign: str = "") -> str:
    """The 95 % confidence interval as `[low, high]`; `–` if there is none."""
    if summary is None or summary.interval is None:
        return NO_VALUE
    low, high = (format_number(end, unit, digits, sign) for end in summary.interval)
    return f"[{low}, {high}]"


def format_difference(summary: Summary | None, unit: str, digits: int = 2, expected_n: int | None = None) -> str:
    """A paired difference as `mean [low, high] (n)`, n the number of common seeds; `–` without common seeds.

    Below `MIN_SEEDS` common seeds, their differences. n is left out if it is `expected_n`.
    """
    if summary is None:
        return NO_VALUE
    text = _format_values(summary, unit, digits, "+")
    if summary.interval is not None:
        interval = format_interval(summary, unit, digits, "+")
        text = f"{format_number(summary.mean, unit, digits, '+')} {interval}"
    return text if summary.n == expected_n else f"{text} ({summary.n})"


def p_value_header(table: ReportTable) -> str:
    """Name of the column of p values."""
    return "p (Holm)" if table.num_comparisons > 1 else "p"


def format_p_value(p_value: float | None) -> str:
    """A p value with three digits, or `<0.001`; `–` if there is none."""
    if p_value is None:
        return NO_VALUE
    return "<0.001" if p_value < 0.0005 else f"{p_value:.3f}"


def footnotes(table: ReportTable) -> list[str]:
    """Lines below the table: the statistics, the baseline, common overrides, and warnings by row."""
    return [*result_notes(table), *privacy_notes([row.group for row in table.rows]), *warning_lines(table)]


def result_notes(table: ReportTable) -> list[str]:
    """What the numbers are, and overrides that all runs have."""
    statistics = [mean_note(table), interval_note(table)]
    lines = ["; ".join(filter(None, statistics)) or "no finished run", *difference_notes(table), *override_notes(table)]
    return list(filter(None, lines))


def mean_note(table: ReportTable) -> str:
    """What stands in the columns of metrics; empty without a finished run."""
    sizes = [summary.n for row in table.rows if (summary := row.metrics[table.metrics[0]]) is not None]
    parts = ["mean ± standard error over n seeds"] if max(sizes, default=0) >= MIN_SEEDS else []
    if min(sizes, default=MIN_SEEDS) < MIN_SEEDS:
        parts.append(f"fewer than {MIN_SEEDS} seeds: their values")
    return "; ".join(parts)


def interval_note(table: ReportTable) -> str:
    """How the intervals of the first metric are computed; empty where none has one."""
    if not any(summary is not None and summary.interval for row in table.rows for summary in row.metrics.values()):
        return ""
    scale = {2: " on the logit scale", 1: " on the log scale"}
    bounds = table.bounds[table.metrics[0]]
    text = scale.get((bounds.low is not None) + (bounds.high is not None), "")
    return f"95 % confidence interval: Student's t{text}"


def difference_notes(table: ReportTable) -> list[str]:
    """What the differences are taken from, and what their p values are; empty without differences."""
    if not any(row.difference for row in table.rows):
        return []
    baselines = {id(row.baseline) for row in table.rows if row.baseline is not None}
    names = [f"row {number} ({row.label})" for number, row in enumerate(table.rows, 1) if id(row.group) in baselines]
    listed = ", ".join(names) if len(names) <= _MAX_BASELINES else f"{len(names)} rows"
    chosen = ""
    if table.is_baseline_chosen:
        several = len(names) > 1
        chosen = (
            ", which have the most seeds of their benchmark and scenario" if several else ", which has the most seeds"
        )
    note = f"paired differences from {listed}{chosen}: over common seeds (their number)"
    if not table.num_comparisons:
        return [one_line(note)]
    note += ", with 95 % t interval and the p value of the t-test"
    if table.num_comparisons > 1:
        note += f". {table.num_comparisons} comparisons: the p values are adjusted for them (Holm), the intervals not"
    return [one_line(note)]


def override_notes(table: ReportTable) -> list[str]:
    """Overrides that all runs have."""
    return [one_line(f"set in every run: {' '.join(table.common_overrides)}")] if table.common_overrides else []


def warning_lines(table: ReportTable) -> list[str]:
    """Warnings, each with the rows that it is about, and jobs without a row; missing seeds are one line."""
    rows_by_warning: dict[str, list[int]] = {}
    rows_by_missing: dict[tuple[int, ...], list[int]] = {}
    for number, row in enumerate(table.rows, 1):
        if row.missing_seeds:
            rows_by_missing.setdefault(row.missing_seeds, []).append(number)
        for warning in row.warnings:
            rows_by_warning.setdefault(warning, []).append(number)
    missing = [f"{_rows_text(rows, table)} {format_seeds(seeds)}" for seeds, rows in rows_by_missing.items()]
    lines = [f"{_rows_text(rows, table)}: {warning}" for warning, rows in rows_by_warning.items()]
    missing = [f"no run of seeds that others have: {'; '.join(missing)}"] if missing else []
    return list(map(one_line, [*missing, *lines, *table.ungrouped_jobs]))


def _rows_text(numbers: Sequence[int], table: ReportTable) -> str:
    """`row 2 (ewc)`, or `rows 2, 4–6`."""
    if len(numbers) == 1:
        return f"row {numbers[0]} ({table.rows[numbers[0] - 1].label})"
    return f"rows {format_ranges(numbers)}"
