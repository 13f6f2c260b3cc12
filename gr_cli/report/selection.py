"""Which runs a report is about (`--where`)."""

from __future__ import annotations

import operator
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from statistics import fmean
from typing import Any

from gr_cli.errors import ConfigError, suggestion, truncate
from gr_cli.report.groups import Grouping, format_value, group_runs, matching_names, natural_key, parse_number
from gr_cli.report.metric_names import check_metrics, units_and_bounds
from gr_cli.results.cells import parse_cell
from gr_cli.results.discovery import DiscoveredRun, DiscoveredRuns
from gr_cli.results.statistics import UNBOUNDED, Bounds
from gr_cli.results.tables import FRACTION, parse_quantity, unit_sizes

_ORDERINGS: dict[str, Callable[[float, float], bool]] = {
    "<=": operator.le,
    ">=": operator.ge,
    "<": operator.lt,
    ">": operator.gt,
}
_MAX_LISTED = 20  # values or names in a message
_COSTS = ("seconds", "peak_memory_mib")  # names of costs in conditions


@dataclass(frozen=True)
class Condition:
    """A condition on a setting or a metric: `strategy=dgr,ewc`, `lr!=0.1`, `average_accuracy>0.8`.

    Raises:
        ConfigError: It is malformed.
    """

    text: str
    """As the user wrote it."""

    @cached_property
    def parts(self) -> tuple[str, str, str]:
        """Name, operator and value."""
        match = re.fullmatch(r"([\w./-]+(?:@\w+=[\w.-]+)*)(!=|<=|>=|=|<|>)(.+)", self.text)
        if match is None:
            raise ConfigError("--where", self.text, "must be <name>=<value>, or with !=, <, <=, > or >=")
        name, relation, value = match.groups()
        return name, relation, value

    def holds(self, value: str | None) -> bool:
        """Whether a setting with this value fulfils the condition; None: the run does not have the setting."""
        _, relation, wanted = self.parts
        if relation in ("=", "!="):
            # A list is one value; other values are alternatives, separated by commas.
            alternatives = [wanted] if wanted.startswith("[") else wanted.split(",")
            return any(_is_equal(value, alternative) for alternative in alternatives) == (relation == "=")
        limit = parse_number(wanted)
        if limit is None:
            raise ConfigError("--where", self.text, f"{relation} needs a number")
        number = None if value is None else parse_number(value)
        return number is not None and _ORDERINGS[relation](number, limit)

    def holds_for(self, value: float | None, unit: str, bounds: Bounds = UNBOUNDED) -> bool:
        """Whether a metric with this value fulfils the condition; None: the run does not have the metric.

        Args:
            value: The value, as in metrics.csv.
            unit: Its unit, with which the condition may be given: `80%` of a fraction, `5GFLOP`.
            bounds: Range of possible values.
        """
        _, relation, wanted = self.parts
        limits = [self._quantity(text, unit, bounds) for text in wanted.split(",")]
        if relation in ("=", "!="):
            return (value in limits) == (relation == "=")
        if len(limits) > 1:
            raise ConfigError("--where", self.text, f"{relation} needs one number")
        return value is not None and _ORDERINGS[relation](value, limits[0])

    def _quantity(self, text: str, unit: str, bounds: Bounds) -> float:
        number = parse_quantity(text, unit)
        if number is None:
            units = " or ".join(unit_sizes(unit)) or "without a unit"
            raise ConfigError("--where", self.text, f"{truncate(text)} must be a number, {units}")
        if unit == FRACTION and bounds.clip(number) != number:
            low, high = (f"{end:g}" for end in (bounds.low or 0.0, bounds.high or 1.0))
            remedy = f"such as {self.parts[0]}{self.parts[1]}0.5"
            if bounds.clip(number / 100) == number / 100:
                remedy = f"write {self.parts[0]}{self.parts[1]}{number / 100:g} or {number:g}%"
            raise ConfigError("--where", self.text, f"must be a fraction between {low} and {high}", remedy)
        return number


def _is_equal(value: str | None, wanted: str) -> bool:
    if value is None or value == wanted:
        return value is not None
    number = parse_number(value)
    return number is not None and number == parse_number(wanted)


@dataclass(frozen=True)
class _Measure:
    """A metric, or a cost, in a condition: its values by run, unit and range."""

    values: dict[int, float | None]
    """By id of the run: of the run, or the mean over the seeds of its configuration."""
    unit: str
    bounds: Bounds


