"""What components fit on samples of several classes or tasks together, which can't forget some of them."""

from __future__ import annotations

from typing import Literal, NamedTuple


class SharedFit(NamedTuple):
    """A fit of which no part belongs to a single class of a task, so that `gr-run forget=` refuses to forget one."""

    reason: str
    """What is fitted on what, as a clause: `the solver is trained by gradient steps`."""
    remedy: str = ""
    """Settings without such a fit, if there are any."""
    scope: Literal["all", "first_task", "task"] = "all"
    """Samples that it depends on: all; those of the first task, so that those of later ones can be forgotten; or, in
    each task, those of the task, so that whole tasks can be forgotten."""
