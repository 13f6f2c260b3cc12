"""Which runs a report is about (`--where`), and the order of its rows (`--sort`)."""

from __future__ import annotations

import math
import operator
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial
from statistics import fmean
from typing import Any

from gr_cli.errors import ConfigError, suggestion
from gr_cli.report.groups import NO_VALUE, Grouping, format_value, matching_names, natural_key, parse_number
from gr_cli.report.tables import ReportRow, ReportTable
from gr_cli.results.discovery import NOT_STARTED, DiscoveredRun, DiscoveredRuns

_ORDERINGS: dict[str, Callable[[float, float], bool]] = {
    "<=": operator.le,
    ">=": operator.ge,
    "<": operator.lt,
    ">": operator.gt,
}
_MAX_LISTED = 20  # values or names in a message


@dataclass(frozen=True)
class Condition:
    """A condition on a setting: `strategy=dgr,ewc`, `lr!=0.1`, `batch_size<64`.

    Raises:
        ConfigError: It is malformed.
    """

    text: str
    """As the user wrote it."""

    @cached_property
    def parts(self) -> tuple[str, str, str]:
        """Name, operator and value."""
        match = re.fullmatch(r"([\w./-]+)(!=|<=|>=|=|<|>)(.+)", self.text)
        if match is None:
            raise ConfigError("--where", self.text, "must be <setting>=<value>, or with !=, <, <=, > or >=")
        name, relation, value = match.groups()
        if relation in _ORDERINGS and parse_number(value) is None:
            raise ConfigError("--where", self.text, f"{relation} needs a number")
        return name, relation, value

    def holds(self, value: str | None) -> bool:
        """Whether a setting with this value fulfils the condition; None: the run does not have the setting."""
        _, relation, wanted = self.parts
        if relation in ("=", "!="):
            # A list is one value; other values are alternatives, separated by commas.
            alternatives = [wanted] if wanted.startswith("[") else wanted.split(",")
            return any(_is_equal(value, alternative) for alternative in alternatives) == (relation == "=")
        number, limit = None if value is None else parse_number(value), parse_number(wanted)
        return number is not None and limit is not None and _ORDERINGS[relation](number, limit)


def _is_equal(value: str | None, wanted: str) -> bool:
    if value is None or value == wanted:
        return value is not None
    number = parse_number(value)
    return number is not None and number == parse_number(wanted)


def select_runs(discovered: DiscoveredRuns, conditions: Sequence[str]) -> DiscoveredRuns:
    """The runs and pending jobs that fulfil all conditions.

    A condition is about a config group, a setting by its dotted name or the end of it, `seed` or `state`. A pending job
    has the settings of the runs of its configuration; without such a run it is left out.

    Raises:
        ConfigError: A condition is malformed, names nothing, or no run fulfils the conditions.
    """
    if not conditions:
        return discovered
    values = {id(run): {**_values(run), "seed": run.seed, "state": run.state} for run in discovered.runs}
    names = list(dict.fromkeys(name for run_values in values.values() for name in run_values))
    checks = [(condition, _full_name(condition, names)) for condition in map(Condition, conditions)]

    def fulfils(run_values: Mapping[str, Any], condition: Condition, name: str) -> bool:
        return condition.holds(format_value(run_values[name]) if name in run_values else None)

    for condition, name in checks:
        if not any(fulfils(run_values, condition, name) for run_values in values.values()):
            texts = {format_value(run_values[name]) for run_values in values.values() if name in run_values}
            listed = ", ".join(sorted(texts, key=natural_key)[:_MAX_LISTED])
            raise ConfigError("--where", condition.text, f"no such run; {name} is one of {listed}")

    def selected(run_values: Mapping[str, Any]) -> bool:
        return all(fulfils(run_values, condition, name) for condition, name in checks)

    runs = [run for run in discovered.runs if selected(values[id(run)])]
    if not runs:
        raise ConfigError("--where", " ".join(conditions), "no run fulfils all of these; leave some out")
    by_identity = {run.identity: values[id(run)] for run in discovered.runs}
    pending = [
        job
        for job in discovered.pending
        if (key := job.seed_and_identity) is not None
        and key[1] in by_identity
        and selected({**by_identity[key[1]], "seed": key[0], "state": NOT_STARTED})
    ]
    return replace(discovered, runs=runs, pending=pending)


def _values(run: DiscoveredRun) -> dict[str, Any]:
    return {**run.settings, **run.choices}


def _full_name(condition: Condition, names: Sequence[str]) -> str:
    """The name of the setting that a condition is about."""
    name = condition.parts[0]
    matching = matching_names(name, names)
    if len(matching) == 1:
        return matching[0]
    if matching:
        raise ConfigError("--where", condition.text, f"{name} can be {', '.join(matching)}; give more of the name")
    ends = sorted({full_name.replace("/", ".").rpartition(".")[2] for full_name in names})
    problem = f"no run has a setting {name}; names are those of config.yaml, such as strategy, lr, seed, state"
    raise ConfigError("--where", condition.text, problem, suggestion(name, ends))


# --- order of rows


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
