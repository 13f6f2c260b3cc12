"""Baselines: the row with which each row is compared, and paired differences from it."""

from __future__ import annotations

from collections.abc import Sequence

from gr_cli.errors import ConfigError, suggestion
from gr_cli.report.groups import Group, Grouping, SettingColumn


def parse_baseline(grouping: Grouping, arguments: Sequence[str]) -> dict[SettingColumn, str]:
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


def paired_differences(group: Group, baseline: Group, metric: str) -> list[float]:
    """Metric of `group` minus metric of `baseline`, for each seed that both have, in the order of seeds."""
    values, baseline_values = group.metric(metric), baseline.metric(metric)
    return [values[seed] - baseline_values[seed] for seed in sorted(values.keys() & baseline_values.keys())]


def baseline_of(
    group: Group,
    comparable: Sequence[Group],
    columns: Sequence[SettingColumn],
    baseline_values: dict[SettingColumn, str],
    metric: str,
) -> Group | None:
    """The group of `comparable` with the values of the baseline and most in common; None if several tie.

    Without values, the one in which the most seeds have the metric, and the first of several: differences need common
    seeds.
    """
    if not baseline_values:
        return max(comparable, key=lambda other: (len(other.metric(metric)), len(other.finished)))
    candidates = [
        other
        for other in comparable
        if all(column.text_for(other) == value for column, value in baseline_values.items())
    ]
    agreement = [sum(column.text_for(other) == column.text_for(group) for column in columns) for other in candidates]
    best = max(agreement, default=0)
    return candidates[agreement.index(best)] if agreement.count(best) == 1 else None
