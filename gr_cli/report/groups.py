"""Runs that differ in nothing but the seed are a group; what tells the groups apart makes the columns of a table."""

from __future__ import annotations

import re
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import groupby
from typing import Any

from gr_cli.config.groups import GROUPS, METHOD, NAMING, PARENT_FOLDERS
from gr_cli.config.schema import NOT_IDENTITY
from gr_cli.errors import one_line
from gr_cli.results.discovery import NEVER_BEGUN, Found, FoundRun, Unborn
from gr_cli.results.status_fields import instant

ALWAYS = (*NAMING, "scenario")
_OPTIONS = {group.replace("/", ".") for group in GROUPS}
NONE = "–"
_A_DAY = 24 * 60 * 60.0  # seconds: by so much may clocks differ
_ABSENT = object()  # a group has no such setting
_OWNER = {"evaluate.dreams": "generator"}  # settings that an option decides on which is not above them


@dataclass(frozen=True)
class Group:
    """Runs of one configuration, and the jobs of a sweep that would be such a run."""

    runs: tuple[FoundRun, ...]
    unborn: tuple[Unborn, ...] = ()

    @cached_property
    def values(self) -> dict[str, Any]:
        """Options by group (`strategy`, `strategy/regularizer`, ...) and settings by dotted name."""
        options = {kind: option for kind, option in self.runs[0].choices.items() if kind != "preset"}
        # `generator: null` says no more than that no option was chosen.
        settings = {name: value for name, value in self.runs[0].settings.items() if name not in _OPTIONS}
        return {**settings, **options}

    @cached_property
    def by_seed(self) -> dict[int, FoundRun]:
        """The run of each seed that counts: a finished one before others, and of several the newest."""
        order = sorted(self.runs, key=lambda run: (run.finished, last_sign(run), str(run.path)))
        return dict(sorted({run.seed: run for run in order}.items()))

    @cached_property
    def finished(self) -> dict[int, FoundRun]:
        """Those of them that have results, by seed."""
        return {seed: run for seed, run in self.by_seed.items() if run.finished}

    def seeds_with(self, table: str) -> list[int]:
        """The seeds whose table could be read."""
        return [seed for seed, run in self.finished.items() if table not in run.broken]

    def metric(self, name: str) -> dict[int, float]:
        """A metric by seed, where it has a meaning."""
        found = {seed: (run.metrics or {}).get(name) for seed, run in self.finished.items()}
        return {seed: value for seed, value in found.items() if value is not None}

    @cached_property
    def unborn_seeds(self) -> list[int]:
        """Seeds of jobs that never began."""
        return sorted(job.seed_and_identity[0] for job in self.unborn if job.seed_and_identity)

    @cached_property
    def seeds(self) -> set[int]:
        """All seeds that were asked for, as far as the folders tell."""
        return {*self.by_seed, *self.unborn_seeds}


@dataclass(frozen=True)
class Column:
    """`name`: of an option's group or a setting, in full. `label`: as short as can be without doubt."""

    name: str
    label: str

    def of(self, group: Group) -> str:
        """What it says of `group`."""
        return shown(group.values.get(self.name, _ABSENT))


@dataclass(frozen=True)
class Grouping:
    """The groups in order, what tells them apart, and what was typed for every one of them."""

    groups: list[Group]
    columns: list[Column]
    everywhere: list[str]
    homeless: list[Unborn]  # jobs that never began, of no group that has a run

    def label(self, group: Group) -> str:
        """A group in a few words: what tells it apart."""
        telling = [c for c in self.columns if c.name == "strategy" or len({c.of(g) for g in self.groups}) > 1]
        words = [(c, c.of(group)) for c in telling]
        return " · ".join(value if c.name in NAMING else f"{c.label}={value}" for c, value in words if value != NONE)


def grouped(found: Found) -> Grouping:
    """Put runs of one configuration together."""
    runs: dict[str, list[FoundRun]] = {}
    for run in found.runs:
        runs.setdefault(run.identity, []).append(run)
    unborn: dict[str, list[Unborn]] = {}
    for job in found.unborn:
        unborn.setdefault(job.seed_and_identity[1] if job.seed_and_identity else "", []).append(job)
    groups = [Group(tuple(mine), tuple(unborn.pop(identity, ()))) for identity, mine in runs.items()]
    columns = _columns(groups)
    groups.sort(key=lambda group: [_natural(column.of(group)) for column in _for_order(columns)])
    words = [word for run in found.runs[:1] for word in run.overrides if all(word in r.overrides for r in found.runs)]
    everywhere = [word for word in words if re.split(r"[./]", _key(word))[0] not in (*NOT_IDENTITY, "seed", "hydra")]
    return Grouping(groups, columns, everywhere, [job for jobs in unborn.values() for job in jobs])


def _for_order(columns: Sequence[Column]) -> list[Column]:
    """Rows that can be compared stand together."""
    first = (*PARENT_FOLDERS, "scenario", *METHOD)
    by_name = {column.name: column for column in columns}
    return [by_name[name] for name in first] + [column for column in columns if column.name not in first]


