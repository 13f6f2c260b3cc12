"""Runs that differ in nothing but the seed are a group; what tells the groups apart makes the columns of a table."""

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
from gr_cli.results.discovery import NOT_STARTED, DiscoveredRun, DiscoveredRuns, PendingJob
from gr_cli.results.status_fields import parse_time

FIXED_COLUMNS = (*NAME_GROUPS, "scenario")
_OPTIONS = {group.replace("/", ".") for group in GROUPS}
NO_VALUE = "–"
_DAY_SECONDS = 24 * 60 * 60.0  # seconds: by so much may clocks differ
_NO_SETTING = object()  # a group has no such setting
_DECIDING_GROUP = {
    "evaluate.generated_samples": "generator"
}  # settings that an option decides on which is not above them


@dataclass(frozen=True)
class Group:
    """Runs of one configuration, and the jobs of a sweep that would be such a run."""

    runs: tuple[DiscoveredRun, ...]
    pending: tuple[PendingJob, ...] = ()

    @cached_property
    def values(self) -> dict[str, Any]:
        """Options by group (`strategy`, `strategy/regularizer`, ...) and settings by dotted name."""
        options = {kind: option for kind, option in self.runs[0].choices.items() if kind != "preset"}
        # `generator: null` says no more than that no option was chosen.
        settings = {name: value for name, value in self.runs[0].settings.items() if name not in _OPTIONS}
        return {**settings, **options}

    @cached_property
    def by_seed(self) -> dict[int, DiscoveredRun]:
        """The run of each seed that counts: a finished one before others, and of several the newest."""
        order = sorted(self.runs, key=lambda run: (run.finished, last_heartbeat(run), str(run.path)))
        return dict(sorted({run.seed: run for run in order}.items()))

    @cached_property
    def finished(self) -> dict[int, DiscoveredRun]:
        """Those of them that have results, by seed."""
        return {seed: run for seed, run in self.by_seed.items() if run.finished}

    def seeds_with(self, table: str) -> list[int]:
        """The seeds whose table could be read."""
        return [seed for seed, run in self.finished.items() if table not in run.unreadable_files]

    def metric(self, name: str) -> dict[int, float]:
        """A metric by seed, where it has a meaning."""
        found = {seed: (run.metrics or {}).get(name) for seed, run in self.finished.items()}
        return {seed: value for seed, value in found.items() if value is not None}

    @cached_property
    def pending_seeds(self) -> list[int]:
        """Seeds of jobs that never began."""
        return sorted(job.seed_and_identity[0] for job in self.pending if job.seed_and_identity)

    @cached_property
    def seeds(self) -> set[int]:
        """All seeds that were asked for, as far as the folders tell."""
        return {*self.by_seed, *self.pending_seeds}


@dataclass(frozen=True)
class SettingColumn:
    """`name`: of an option's group or a setting, in full. `label`: as short as can be without doubt."""

    name: str
    label: str

    def text_for(self, group: Group) -> str:
        """What it says of `group`."""
        return format_value(group.values.get(self.name, _NO_SETTING))


@dataclass(frozen=True)
class Grouping:
    """The groups in order, what tells them apart, and what was typed for every one of them."""

    groups: list[Group]
    columns: list[SettingColumn]
    common_overrides: list[str]
    ungrouped_jobs: list[PendingJob]  # jobs that never began, of no group that has a run

    def label(self, group: Group) -> str:
        """A group in a few words: what tells it apart."""
        telling = [c for c in self.columns if c.name == "strategy" or len({c.text_for(g) for g in self.groups}) > 1]
        words = [(c, c.text_for(group)) for c in telling]
        return " · ".join(
            value if c.name in NAME_GROUPS else f"{c.label}={value}" for c, value in words if value != NO_VALUE
        )


def group_runs(discovered: DiscoveredRuns) -> Grouping:
    """Put runs of one configuration together."""
    runs: dict[str, list[DiscoveredRun]] = {}
    for run in discovered.runs:
        runs.setdefault(run.identity, []).append(run)
    unborn: dict[str, list[PendingJob]] = {}
    for job in discovered.pending:
        unborn.setdefault(job.seed_and_identity[1] if job.seed_and_identity else "", []).append(job)
    groups = [Group(tuple(mine), tuple(unborn.pop(identity, ()))) for identity, mine in runs.items()]
    columns = _distinguishing_columns(groups)
    groups.sort(key=lambda group: [_natural_key(column.text_for(group)) for column in _sort_columns(columns)])
    words = [
        word
        for run in discovered.runs[:1]
        for word in run.overrides
        if all(word in r.overrides for r in discovered.runs)
    ]
    everywhere = [
        word
        for word in words
        if re.split(r"[./]", _override_key(word))[0] not in (*IRRELEVANT_TO_RESULT, "seed", "hydra")
    ]
    return Grouping(groups, columns, everywhere, [job for jobs in unborn.values() for job in jobs])


def _sort_columns(columns: Sequence[SettingColumn]) -> list[SettingColumn]:
    """Rows that can be compared stand together."""
    first = (*PARENT_FOLDER_GROUPS, "scenario", *METHOD_GROUPS)
    by_name = {column.name: column for column in columns}
    return [by_name[name] for name in first] + [column for column in columns if column.name not in first]


