"""The table of a report: a row per group of runs, as values, and as CSV, Markdown and LaTeX."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from gr_cli.errors import ConfigError, one_line, suggestion
from gr_cli.report.groups import NO_VALUE, Group, Grouping, SettingColumn, group_warnings, parse_number
from gr_cli.results.discovery import DiscoveredRun
from gr_cli.results.metrics import fraction_metrics
from gr_cli.results.statistics import Summary, summarize
from gr_cli.results.tables import FRACTION, display_factor, name_with_unit

DEFAULT_METRICS = ("average_accuracy", "forgetting")


@dataclass(frozen=True)
class ReportRow:
    """What a report says of a group. `label`: what tells it apart, `labels`: by column.

    `difference`: how much more it has of the first metric than `baseline`, over common seeds.
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
        """How many runs there are results of."""
        return len(self.group.finished)


@dataclass(frozen=True)
class ReportTable:
    """Rows, and what their labels and numbers are of. `units`: of each metric."""

    columns: list[SettingColumn]
    metrics: tuple[str, ...]
    rows: list[ReportRow]
    common_overrides: list[str]
    ungrouped_jobs: list[str]
    has_chosen_baseline: bool = False
    units: dict[str, str] = field(default_factory=dict)


def report_table(grouping: Grouping, metrics: Sequence[str], baseline: Sequence[str] = ()) -> ReportTable:
    """Averages of `metrics` over the seeds of each group, and differences from a baseline.

    `baseline`: words such as `strategy=finetune`; without any, it is the first row. A row is compared with the one that
    these words describe and that otherwise agrees most with it, on the same benchmark in the same scenario.

    Raises:
        ConfigError: there is no such metric or baseline.
    """
    known = {name for group in grouping.groups for run in group.finished.values() for name in run.metrics or ()}
    for name in metrics if known else ():
        if name not in known:
            raise ConfigError("--metric", name, f"no such metric; there are {', '.join(sorted(known))}")
    wanted = _parse_baseline(grouping, baseline)
    rows = [_report_row(group, grouping, tuple(metrics), wanted) for group in grouping.groups]
    homeless = [f"{job.path}: not started" for job in grouping.ungrouped_jobs]
    units = _metric_units(metrics, [run for group in grouping.groups for run in group.finished.values()])
    return ReportTable(
        grouping.columns, tuple(metrics), rows, grouping.common_overrides, homeless, bool(baseline), units
    )


def _metric_units(metrics: Sequence[str], runs: Sequence[DiscoveredRun]) -> dict[str, str]:
    """The unit of each metric; folders say those of what they measured besides accuracy."""
    known = fraction_metrics([])
    if not known.issuperset(metrics):
        known = fraction_metrics(table for run in runs for table in run.tables.values())
    return {metric: FRACTION if metric in known else "" for metric in metrics}


def _parse_baseline(grouping: Grouping, words: Sequence[str]) -> dict[SettingColumn, str]:
    """What must hold of a baseline, by column."""
    wanted = {}
    for word in words:
        name, _, value = word.partition("=")
        by_name = {key: column for column in grouping.columns for key in (column.name, column.label)}
        if name not in by_name:
            labels = [column.label for column in grouping.columns]
            raise ConfigError(
                "--baseline", word, f"must be <column>=<value> with a column among {', '.join(labels)}",
                suggestion(name, labels),
            )  # fmt: skip
        values = list(dict.fromkeys(by_name[name].text_for(group) for group in grouping.groups))
        if value not in values:
            raise ConfigError("--baseline", word, f"no such run; {name} is one of {', '.join(values)}")
        wanted[by_name[name]] = value
    return wanted


def _report_row(
    group: Group, grouping: Grouping, metrics: tuple[str, ...], wanted: dict[SettingColumn, str]
) -> ReportRow:
    peers = _comparable_groups(group, grouping, wanted)
    baseline = _baseline_of(group, peers, grouping.columns, wanted)
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
        warnings=group_warnings(group, peers, metrics),
    )


