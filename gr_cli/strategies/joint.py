from __future__ import annotations

from gr_cli.strategies.base import Strategy


class Joint(Strategy):
    """All tasks are trained together, with the budget of all of them: the usual upper bound."""

    stores_raw_samples = True
    training_data = "joint"
    boundary_requirement = "trains on all tasks at once, and has no stream"


class Cumulative(Strategy):
    """Each task is trained together with all earlier ones, whose samples are kept: an upper bound with a history."""

    stores_raw_samples = True
    training_data = "cumulative"
    boundary_requirement = "begins anew, with all samples so far, when a task begins"
