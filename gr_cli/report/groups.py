"""Group runs that differ only in the seed, and choose the settings that distinguish groups as table columns."""

from __future__ import annotations

import re
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import groupby
from typing import Any

from gr_cli.config.groups import GROUPS, METHOD_GROUPS, NAME_GROUPS, PARENT_FOLDER_GROUPS
from gr_cli.config.schema import IRRELEVANT_TO_RESULT
from gr_cli.errors import one_line
from gr_cli.results.discovery import DiscoveredRun, DiscoveredRuns
from gr_cli.results.manifest import SweepJob
from gr_cli.results.status_fields import parse_time
from gr_cli.results.tables import TableFormat

FIXED_COLUMNS = (*NAME_GROUPS, "scenario")  # columns of every table
_OPTIONS = {group.replace("/", ".") for group in GROUPS}
NO_VALUE = "–"
_DAY_SECONDS = 24 * 60 * 60.0  # a status from further in the future has a wrong clock
_NO_SETTING = object()  # value of a setting that a group does not have
# Settings whose default depends on the option of a config group that is not part of their dotted name.
_DECIDING_GROUP = {"evaluate.generated_samples": "generator"}


@dataclass(frozen=True)
class Group:
    """Runs of one configuration with different seeds."""

    runs: tuple[DiscoveredRun, ...]
    """The runs; several may have the same seed."""
    pending: tuple[SweepJob, ...] = ()
    """Jobs of sweeps with this configuration that have not started."""

    @cached_property
    def values(self) -> dict[str, Any]:
        """Options by config group (`strategy`, `strategy/regularizer`, ...) and settings by dotted name."""
        options = {
            config_group: option for config_group, option in self.runs[0].choices.items() if config_group != "preset"
        }
        # The node of an option (`generator: null`) repeats the choice.
        settings = {name: value for name, value in self.runs[0].settings.items() if name not in _OPTIONS}
        return {**settings, **options}

    @cached_property
    def by_seed(self) -> dict[int, DiscoveredRun]:
        """The run that counts, by seed: finished ones before others, then the newest."""
        order = sorted(self.runs, key=lambda run: (run.finished, last_heartbeat(run), str(run.path)))
        return dict(sorted({run.seed: run for run in order}.items()))

    @cached_property
    def finished(self) -> dict[int, DiscoveredRun]:
        """The finished runs of `by_seed`."""
        return {seed: run for seed, run in self.by_seed.items() if run.finished}

    @property
    def is_given_the_task(self) -> bool:
        """Whether the task of a test sample is given to it in every scenario: separate networks."""
        return any(run.status.get("reference_for") == "transfer" for run in self.finished.values())

    def metric(self, name: str) -> dict[int, float]:
        """A metric by seed, without seeds for which it is undefined; names as for `DiscoveredRun.metric`."""
        values = {seed: run.metric(name) for seed, run in self.finished.items()}
        return {seed: value for seed, value in values.items() if value is not None}

    @cached_property
    def pending_seeds(self) -> list[int]:
        """Seeds of jobs that have not started."""
        return sorted(job.seed_and_identity[0] for job in self.pending)

    @cached_property
    def seeds(self) -> set[int]:
        """Seeds of all runs and pending jobs."""
        return {*self.by_seed, *self.pending_seeds}


@dataclass(frozen=True)
class SettingColumn:
    """A column of the report: a config group or a setting."""

    name: str
    """Name of the config group, or dotted name of the setting."""
    label: str
    """Shortest unambiguous form of the name."""

    def text_for(self, group: Group) -> str:
        """Option or value of `group`."""
        return format_value(group.values.get(self.name, _NO_SETTING))


@dataclass(frozen=True)
class Grouping:
    """All groups of a report."""

    groups: list[Group]
    """Groups in the order of rows."""
    columns: list[SettingColumn]
    """Columns that distinguish them."""
    common_overrides: list[str]
    """Overrides that all runs have, except seed, paths and logging."""
    ungrouped_jobs: list[SweepJob]
    """Jobs that have not started, of configurations without a run."""

    @cached_property
    def metric_names(self) -> set[str]:
        """Names of all metrics of finished runs in their metrics.csv."""
        return {name for group in self.groups for run in group.finished.values() for name in run.metrics or ()}

    @cached_property
    def table_formats(self) -> dict[str, TableFormat]:
        """Formats of all tables of finished runs by name; for equal names, that of the first run."""
        runs = [run for group in self.groups for run in group.finished.values()]
        formats = {name: table_format for run in reversed(runs) for name, table_format in run.tables.items()}
        return dict(sorted(formats.items()))

    @cached_property
    def naming_values(self) -> list[dict[SettingColumn, str]]:
        """For each group the fewest values that distinguish it: by column, in the order of columns.

        Columns split the groups one after the other; a group gets no more values once it is alone. Where no column
        splits, it has none.
        """
        texts = {column: [column.text_for(group) for group in self.groups] for column in self.columns}
        names: list[dict[SettingColumn, str]] = [{} for _ in self.groups]
        pending = [(list(range(len(self.groups))), self.columns)]
        while pending:
            members, columns = pending.pop()
            for position, column in enumerate(columns if len(members) > 1 else ()):
                parts: dict[str, list[int]] = {}
                for member in members:
                    parts.setdefault(texts[column][member], []).append(member)
                if len(parts) > 1:
                    for text, part in parts.items():
                        pending.append((part, columns[position + 1 :]))
                        for member in part:
                            names[member][column] = text
                    break
        return names

    @cached_property
    def labels(self) -> list[str]:
        """Short name of each group: `ewc · lr=0.01`, from the fewest values that distinguish it.

        Without a value, the name is the strategy.
        """
        return [
            " · ".join(
                value if column.name in NAME_GROUPS else f"{column.label}={value}"
                for column, value in values.items()
                if value != NO_VALUE
            )
            or format_value(group.values.get("strategy", NO_VALUE))
            for group, values in zip(self.groups, self.naming_values, strict=True)
        ]