def paired_differences(group: Group, baseline: Group, metric: str) -> list[float]:
    """How much more `group` has of a metric than `baseline`, by seeds that both have, in their order."""
    mine, theirs = group.metric(metric), baseline.metric(metric)
    return [mine[seed] - theirs[seed] for seed in sorted(mine.keys() & theirs.keys())]


def _comparable_groups(group: Group, grouping: Grouping, wanted: dict[SettingColumn, str]) -> list[Group]:
    """The groups that it can be compared with: of the same benchmark and scenario, where no baseline says otherwise."""
    same = [c for c in grouping.columns if c.name in ("benchmark", "scenario") and c not in wanted]
    return [other for other in grouping.groups if all(c.text_for(other) == c.text_for(group) for c in same)]


def _baseline_of(
    group: Group, peers: Sequence[Group], columns: Sequence[SettingColumn], wanted: dict[SettingColumn, str]
) -> Group | None:
    """Which of `peers` it is compared with; None if several are as near."""
    if not wanted:
        return peers[0]
    fitting = [peer for peer in peers if all(column.text_for(peer) == value for column, value in wanted.items())]
    agreement = [sum(column.text_for(peer) == column.text_for(group) for column in columns) for peer in fitting]
    best = max(agreement, default=0)
    return fitting[agreement.index(best)] if agreement.count(best) == 1 else None


# --- as CSV: every number as it is


def csv_table(table: ReportTable) -> tuple[list[str], list[list[Any]]]:
    """Columns and rows; metrics as fractions, a column for each statistic of each."""
    statistics = ("mean", "sem", "ci95_low", "ci95_high", "n")
    columns = [column.label for column in table.columns] + ["runs", "seeds", "unfinished_seeds"]
    columns += [f"{metric}_{name}" for metric in table.metrics for name in statistics]
    columns += ["baseline"] + [f"difference_{name}" for name in statistics]
    columns += ["seconds_mean", "seconds_sem", "peak_memory_mib", "notes"]
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
    """A value as a spreadsheet shows it: text that it would take for a formula begins with an apostrophe."""
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
    """A group by what its columns say, as one would type it."""
    said = [] if group is None else [(column.label, column.text_for(group)) for column in table.columns]
    return " ".join(f"{name}={value}" for name, value in said if value != NO_VALUE)


# --- for people


@dataclass(frozen=True)
class TextTable:
    """A table as text: headers, and cells by row. The first `words` columns are words, the others numbers."""

    headers: list[str]
    rows: list[list[str]]
    text_columns: int


def text_table(table: ReportTable) -> TextTable:
    """Columns that say nothing are left out, numbers are rounded, and metrics are in percent."""
    headers = [column.label for column in table.columns]
    words = len(headers)
    first = table.metrics[0]
    compared = any(row.difference for row in table.rows)
    headers.append("n")
    units = table.units
    for metric in table.metrics:
        named = name_with_unit(metric, units[metric])
        headers += [named, "95 % of the mean"] if metric == first else [named]
    unit = " (points)" if units[first] == FRACTION else ""
    headers += [f"paired difference in {first.replace('_', ' ')}{unit}"] if compared else []
    headers += ["seconds", "peak MiB"]
    rows = []
    for row in table.rows:
        cells = [*row.labels, str(row.n) if row.n == len(row.group.seeds) else f"{row.n} of {len(row.group.seeds)}"]
        for metric in table.metrics:
            cells.append(format_mean(row.metrics[metric], units[metric], row.n))
            if metric == first:
                cells.append(format_interval(row.metrics[metric], units[metric]))
        if compared:
            cells.append("baseline" if row.baseline is row.group else format_difference(row.difference, units[first]))
        cells += [
            format_mean(row.seconds, "", row.n, 1),
            NO_VALUE if row.peak_memory_mib is None else f"{row.peak_memory_mib:.0f}",
        ]
        rows.append(cells)
    return TextTable(headers, rows, words)


