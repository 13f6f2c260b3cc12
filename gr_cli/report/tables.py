"""The main table of a report, a row per group of runs: statistics, and output as CSV, Markdown and LaTeX."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from gr_cli.errors import ConfigError, one_line, suggestion
from gr_cli.report.groups import NO_VALUE, Group, Grouping, SettingColumn, group_warnings, parse_number
from gr_cli.results.discovery import NOT_STARTED, DiscoveredRun
from gr_cli.results.metrics import fraction_metrics
from gr_cli.results.statistics import Summary, summarize
from gr_cli.results.tables import FRACTION, display_factor, name_with_unit

DEFAULT_METRICS = ("average_accuracy", "forgetting")


@dataclass(frozen=True)
class ReportRow:
    """Statistics of a group.

    Attributes:
        group: The group.
        label: Short name of the group.
        labels: Values of the table's setting columns.
        metrics: Statistics over seeds by metric; None if no seed has a value.
        baseline: Group that it is compared with; None if several fit equally well.
        difference: Paired differences of the first metric to the baseline, over common seeds; None for the baseline.
        seconds: Training and evaluation time.
        peak_memory_mib: Maximum over seeds.
        warnings: What is missing or mixed, a line each.
    """

    group: Group
    label: str
    labels: tuple[str, ...]
    metrics: dict[str, Summary | None]
    baseline: Group | None
    difference: Summary | None
    seconds: Summary | None
    peak_memory_mib: float | None
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
    metrics: tuple[str, ...]
    """Metrics in order; the first one is compared with the baseline and drawn against settings."""
    rows: list[ReportRow]
    """A row per group."""
    common_overrides: list[str]
    """Overrides that all runs have."""
    ungrouped_jobs: list[str]
    """Jobs that have not started, of configurations without a row, as text."""
    has_chosen_baseline: bool = False
    """Whether the user chose the baseline."""
    units: dict[str, str] = field(default_factory=dict)
    """Unit by metric: `fraction` or empty."""


def report_table(grouping: Grouping, metrics: Sequence[str], baseline: Sequence[str] = ()) -> ReportTable:
    """Statistics of `metrics` over the seeds of each group, and paired differences to a baseline.

    Args:
        grouping: The groups.
        metrics: Names of metrics.
        baseline: Values that the baseline has, such as `strategy=finetune`. Each row is compared with the row that has
            them, the same benchmark and scenario, and otherwise the most values in common. Without values, the baseline
            is the first row of the benchmark and scenario.

    Raises:
        ConfigError: There is no such metric or baseline.
    """
    known = {name for group in grouping.groups for run in group.finished.values() for name in run.metrics or ()}
    for name in metrics if known else ():
        if name not in known:
            raise ConfigError("--metric", name, f"no such metric; there are {', '.join(sorted(known))}")
    baseline_values = _parse_baseline(grouping, baseline)
    rows = [_report_row(group, grouping, tuple(metrics), baseline_values) for group in grouping.groups]
    ungrouped_jobs = [f"{job.path}: {NOT_STARTED}" for job in grouping.ungrouped_jobs]
    units = _metric_units(metrics, [run for group in grouping.groups for run in group.finished.values()])
    return ReportTable(
        grouping.columns, tuple(metrics), rows, grouping.common_overrides, ungrouped_jobs, bool(baseline), units
    )


def _metric_units(metrics: Sequence[str], runs: Sequence[DiscoveredRun]) -> dict[str, str]:
    """Unit of each metric; those of evaluations other than accuracy are in the runs' tables.json."""
    known = fraction_metrics([])
    if not known.issuperset(metrics):
        known = fraction_metrics(table for run in runs for table in run.tables.values())
    return {metric: FRACTION if metric in known else "" for metric in metrics}


def _parse_baseline(grouping: Grouping, arguments: Sequence[str]) -> dict[SettingColumn, str]:
    """The values that a baseline must have, by column."""
    baseline_values = {}
    for argument in arguments:
        name, _, value = argument.partition("=")
        by_name = {key: column for column in grouping.columns for key in (column.name, column.label)}
        if name not in by_name:
            labels = [column.label for column in grouping.columns]
            raise ConfigError(
                "--baseline", argument, f"must be <column>=<value> with a column among {', '.join(labels)}",
                suggestion(name, labels),
            )  # fmt: skip
        values = list(dict.fromkeys(by_name[name].text_for(group) for group in grouping.groups))
        if value not in values:
            raise ConfigError("--baseline", argument, f"no such run; {name} is one of {', '.join(values)}")
        baseline_values[by_name[name]] = value
    return baseline_values