def group_runs(discovered: DiscoveredRuns) -> Grouping:
    """Group runs by configuration."""
    runs: dict[str, list[DiscoveredRun]] = {}
    for run in discovered.runs:
        runs.setdefault(run.identity, []).append(run)
    pending: dict[str, list[SweepJob]] = {}
    for job in discovered.pending:
        pending.setdefault(job.seed_and_identity[1], []).append(job)
    groups = [Group(tuple(same), tuple(pending.pop(identity, ()))) for identity, same in runs.items()]
    columns = _distinguishing_columns(groups)
    groups.sort(key=lambda group: [natural_key(column.text_for(group)) for column in _sort_columns(columns)])
    ungrouped_jobs = [job for jobs in pending.values() for job in jobs]
    return Grouping(groups, columns, _common_overrides(discovered.runs), ungrouped_jobs)


def _common_overrides(runs: Sequence[DiscoveredRun]) -> list[str]:
    common = [
        override for override in (runs[0].overrides if runs else ()) if all(override in run.overrides for run in runs)
    ]
    irrelevant = (*IRRELEVANT_TO_RESULT, "seed", "hydra")
    return [override for override in common if re.split(r"[./]", _override_key(override))[0] not in irrelevant]


def _sort_columns(columns: Sequence[SettingColumn]) -> list[SettingColumn]:
    """Columns in the order of sorting: benchmark and scenario first, so that comparable rows are neighbours."""
    first = (*PARENT_FOLDER_GROUPS, "scenario", *METHOD_GROUPS)
    by_name = {column.name: column for column in columns}
    return [by_name[name] for name in first] + [column for column in columns if column.name not in first]


def _distinguishing_columns(groups: Sequence[Group]) -> list[SettingColumn]:
    """The fixed columns, then the settings that are needed to distinguish the groups.

    Groups with different options (dgr, ewc) have different settings anyway. A setting needs a column if it differs
    among groups with the same options, or if it differs and was overridden in some run.
    """
    names = list(dict.fromkeys(name for group in groups for name in group.values))
    overridden = {_override_key(override) for group in groups for run in group.runs for override in run.overrides}
    config_groups = [name for name in names if any(name in group.runs[0].choices for group in groups)]
    needed = [
        name
        for name in names
        if name not in FIXED_COLUMNS and _distinguishes(name, config_groups, groups, name in overridden)
    ]
    return [SettingColumn(name, _short_label(name, names)) for name in (*FIXED_COLUMNS, *needed)]


def _distinguishes(name: str, config_groups: Sequence[str], groups: Sequence[Group], overridden: bool) -> bool:
    parents = [parent for parent in config_groups if parent != name and _dotted(name).startswith(f"{_dotted(parent)}.")]
    deciding = [*parents, *([_DECIDING_GROUP[name]] if name in _DECIDING_GROUP else [])]
    values_by_options: dict[tuple[str, ...], set[str]] = {}
    for group in groups:
        options = tuple(str(group.values.get(config_group)) for config_group in deciding)
        values_by_options.setdefault(options, set()).add(format_value(group.values.get(name, _NO_SETTING)))
    all_values = set().union(*values_by_options.values()) if values_by_options else set()
    return any(len(values) > 1 for values in values_by_options.values()) or (overridden and len(all_values) > 1)


def _dotted(name: str) -> str:
    return name.replace("/", ".")


def _short_label(name: str, names: Sequence[str]) -> str:
    """Shortest suffix of a dotted name that is unique among `names`."""
    parts = _dotted(name).split(".")
    for length in range(1, len(parts)):
        end = ".".join(parts[-length:])
        if len(_names_ending(end, names)) == 1:
            return end
    return name


def _names_ending(end: str, names: Iterable[str]) -> list[str]:
    parts = end.split(".")
    return [name for name in names if _dotted(name).split(".")[-len(parts) :] == parts]