def _distinguishing_columns(groups: Sequence[Group]) -> list[SettingColumn]:
    """The four that are always there, then whatever else the reader must know to tell the groups apart.

    That a value differs is explained by another option of its group: dgr and ewc have other settings. It needs a column
    if it differs among groups of the same options, or was typed for some.
    """
    names = list(dict.fromkeys(name for group in groups for name in group.values))
    typed = {_override_key(word) for group in groups for run in group.runs for word in run.overrides}
    kinds = [name for name in names if any(name in group.runs[0].choices for group in groups)]
    telling = [
        name for name in names if name not in FIXED_COLUMNS and _distinguishes(name, kinds, groups, name in typed)
    ]
    return [SettingColumn(name, _short_label(name, names)) for name in (*FIXED_COLUMNS, *telling)]


def _distinguishes(name: str, kinds: Sequence[str], groups: Sequence[Group], typed: bool) -> bool:
    above = [kind for kind in kinds if kind != name and _dotted(name).startswith(f"{_dotted(kind)}.")]
    owners = [*above, *([_DECIDING_GROUP[name]] if name in _DECIDING_GROUP else [])]
    values: dict[tuple[str, ...], set[str]] = {}
    for group in groups:
        options = tuple(str(group.values.get(kind)) for kind in owners)
        values.setdefault(options, set()).add(format_value(group.values.get(name, _NO_SETTING)))
    everywhere = set().union(*values.values()) if values else set()
    return any(len(mine) > 1 for mine in values.values()) or (typed and len(everywhere) > 1)


def _dotted(name: str) -> str:
    return name.replace("/", ".")


def _short_label(name: str, names: Sequence[str]) -> str:
    """The shortest end of a dotted name that no other one has."""
    parts = _dotted(name).split(".")
    for length in range(1, len(parts)):
        end = parts[-length:]
        if sum(_dotted(other).split(".")[-length:] == end for other in names) == 1:
            return ".".join(end)
    return name


def _override_key(word: str) -> str:
    return word.lstrip("+~").partition("=")[0]


def format_value(value: Any) -> str:
    """A value as a reader would write it, on one line; – where there is none."""
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
    """None if it is none."""
    try:
        return float(text)
    except ValueError:
        return None


def _natural_key(text: str) -> tuple[Any, ...]:
    """Sorts numbers by their size, before words."""
    number = parse_number(text)
    return (number is None, number or 0.0, text)


# --- what a reader must know of a group besides its numbers


def group_warnings(group: Group, others: Sequence[Group], metrics: Sequence[str]) -> list[str]:
    """What is missing from a group's numbers or not as it seems, a line each. `others`: what it is compared with."""
    lines = [f"seed {seed} {_describe_state(run)}" for seed, run in group.by_seed.items() if not run.finished]
    if group.pending_seeds:
        lines.append(f"{format_seeds(group.pending_seeds)} {NOT_STARTED}")
    missing = set().union(*(other.seeds for other in others)) - group.seeds
    if missing:
        lines.append(f"no run of {format_seeds(missing)}, which others have")
    for seed, run in group.by_seed.items():
        doubles = [other for other in group.runs if other.seed == seed and other is not run]
        if doubles:
            which = "newest that finished" if run.finished else "newest"
            lines.append(f"seed {seed} has {len(doubles) + 1} runs; {run.path.name} counts, the {which}")
    for metric in metrics:
        values = group.metric(metric)
        broken = [seed for seed, value in values.items() if value != value]
        empty = sorted(set(group.finished) - set(values))
        if broken:
            lines.append(f"{metric} of {format_seeds(broken)} is NaN")
        if empty and values:
            lines.append(f"{metric} of {format_seeds(empty)} has no value, and is left out")
    return lines + _provenance_differences(group.finished.values())


def last_heartbeat(run: DiscoveredRun) -> float:
    """When a run last gave a sign of life, in seconds since 1970; 0 where a clock was wrong and nothing can be told."""
    then = parse_time(run.status.get("updated"))
    return then.timestamp() if then is not None and then.timestamp() < time.time() + _DAY_SECONDS else 0.0


def _describe_state(run: DiscoveredRun) -> str:
    reason = run.status.get("reason")
    return f"{run.state}: {reason}" if reason and run.state == "failed" else run.state


def _provenance_differences(runs: Iterable[DiscoveredRun]) -> list[str]:
    """Whether runs of one configuration were made by different programs, or trained in different ways."""
    facts = [{**run.status, "torch": run.status.get("versions", {}).get("torch")} for run in runs]
    found = {name: sorted({str(known.get(name)) for known in facts}) for name in ("device", "mode", "torch", "commit")}
    return [f"{name} differs: {', '.join(values)}" for name, values in found.items() if len(values) > 1]


def format_seeds(seeds: Iterable[int]) -> str:
    """`seed 3`, or `seeds 0–4, 7`."""
    ordered = sorted(seeds)
    # Seeds that follow each other are as far from their places in the list.
    parts = [[seed for _, seed in part] for _, part in groupby(enumerate(ordered), lambda pair: pair[1] - pair[0])]
    text = ", ".join(str(part[0]) if len(part) == 1 else f"{part[0]}–{part[-1]}" for part in parts)
    return f"seed {text}" if len(ordered) == 1 else f"seeds {text}"
