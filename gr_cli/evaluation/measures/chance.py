"""Accuracy of random guesses."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from gr_cli.evaluation.base import Evaluation, EvaluationContext
from gr_cli.results.tables import AFTER_TASK, FRACTION, Column, TableRow


class Chance(Evaluation):
    """Expected accuracy of guesses drawn uniformly among the competing output units; exact, not simulated."""

    name = "chance"
    description = (
        "Expected accuracy of random guesses: 1 / number of output units that compete on a task's test samples, mean "
        "over the tasks so far."
    )
    columns = (AFTER_TASK, Column("accuracy", "of random guesses", FRACTION, "none", metric="chance_accuracy"))

    def rows(self, context: EvaluationContext) -> Sequence[TableRow]:
        if not context.covers_tasks_so_far:
            return []
        units = torch.stack([context.competing_units(task.id) for task in context.tasks_so_far])
        return [{"after_task": context.after_task, "accuracy": units.sum(1).double().reciprocal().mean().item()}]