def _report_row(
    group: Group, grouping: Grouping, metrics: tuple[str, ...], baseline_values: dict[SettingColumn, str]
) -> ReportRow:
    comparable = _comparable_groups(group, grouping, baseline_values)
    baseline = _baseline_of(group, comparable, grouping.columns, baseline_values)
    costs = [run.cost for run in group.finished.values() if run.cost is not None]
    return ReportRow(
        group=group,
        label=grouping.label(group),
        labels=tuple(column.text_for(group) for column in grouping.columns),
        metrics={name: summarize(list(group.metric(name).values())) for name in metrics},
        baseline=baseline,
        difference=None if baseline in (None, group) else summarize(paired_differences(group, baseline, metrics[0])),
        seconds=summarize([cost.seconds for cost in costs]),
        peak_memory_mib=max((cost.peak_memory_mib for cost in costs), default=None),
        warnings=group_warnings(group, comparable, metrics),
    )


def paired_differences(group: Group, baseline: Group, metric: str) -> list[float]:
    """Metric of `group` minus metric of `baseline`, for each seed that both have, in the order of seeds."""
    values, baseline_values = group.metric(metric), baseline.metric(metric)
    return [values[seed] - baseline_values[seed] for seed in sorted(values.keys() & baseline_values.keys())]


def _comparable_groups(group: Group, grouping: Grouping, baseline_values: dict[SettingColumn, str]) -> list[Group]:
    """Groups with the same benchmark and scenario, unless the baseline fixes these."""
    same = [c for c in grouping.columns if c.name in ("benchmark", "scenario") and c not in baseline_values]
    return [other for other in grouping.groups if all(c.text_for(other) == c.text_for(group) for c in same)]


def _baseline_of(
    group: Group,
    comparable: Sequence[Group],
    columns: Sequence[SettingColumn],
    baseline_values: dict[SettingColumn, str],
) -> Group | None:
    """The group of `comparable` with the values of the baseline and most in common; None if several tie."""
    if not baseline_values:
        return comparable[0]
    candidates = [
        other
        for other in comparable
        if all(column.text_for(other) == value for column, value in baseline_values.items())
    ]
    agreement = [sum(column.text_for(other) == column.text_for(group) for column in columns) for other in candidates]
    best = max(agreement, default=0)
    return candidates[agreement.index(best)] if agreement.count(best) == 1 else None


# --- CSV: unrounded


def csv_table(table: ReportTable) -> tuple[list[str], list[list[Any]]]:
    """Header and rows with all statistics of each metric, unrounded; fractions in [0, 1]."""
    statistics = ("mean", "sem", "ci95_low", "ci95_high", "n")
    columns = [column.label for column in table.columns] + ["runs", "seeds", "unfinished_seeds"]
    columns += [f"{metric}_{name}" for metric in table.metrics for name in statistics]
    columns += ["baseline"] + [f"difference_{name}" for name in statistics]
    columns += ["seconds_mean", "seconds_sem", "peak_memory_mib", "warnings"]
    rows: list[list[Any]] = []
    for row in table.rows:
        finished, unfinished = set(row.group.finished), row.group.seeds - set(row.group.finished)
        seconds = row.seconds
        rows.append(
            [
                *("" if label == NO_VALUE else label for label in row.labels),
                row.n,
                " ".join(map(str, sorted(finished))),
                " ".join(map(str, sorted(unfinished))),
                *(value for metric in table.metrics for value in _statistics_cells(row.metrics[metric])),
                _overrides_text(row.baseline, table),
                *_statistics_cells(row.difference),
                seconds and seconds.mean,
                seconds and seconds.sem,
                row.peak_memory_mib,
                "; ".join(row.warnings),
            ]
        )
    return list(map(_spreadsheet_cell, columns)), [[_spreadsheet_cell(value) for value in row] for row in rows]


def _spreadsheet_cell(value: Any) -> Any:
    """A value that a spreadsheet doesn't evaluate: text that looks like a formula gets an apostrophe in front."""
    if not isinstance(value, str):
        return value
    text = one_line(value)
    return f"'{text}" if text.lstrip()[:1] in _FORMULA_PREFIXES and parse_number(text) is None else text


_FORMULA_PREFIXES = tuple("=+-@＝＋－＠")


def _statistics_cells(summary: Summary | None) -> list[Any]:
    if summary is None:
        return [None] * 4 + [0]
    low, high = summary.interval or (None, None)
    return [summary.mean, summary.sem, low, high, summary.n]