def select_runs(discovered: DiscoveredRuns, conditions: Sequence[str], by_run: bool = False) -> DiscoveredRuns:
    """The runs and pending jobs that fulfil all conditions.

    A condition is about a config group, a setting by its dotted name or the end of it, `seed` or `state`, a metric, or
    `seconds` or `peak_memory_mib`. A pending job has the settings of the runs of its configuration; without such a run
    it is left out.

    Args:
        discovered: All runs.
        conditions: Conditions as text.
        by_run: Whether a condition on a metric is about the value of each run; else it is about the mean over the seeds
            of a configuration, which keeps or leaves out all of its runs. Means over seeds chosen by their result would
            be biased.

    Raises:
        ConfigError: A condition is malformed, names nothing, or no run fulfils the conditions.
    """
    if not conditions:
        return discovered
    settings = {id(run): {**_values(run), "seed": run.seed, "state": run.state} for run in discovered.runs}
    names = list(dict.fromkeys(name for run_values in settings.values() for name in run_values))
    grouping = group_runs(discovered)
    checks = [_check_for(condition, names, grouping, by_run) for condition in map(Condition, conditions)]
    for check in checks:
        if not any(check.fulfilled(run, settings[id(run)]) for run in discovered.runs):
            described = check.values_text(settings.values())
            raise ConfigError("--where", check.condition.text, f"no such run; {check.name} is {described}")

    def selected(run: DiscoveredRun, run_values: Mapping[str, Any]) -> bool:
        return all(check.fulfilled(run, run_values) for check in checks)

    runs = [run for run in discovered.runs if selected(run, settings[id(run)])]
    if not runs:
        raise ConfigError("--where", " ".join(conditions), "no run fulfils all of these; leave some out")
    by_identity = {run.identity: run for run in discovered.runs}
    pending = [
        job
        for job in discovered.pending
        if (key := job.seed_and_identity) is not None
        and (run := by_identity.get(key[1])) is not None
        and selected(run, {**settings[id(run)], "seed": key[0], "state": job.pending_state})
        and not (by_run and any(check.measure for check in checks))
    ]
    return replace(discovered, runs=runs, pending=pending)


def _values(run: DiscoveredRun) -> dict[str, Any]:
    return {**run.settings, **run.choices}


@dataclass(frozen=True)
class _Check:
    """A condition with what it is about."""

    condition: Condition
    name: str
    """Name of a setting or a metric."""
    measure: _Measure | None
    """The metric; None for a setting."""

    def fulfilled(self, run: DiscoveredRun, settings: Mapping[str, Any]) -> bool:
        """Whether a run, or a job of its configuration, with these settings fulfils the condition."""
        if self.measure is not None:
            return self.condition.holds_for(self.measure.values.get(id(run)), self.measure.unit, self.measure.bounds)
        return self.condition.holds(format_value(settings[self.name]) if self.name in settings else None)

    def values_text(self, settings: Iterable[Mapping[str, Any]]) -> str:
        """The values that there are, for a message."""
        if self.measure is None:
            texts = {format_value(run_values[self.name]) for run_values in settings if self.name in run_values}
            return f"one of {', '.join(sorted(texts, key=natural_key)[:_MAX_LISTED])}"
        numbers = [value for value in self.measure.values.values() if value is not None]
        return f"between {min(numbers):g} and {max(numbers):g}" if numbers else "in no finished run"


def _check_for(condition: Condition, names: Sequence[str], grouping: Grouping, by_run: bool) -> _Check:
    """What a condition is about: a setting or a metric by its name, else by the end of the name of a setting."""
    name = condition.parts[0]
    if name not in names and (name in _COSTS or name in grouping.metric_names):
        return _Check(condition, name, _measure(name, grouping, by_run))
    matching = matching_names(name, names)
    if len(matching) == 1:
        return _Check(condition, matching[0], None)
    if matching:
        raise ConfigError("--where", condition.text, f"{name} can be {', '.join(matching)}; give more of the name")
    cell = parse_cell(name)
    if cell is not None and cell.table in grouping.table_formats:
        check_metrics(grouping, [name], "--where", condition.text)
        return _Check(condition, name, _measure(name, grouping, by_run))
    ends = {full_name.replace("/", ".").rpartition(".")[2] for full_name in names}
    known = sorted({*ends, *grouping.metric_names, *_COSTS})
    problem = (
        f"no run has a setting or metric {name}; settings are those of config.yaml, such as strategy, lr, seed, state, "
        f"metrics those of metrics.csv"
    )
    raise ConfigError("--where", condition.text, problem, suggestion(name, known))


def _measure(name: str, grouping: Grouping, by_run: bool) -> _Measure:
    def value_of(run: DiscoveredRun) -> float | None:
        if name in _COSTS:
            return None if run.cost is None else float(getattr(run.cost, name))
        return run.metric(name)

    values: dict[int, float | None] = {}
    for group in grouping.groups:
        known = [value for run in group.finished.values() if (value := value_of(run)) is not None]
        mean = fmean(known) if known else None
        values |= {id(run): value_of(run) if by_run else mean for run in group.runs}
    if name in _COSTS:
        return _Measure(values, "", UNBOUNDED)
    units, bounds = units_and_bounds(grouping, [name])
    return _Measure(values, units[name], bounds[name])
