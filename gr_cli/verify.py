"""A run repeated elsewhere: does it come out the same?"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, replace
from itertools import zip_longest
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from gr_cli.errors import FolderError
from gr_cli.experiment import run
from gr_cli.results.folder import RESULTS, RunFolder
from gr_cli.results.load import settings_of
from gr_cli.settings import flat
from gr_cli.view import View

# How far a figure may be off where runs were trained together, whose arithmetic rounds otherwise.
_TOLERANCE = 0.02
# What status.json tells that may explain a difference.
_CAUSES = ("data", "versions", "device", "threads", "commit", "mode")


@dataclass(frozen=True)
class Verdict:
    """Whether all tables came out the same, and what there is to say of them."""

    same: bool
    lines: list[str]


def verify(path: Path, view: View, trust: Collection[str] = ()) -> Verdict:
    """Repeat the finished run in `path` in a folder that is thrown away, with the threads that it had, and compare
    all tables but those of the clock.

    A run that was trained alone must come out the same byte for byte, one that was trained together with others
    within 2 points of accuracy; that is, its accuracy matrix.

    Raises:
        FolderError: there is no run in `path`, or it is not finished.
    """
    settings, folder = settings_of(path, trust), RunFolder(path)
    if (state := folder.state()) != "finished":
        raise FolderError(f"{path}: can't be verified, it is {state}; finish it with resume={path}")
    before = folder.status() or {}
    config = settings.config | {"threads": before.get("threads", settings.config["threads"])}
    with TemporaryDirectory(prefix="gr-verify-") as place:
        again = RunFolder(Path(place) / path.resolve().name)
        run(replace(settings, config=config), again, view)
        alone = before.get("mode") == "alone"
        names = [name for name in RESULTS if (path / name).exists() or (again.path / name).exists()]
        found = {name: _differs(path / name, again.path / name) for name in names}
        same = not any(found.values()) if alone else _matrices_agree(path, again.path)
        lines = [f"{name}: {difference or 'the same byte for byte'}" for name, difference in found.items()]
        return Verdict(same, [*lines, *_said(same, alone, before, again.status() or {})])


def _said(same: bool, alone: bool, before: dict[str, Any], now: dict[str, Any]) -> list[str]:
    """The verdict in words, and what may explain a difference."""
    if same:
        return ["verified: " + ("all tables come out the same" if alone else _TOGETHER)]
    causes = [flat({name: status.get(name) for name in _CAUSES}) for status in (before, now)]
    other = [
        f"{name} was {causes[0].get(name)} and is {now}"
        for name, now in causes[1].items()
        if causes[0].get(name) not in (None, now)
    ]
    return ["NOT the same" + (f"; what else differs: {', '.join(other)}" if other else "")]


_TOGETHER = f"trained together with others, and alone the same within {100 * _TOLERANCE:g} points of accuracy"


def _differs(one: Path, other: Path) -> str:
    """Where two tables differ first; empty if they are the same byte for byte."""
    if not (one.exists() and other.exists()):
        return "is missing" if other.exists() else "is there, and does not come out again"
    if one.read_bytes() == other.read_bytes():
        return ""
    for number, (a, b) in enumerate(zip_longest(_rows(one), _rows(other)), 1):
        if a != b:
            return f"differs from row {number} on: {a or 'nothing'} there, {b or 'nothing'} here"
    return "differs in form, not in content"


def _rows(path: Path) -> list[str]:
    return path.read_text(encoding="utf-8").splitlines()


def _matrices_agree(one: Path, other: Path) -> bool:
    mine, theirs = ([row.split(",") for row in _rows(path / "accuracy_matrix.csv")[1:]] for path in (one, other))
    return list(map(len, mine)) == list(map(len, theirs)) and all(
        a == b or ("" not in (a, b) and abs(float(a) - float(b)) <= _TOLERANCE)
        for mine_row, their_row in zip(mine, theirs, strict=True)
        for a, b in zip(mine_row, their_row, strict=True)
    )