def format_number(value: float, unit: str, digits: int = 2, sign: str = "") -> str:
    """In percent, if it is a fraction; with a proper minus."""
    scaled = display_factor(unit) * value
    return f"{scaled:{sign}.{digits}f}".replace("-", "−") if scaled == scaled else "NaN"


def format_mean(summary: Summary | None, unit: str, expected_n: int, digits: int = 2) -> str:
    """Mean ± standard error; with the number of values, if it is not that `of` the row."""
    if summary is None:
        return NO_VALUE
    text = format_number(summary.mean, unit, digits)
    text += "" if summary.sem is None else f" ± {format_number(summary.sem, unit, digits)}"
    return text if summary.n == expected_n else f"{text} ({summary.n})"


def format_interval(summary: Summary | None, unit: str, sign: str = "") -> str:
    """The confidence interval."""
    if summary is None or summary.interval is None:
        return NO_VALUE
    low, high = (format_number(end, unit, sign=sign) for end in summary.interval)
    return f"[{low}, {high}]"


def format_difference(summary: Summary | None, unit: str) -> str:
    """A paired difference with its confidence interval and the number of common seeds."""
    if summary is None:
        return NO_VALUE
    between = "" if summary.interval is None else f" {format_interval(summary, unit, '+')}"
    return f"{format_number(summary.mean, unit, sign='+')}{between} ({summary.n})"


def footnotes(table: ReportTable) -> list[str]:
    """What must be known besides the table: what the numbers are, what is missing, which row."""
    lines = ["mean ± standard error over n seeds; intervals are 95 % confidence intervals by Student's t"]
    if any(row.difference for row in table.rows):
        which = (
            "the row that --baseline names"
            if table.has_chosen_baseline
            else "the first row of a benchmark and scenario"
        )
        lines.append(f"paired differences: over common seeds (how many), from {which}")
    if table.common_overrides:
        lines.append(f"set in every run: {' '.join(table.common_overrides)}")
    for place, row in enumerate(table.rows, 1):
        lines += [f"row {place} ({row.label}): {note}" for note in row.warnings]
    return list(map(one_line, lines + table.ungrouped_jobs))


def markdown(table: ReportTable) -> str:
    """The table with aligned columns, and what must be known besides."""
    shown = text_table(table)
    rows = [[one_line(cell).replace("|", "\\|") for cell in row] for row in [shown.headers, *shown.rows]]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    sides = ["<" if i < shown.text_columns else ">" for i in range(len(widths))]
    forms = [f"{side}{width}" for side, width in zip(sides, widths, strict=True)]
    head, *body = ["| " + " | ".join(map(format, row, forms)) + " |" for row in rows]
    ends = ["-" if side == "<" else ":" for side in sides]
    rule = "|" + "".join(f"{'-' * (width + 1)}{end}|" for width, end in zip(widths, ends, strict=True))
    return "\n".join([head, rule, *body, "", *(f"- {line}" for line in footnotes(table))])


_LATEX = {"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "–": "--"}
_LATEX |= {char: f"\\{char}" for char in "&%$#_{}"} | {"±": r"$\pm$", "−": "$-$", "·": r"$\cdot$", "≥": r"$\geq$"}


def latex(table: ReportTable) -> str:
    """A tabular with the rules of the package booktabs; what must be known besides as comments."""
    shown = text_table(table)
    head, *body = [" & ".join(map(_escape_latex, row)) + r" \\" for row in [shown.headers, *shown.rows]]
    form = "l" * shown.text_columns + "r" * (len(shown.headers) - shown.text_columns)
    comments = [f"% {line}" for line in ["needs \\usepackage{booktabs}", *footnotes(table)]]
    lines = [rf"\begin{{tabular}}{{{form}}}", r"\toprule", head, r"\midrule", *body, r"\bottomrule", r"\end{tabular}"]
    return "\n".join([*comments, *lines])


def _escape_latex(text: str) -> str:
    latex = re.sub("|".join(map(re.escape, _LATEX)), lambda found: _LATEX[found[0]], one_line(text))
    # At the beginning of a row these would belong to the command before it.
    return re.sub(r"^\s*([\[*])", r"{\1}", latex)
