from __future__ import annotations

from gr_cli.strategies.base import Strategy


class Joint(Strategy):
    """All tasks are trained together, with the budget of all of them: the usual upper bound."""

    all_tasks_at_once = True