def matching_names(name: str, names: Sequence[str]) -> list[str]:
    """The name itself if it is one of `names`, or else those that end with it: `lr` for `optimizer.lr`."""
    return [name] if name in names else _names_ending(_dotted(name), names)


def _override_key(override: str) -> str:
    return override.lstrip("+~").partition("=")[0]


def format_value(value: Any) -> str:
    """A value as in an override, on one line; `–` for a setting that a group does not have."""
    if value is _NO_SETTING:
        return NO_VALUE
    if isinstance(value, float):
        return f"{value:g}" if float(f"{value:g}") == value else repr(value)
    if isinstance(value, list):
        return "[" + ", ".join(map(format_value, value)) + "]"
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    return one_line(value)


def parse_number(text: str) -> float | None:
    """The number that a text stands for; None for any other text."""
    try:
        return float(text)
    except ValueError:
        return None


def natural_key(text: str) -> tuple[Any, ...]:
    """Sort key: numbers by value, before other texts."""
    number = parse_number(text)
    return (number is None, number or 0.0, text)


# --- warnings


def group_warnings(group: Group, metrics: Sequence[str]) -> list[str]:
    """Warnings about the numbers of a group: unfinished or repeated seeds, undefined values, mixed versions.

    Args:
        group: The group.
        metrics: Metrics of the report.
    """
    seeds_by_state: dict[str, list[int]] = {}
    for seed, run in group.by_seed.items():
        if not run.finished:
            seeds_by_state.setdefault(_describe_state(run), []).append(seed)
    lines = [f"{format_seeds(seeds)} {state}" for state, seeds in seeds_by_state.items()]
    pending_by_state: dict[str, list[int]] = {}
    for job in group.pending:
        pending_by_state.setdefault(job.pending_state, []).append(job.seed_and_identity[0])
    lines += [f"{format_seeds(seeds)} {state}" for state, seeds in pending_by_state.items()]
    for seed, run in group.by_seed.items():
        repeated = [other for other in group.runs if other.seed == seed and other is not run]
        if repeated:
            rule = "newest that finished" if run.finished else "newest"
            lines.append(f"seed {seed} has {len(repeated) + 1} runs; {run.path.name} counts, the {rule}")
    for metric in metrics:
        values = group.metric(metric)
        nan_seeds = [seed for seed, value in values.items() if value != value]
        undefined_seeds = sorted(set(group.finished) - set(values))
        if nan_seeds:
            lines.append(f"{metric} of {format_seeds(nan_seeds)} is NaN")
        if undefined_seeds and values:
            lines.append(f"{metric} of {format_seeds(undefined_seeds)} has no value, and is left out")
    return lines + _audit_differences(group.finished.values()) + _provenance_differences(group.finished.values())


def last_heartbeat(run: DiscoveredRun) -> float:
    """Time of the last update of status.json in seconds since 1970; 0 if a wrong clock puts it in the future."""
    updated = parse_time(run.status.get("updated"))
    return updated.timestamp() if updated is not None and updated.timestamp() < time.time() + _DAY_SECONDS else 0.0


def _describe_state(run: DiscoveredRun) -> str:
    reason = run.status.get("reason")
    return f"{run.state}: {reason}" if reason and run.state == "failed" else run.state


def _audit_differences(runs: Iterable[DiscoveredRun]) -> list[str]:
    """The shadows of the runs' audits, where they differ among runs or have other settings than the runs."""
    audits = [run.audit for run in runs if run.audit is not None]
    described = sorted({str(audit) for audit in audits})
    if len(described) > 1:
        return [f"membership inference differs: {'; '.join(described)}"]
    return [f"membership inference: {described[0]}"] if any(audit.overrides for audit in audits) else []


def _provenance_differences(runs: Iterable[DiscoveredRun]) -> list[str]:
    """Device, mode, torch and commit of the runs, where they differ."""
    statuses = [{**run.status, "torch": run.status.get("versions", {}).get("torch")} for run in runs]
    names = ("device", "mode", "torch", "commit")
    values_by_name = {name: sorted({str(status.get(name)) for status in statuses}) for name in names}
    return [f"{name} differs: {', '.join(values)}" for name, values in values_by_name.items() if len(values) > 1]


def format_seeds(seeds: Iterable[int]) -> str:
    """`seed 3`, or `seeds 0–4, 7`."""
    ordered = sorted(seeds)
    return f"{'seed' if len(ordered) == 1 else 'seeds'} {format_ranges(ordered)}"


def format_ranges(ordered: Iterable[int]) -> str:
    """Ascending numbers as `0–4, 7`."""
    # In a range of consecutive numbers, number minus index is constant.
    ranges = [
        [number for _, number in pairs] for _, pairs in groupby(enumerate(ordered), lambda pair: pair[1] - pair[0])
    ]
    return ", ".join(str(part[0]) if len(part) == 1 else f"{part[0]}–{part[-1]}" for part in ranges)
