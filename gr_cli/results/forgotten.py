"""What a run has forgotten on request, as status.json lists it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from gr_cli.config.arguments import matches
from gr_cli.types import NonNegativeInt, PositiveInt

_MAX_NAMED = 20  # classes or tasks in a line


def is_forgotten(entry: Mapping[str, Any]) -> bool:
    """Whether a mapping is an entry of `forgotten` in status.json."""
    names = matches(entry.get("classes"), list[str]) and matches(entry.get("tasks"), list[NonNegativeInt])
    return names and matches(entry.get("samples", 1), PositiveInt) and isinstance(entry.get("at"), str)


def describe_forgotten(entry: Mapping[str, Any]) -> str:
    """What an entry of `forgotten` in status.json names.

    >>> describe_forgotten({"classes": ["3", "7"], "tasks": [1]})
    'classes 3, 7 of task 1'
    """
    what = f"{numbered('class', 'classes', entry['classes'])} of {numbered('task', 'tasks', entry['tasks'])}"
    number = entry.get("samples")
    return what if number is None else f"{number} sample{'s' * (number > 1)} of {what}"


def numbered(one: str, several: str, names: Sequence[object]) -> str:
    """Names in a line, after a noun in singular or plural."""
    return f"{one if len(names) == 1 else several} {listed(names)}"


def listed(names: Sequence[object]) -> str:
    """Names in a line, the first of many."""
    return ", ".join(map(str, names[:_MAX_NAMED])) + (", ..." if len(names) > _MAX_NAMED else "")


def notices(forgotten: Sequence[Mapping[str, Any]]) -> list[str]:
    """A line about each entry, beside tables that were written before."""
    return [
        f"{describe_forgotten(entry)}: forgotten at {entry['at']}; the tables are older and include them"
        for entry in forgotten
    ]
