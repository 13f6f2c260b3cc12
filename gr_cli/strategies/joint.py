"""Joint and cumulative training: upper bounds."""

from __future__ import annotations

from gr_cli.strategies.base import Strategy


class Joint(Strategy):
    """Joint training on the samples of all tasks at once: the usual upper bound on accuracy.

    It trains for as many iterations as all tasks have together.
    """

    stores_raw_samples = True
    training_data = "joint"
    boundary_requirement = "trains on all tasks at once"


class Cumulative(Strategy):
    """Training on each task together with all samples of the earlier tasks: an upper bound per task.

    All raw samples are stored.
    """

    stores_raw_samples = True
    training_data = "cumulative"
    reference_for = "intransigence"
    boundary_requirement = "adds a task's samples to its training set when the task begins"