def _overrides_text(group: Group | None, table: ReportTable) -> str:
    """A group as overrides: `strategy=ewc scenario=class`."""
    values = [] if group is None else [(column.label, column.text_for(group)) for column in table.columns]
    return " ".join(f"{name}={value}" for name, value in values if value != NO_VALUE)


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
    headers.append("n")
    units = table.units
    for metric in table.metrics:
        header = name_with_unit(metric, units[metric])
        headers += [header, "95 % interval"] if metric == first else [header]
    unit = " (points)" if units[first] == FRACTION else ""
    headers += [f"paired difference in {first.replace('_', ' ')}{unit}"] if has_differences else []
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
    """`mean ± standard error`, and `(n)` if n is not `expected_n`; `–` without values."""
    if summary is None:
        return NO_VALUE
    text = format_number(summary.mean, unit, digits)
    text += "" if summary.sem is None else f" ± {format_number(summary.sem, unit, digits)}"
    return text if summary.n == expected_n else f"{text} ({summary.n})"


def format_interval(summary: Summary | None, unit: str, sign: str = "") -> str:
    """The 95 % confidence interval as `[low, high]`; `–` if there is none."""
    if summary is None or summary.interval is None:
        return NO_VALUE
    low, high = (format_number(end, unit, sign=sign) for end in summary.interval)
    return f"[{low}, {high}]"


def format_difference(summary: Summary | None, unit: str) -> str:
    """A paired difference as `mean [low, high] (n)`, n the number of common seeds; `–` without common seeds."""
    if summary is None:
        return NO_VALUE
    between = "" if summary.interval is None else f" {format_interval(summary, unit, '+')}"
    return f"{format_number(summary.mean, unit, sign='+')}{between} ({summary.n})"


def footnotes(table: ReportTable) -> list[str]:
    """Lines below the table: the statistics, the baseline, common overrides, and warnings by row."""
    lines = ["mean ± standard error over n seeds; intervals are 95 % confidence intervals by Student's t"]
    if any(row.difference for row in table.rows):
        baseline = (
            "the row that --baseline names"
            if table.has_chosen_baseline
            else "the first row of the same benchmark and scenario"
        )
        lines.append(f"paired differences from {baseline}: mean over common seeds, their number in parentheses")
    if table.common_overrides:
        lines.append(f"set in every run: {' '.join(table.common_overrides)}")
    for number, row in enumerate(table.rows, 1):
        lines += [f"row {number} ({row.label}): {warning}" for warning in row.warnings]
    return list(map(one_line, lines + table.ungrouped_jobs))


def markdown(table: ReportTable) -> str:
    """The table in Markdown with aligned columns, and its footnotes."""
    shown = text_table(table)
    rows = [[one_line(cell).replace("|", "\\|") for cell in row] for row in [shown.headers, *shown.rows]]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    alignments = ["<" if i < shown.text_columns else ">" for i in range(len(widths))]
    formats = [f"{alignment}{width}" for alignment, width in zip(alignments, widths, strict=True)]
    head, *body = ["| " + " | ".join(map(format, row, formats)) + " |" for row in rows]
    ends = ["-" if alignment == "<" else ":" for alignment in alignments]
    rule = "|" + "".join(f"{'-' * (width + 1)}{end}|" for width, end in zip(widths, ends, strict=True))
    return "\n".join([head, rule, *body, "", *(f"- {line}" for line in footnotes(table))])


_LATEX = {"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "–": "--"}
_LATEX |= {char: f"\\{char}" for char in "&%$#_{}"} | {"±": r"$\pm$", "−": "$-$", "·": r"$\cdot$", "≥": r"$\geq$"}


def latex(table: ReportTable) -> str:
    """The table as a LaTeX tabular with rules of the package booktabs, and its footnotes as comments."""
    shown = text_table(table)
    head, *body = [" & ".join(map(_escape_latex, row)) + r" \\" for row in [shown.headers, *shown.rows]]
    alignments = "l" * shown.text_columns + "r" * (len(shown.headers) - shown.text_columns)
    comments = [f"% {line}" for line in ["needs \\usepackage{booktabs}", *footnotes(table)]]
    lines = [
        rf"\begin{{tabular}}{{{alignments}}}",
        r"\toprule",
        head,
        r"\midrule",
        *body,
        r"\bottomrule",
        r"\end{tabular}",
    ]
    return "\n".join([*comments, *lines])


def _escape_latex(text: str) -> str:
    latex = re.sub("|".join(map(re.escape, _LATEX)), lambda match: _LATEX[match[0]], one_line(text))
    # At the start of a row, [ and * would be arguments of the command that ends the row before.
    return re.sub(r"^\s*([\[*])", r"{\1}", latex)
