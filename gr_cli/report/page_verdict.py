"""The sentence of the page that says which configuration is best in a metric, and by how much."""

from __future__ import annotations

from collections.abc import Sequence

from gr_cli.report.baseline import paired_differences
from gr_cli.report.page_measures import PageMetric
from gr_cli.report.tables import ReportRow, format_mean, format_number
from gr_cli.results.statistics import SIGNED_UNIT, UNBOUNDED, UNIT_INTERVAL, Summary, paired_summary, summarize
from gr_cli.results.tables import FRACTION


def verdict(metric: PageMetric, rows: Sequence[tuple[str, ReportRow]]) -> str:
    """Which of some configurations is best in a metric, and by how much; empty without a direction or values.

    Separate networks, to which the task is given, are left out, unless all configurations are such.

    Args:
        metric: The metric.
        rows: Names and rows of configurations that can be compared.
    """
    compared = [(name, row) for name, row in rows if not _has_an_advantage(row)] or rows
    means = [
        (summary, name, row)
        for name, row in compared
        if (summary := summarize(list(metric.values(row.group).values())))
    ]
    means = [entry for entry in means if entry[0].mean == entry[0].mean]
    if not means or metric.better == "none":
        return ""
    sign = 1.0 if metric.better == "higher" else -1.0
    means.sort(key=lambda entry: -sign * entry[0].mean)
    (best, name, row), *others = means
    text = f"{name} has {_mean_text(best, metric)}"
    if not others:
        return f"{text}."
    second, next_name, other = others[0]
    limits = SIGNED_UNIT if metric.bounds == UNIT_INTERVAL else UNBOUNDED
    gains = [sign * gain / metric.size for gain in paired_differences(row.group, other.group, metric.name)]
    order = f"{'best' if len(means) > 2 else 'better'} of {len(means)}"
    text += (
        f", the {order}; next is {next_name} with {format_number(second.mean, metric.unit)}{_unit_text(metric.unit)}."
    )
    return f"{text} {_difference_text(paired_summary(gains, limits), metric.unit, len(means))}"


def _has_an_advantage(row: ReportRow) -> bool:
    """Whether the task of a test sample is given to a configuration, and not to others of its scenario."""
    return row.group.is_given_the_task and row.group.values["scenario"] != "task"


def _mean_text(summary: Summary, metric: PageMetric) -> str:
    number = format_mean(summary, metric.unit, summary.n).replace(" ± ", "\u00a0±\u00a0")
    return f"{metric.name.replace('_', ' ')} {number}{_unit_text(metric.unit)}"


def _unit_text(unit: str) -> str:
    """A unit behind a number, on the same line."""
    return "\u00a0%" if unit == FRACTION else f"\u00a0{unit}" if unit else ""


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
    points = " points" if unit == FRACTION else _unit_text(unit)
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