def _columns(groups: Sequence[Group]) -> list[Column]:
    """The four that are always there, then whatever else the reader must know to tell the groups apart.

    That a value differs is explained by another option of its group: dgr and ewc have other settings. It needs a column
    if it differs among groups of the same options, or was typed for some.
    """
    names = list(dict.fromkeys(name for group in groups for name in group.values))
    typed = {_key(word) for group in groups for run in group.runs for word in run.overrides}
    kinds = [name for name in names if any(name in group.runs[0].choices for group in groups)]
    telling = [name for name in names if name not in ALWAYS and _tells(name, kinds, groups, name in typed)]
    return [Column(name, _short(name, names)) for name in (*ALWAYS, *telling)]


def _tells(name: str, kinds: Sequence[str], groups: Sequence[Group], typed: bool) -> bool:
    above = [kind for kind in kinds if kind != name and _dotted(name).startswith(f"{_dotted(kind)}.")]
    owners = [*above, *([_OWNER[name]] if name in _OWNER else [])]
    values: dict[tuple[str, ...], set[str]] = {}
    for group in groups:
        options = tuple(str(group.values.get(kind)) for kind in owners)
        values.setdefault(options, set()).add(shown(group.values.get(name, _ABSENT)))
    everywhere = set().union(*values.values()) if values else set()
    return any(len(mine) > 1 for mine in values.values()) or (typed and len(everywhere) > 1)


def _dotted(name: str) -> str:
    return name.replace("/", ".")


def _short(name: str, names: Sequence[str]) -> str:
    """The shortest end of a dotted name that no other one has."""
    parts = _dotted(name).split(".")
    for length in range(1, len(parts)):
        end = parts[-length:]
        if sum(_dotted(other).split(".")[-length:] == end for other in names) == 1:
            return ".".join(end)
    return name


def _key(word: str) -> str:
    return word.lstrip("+~").partition("=")[0]


def shown(value: Any) -> str:
    """A value as a reader would write it, on one line; – where there is none."""
    if value is _ABSENT:
        return NONE
    if isinstance(value, float):
        return f"{value:g}" if float(f"{value:g}") == value else repr(value)
    if isinstance(value, list):
        return "[" + ", ".join(map(shown, value)) + "]"
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    return one_line(value)


def as_number(text: str) -> float | None:
    """None if it is none."""
    try:
        return float(text)
    except ValueError:
        return None


def _natural(text: str) -> tuple[Any, ...]:
    """Sorts numbers by their size, before words."""
    number = as_number(text)
    return (number is None, number or 0.0, text)


# --- what a reader must know of a group besides its numbers


def notes(group: Group, others: Sequence[Group], metrics: Sequence[str]) -> list[str]:
    """What is missing from a group's numbers or not as it seems, a line each. `others`: what it is compared with."""
    lines = [f"seed {seed} {_became(run)}" for seed, run in group.by_seed.items() if not run.finished]
    if group.unborn_seeds:
        lines.append(f"{seeds_shown(group.unborn_seeds)} {NEVER_BEGUN}")
    missing = set().union(*(other.seeds for other in others)) - group.seeds
    if missing:
        lines.append(f"no run of {seeds_shown(missing)}, which others have")
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
            lines.append(f"{metric} of {seeds_shown(broken)} is NaN")
        if empty and values:
            lines.append(f"{metric} of {seeds_shown(empty)} has no value, and is left out")
    return lines + _mixed(group.finished.values())


def last_sign(run: FoundRun) -> float:
    """When a run last gave a sign of life, in seconds since 1970; 0 where a clock was wrong and nothing can be told."""
    then = instant(run.status.get("updated"))
    return then.timestamp() if then is not None and then.timestamp() < time.time() + _A_DAY else 0.0


def _became(run: FoundRun) -> str:
    reason = run.status.get("reason")
    return f"{run.state}: {reason}" if reason and run.state == "failed" else run.state


def _mixed(runs: Iterable[FoundRun]) -> list[str]:
    """Whether runs of one configuration were made by different programs, or trained in different ways."""
    facts = [{**run.status, "torch": run.status.get("versions", {}).get("torch")} for run in runs]
    found = {name: sorted({str(known.get(name)) for known in facts}) for name in ("device", "mode", "torch", "commit")}
    return [f"{name} differs: {', '.join(values)}" for name, values in found.items() if len(values) > 1]


def seeds_shown(seeds: Iterable[int]) -> str:
    """`seed 3`, or `seeds 0–4, 7`."""
    ordered = sorted(seeds)
    # Seeds that follow each other are as far from their places in the list.
    parts = [[seed for _, seed in part] for _, part in groupby(enumerate(ordered), lambda pair: pair[1] - pair[0])]
    text = ", ".join(str(part[0]) if len(part) == 1 else f"{part[0]}–{part[-1]}" for part in parts)
    return f"seed {text}" if len(ordered) == 1 else f"seeds {text}"
