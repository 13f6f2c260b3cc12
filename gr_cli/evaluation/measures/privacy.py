"""What was spent of a run's privacy budget."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from math import ceil
from typing import Self

from gr_cli.evaluation.base import Evaluation, EvaluationContext
from gr_cli.privacy.claims import ADJACENCY, SIMULATED, guarantee
from gr_cli.privacy.composition import Spent, spent_in_total, spent_on_class, spent_on_task
from gr_cli.privacy.ledger import Ledger
from gr_cli.results.tables import AFTER_TASK, ALL_TASKS, Column, TableFormat, TableRow
from gr_cli.training.experiment import Experiment

_ALL_CLASSES = "all"


def _rounded_up(epsilon: float) -> float:
    """ε with the six decimals of a table, not below its value; rounding errors of sums are ignored."""
    return ceil(epsilon * 1e6 * (1 - 1e-9)) / 1e6


class SpentBudget(Evaluation):
    """ε and δ of each class of the current task, of the task, and of all tasks so far."""

    name = "privacy"
    description = (
        f"Differential privacy ({ADJACENCY}) of the files of a release: what was spent on the samples of each class "
        "and task, and in total. Other files of the run are not covered."
    )
    columns = (
        AFTER_TASK,
        Column("task", f"the task whose samples are protected, from 0; {ALL_TASKS}: all tasks so far", key=True),
        Column("class", f"output unit of the samples; {_ALL_CLASSES}: any", key=True),
        Column("mechanism", "what reads the samples", key=True),
        Column("composition", "how the row follows from single accesses", key=True),
        Column("guarantee", "what the numbers are worth", key=True),
        Column("delta", "δ", key=True),
        Column("epsilon", "ε at this δ, rounded up", direction="lower", metric="privacy_epsilon", minimum=0.0),
    )

    def __init__(self, secure: bool = True) -> None:
        self.secure = secure

    @classmethod
    def applies_to(cls, experiment: Experiment) -> bool:
        return experiment.privacy is not None

    @classmethod
    def prepare(cls, experiment: Experiment) -> Self | None:
        return None if experiment.privacy is None else cls(experiment.privacy.secure)

    def table_of_run(self) -> TableFormat:
        """With seeded noise the description says what it is worth, and the metric is `simulated_epsilon`."""
        table = self.table()
        if self.secure:
            return table
        *keys, epsilon = table.columns
        description = f"{SIMULATED[0].upper()}{SIMULATED[1:]}. {table.description}"
        return replace(table, description=description, columns=(*keys, replace(epsilon, metric="simulated_epsilon")))

    def rows(self, context: EvaluationContext) -> Sequence[TableRow]:
        ledger, task = context.experiment.ledger, context.after_task
        assert ledger is not None
        privacy = ledger.privacy
        accesses = [access for access in ledger.accesses if access.task <= task]
        units = sorted({unit for access in accesses if access.task == task for unit in access.classes})
        spent: list[tuple[int | str, int | str, Spent]] = [
            (task, unit, spent_on_class(accesses, task, unit, privacy.delta)) for unit in units
        ]
        spent.append((task, _ALL_CLASSES, spent_on_task(accesses, task, privacy.delta)))
        spent.append((ALL_TASKS, _ALL_CLASSES, spent_in_total(accesses, privacy)))
        mechanism = _mechanism(ledger)
        return [
            {
                "after_task": task,
                "task": row_task,
                "class": unit,
                "mechanism": mechanism,
                "composition": each.composition,
                "guarantee": guarantee(privacy),
                "delta": f"{each.delta:.6g}",
                "epsilon": _rounded_up(each.epsilon),
            }
            for row_task, unit, each in spent
        ]


def _mechanism(ledger: Ledger) -> str:
    """The mechanisms and what they are used by: `gaussian (generator)`."""
    names = dict.fromkeys(f"{access.mechanism} ({access.part})" for access in ledger.accesses)
    return " + ".join(names) or "none"
