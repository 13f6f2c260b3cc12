"""What components fit on samples of several classes or tasks together, which can't forget some of them."""

from __future__ import annotations

from typing import NamedTuple


class SharedFit(NamedTuple):
    """A fit of which no part belongs to a single class of a task, so that `gr-run forget=` refuses to forget one."""

    reason: str
    """What is fitted on what, as a clause: `the solver is trained by gradient steps`."""
    remedy: str = ""
    """Settings without such a fit, if there are any."""
    first_task_only: bool = False
    """Whether it depends on the samples of the first task alone, so that those of later tasks can be forgotten."""
