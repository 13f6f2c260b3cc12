"""What a run found so far: rows of plain values, from which every table of the run folder is made."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

from gr_cli.results.metrics import DREAMS, JUDGE, TOGETHER, all_metrics, average_accuracy

Table = tuple[list[str], list[list[Any]]]


@dataclass(frozen=True)
class EvaluationRow:
    """One evaluation of one task. `after_task` -1 is before any training; `final`: that task's training was over."""

    after_task: int
    iteration: int
    task: int
    split: str
    accuracy: float
    loss: float | None
    n: int
    final: bool


@dataclass(frozen=True)
class DreamRow:
    """How good `n` dreams of one task are, or of all tasks so far (`task` None), beside so many `real` samples.

    `agreement`: the share of them whose label the judge confirms; `judge`: the share of real samples whose class it
    knows. `share`: how many of all dreams it takes for classes of that task, 1 being as many as are due; `balance`: how
    evenly over these classes. The rest compares them with real samples, see `evaluation/fidelity`. None: no meaning.
    """

    after_task: int
    task: int | None
    n: int
    real: int
    judge: float | None
    agreement: float | None
    share: float
    balance: float | None
    precision: float | None
    recall: float | None
    density: float | None
    coverage: float | None
    frechet: float | None


@dataclass
class Record:
    """Evaluations, dreams, history and timing of a run, in the order in which they came."""

    evaluations: list[EvaluationRow] = field(default_factory=list)
    dreams: list[DreamRow] = field(default_factory=list)
    history: list[dict[str, float]] = field(default_factory=list)
    timing: list[dict[str, float]] = field(default_factory=list)

    def rows(self, split: str = "test") -> dict[int, list[float | None]]:
        """The accuracy matrix: for each training that is over (-1: before any), accuracies by task, None for none."""
        final = [row for row in self.evaluations if row.final and row.split == split]
        width = max((row.task + 1 for row in final), default=0)
        table: dict[int, list[float | None]] = {row.after_task: [None] * width for row in final}
        for row in final:
            table[row.after_task][row.task] = row.accuracy
        return table

    def matrix(self, split: str = "test") -> list[list[float | None]]:
        """Its rows after trainings, without the one before."""
        return [accuracies for after, accuracies in self.rows(split).items() if after >= 0]

    def metrics(self, transfer: bool, parameters: dict[str, int]) -> dict[str, float | None]:
        """All metrics by name. `transfer`: whether accuracies on unseen tasks mean anything."""
        before = self.rows().get(-1) if transfer else None
        found = all_metrics(self.matrix(), before)
        if self.dreams:
            # Whatever comes last is of all tasks together.
            found |= {f"dream_{name}": getattr(self.dreams[-1], name) for name in (JUDGE, *DREAMS)}
        return found | {f"parameters_{name}": n for name, n in parameters.items()}

    # --- tables

    def matrix_table(self) -> Table:
        """accuracy_matrix.csv"""
        rows = {after: accuracies for after, accuracies in self.rows().items() if after >= 0}
        width = max((len(accuracies) for accuracies in rows.values()), default=0)
        return ["after_task", *(f"task_{i}" for i in range(width))], [[after, *a] for after, a in rows.items()]

    def evaluations_table(self) -> Table:
        """evaluations.csv"""
        columns = ["after_task", "iteration", "task", "split", "accuracy", "loss", "n"]
        return columns, [[getattr(row, column) for column in columns] for row in self.evaluations]

    def dreams_table(self) -> Table:
        """dreams.csv"""
        columns = [field.name for field in fields(DreamRow)]
        rows = [[getattr(row, column) for column in columns] for row in self.dreams]
        return columns, [[TOGETHER if value is None and i == 1 else value for i, value in enumerate(r)] for r in rows]

    def history_table(self) -> Table:
        """history.csv: the loss terms are the columns, in the order in which they first came up."""
        return _from_dicts(["task", "iteration"], self.history)

    def timing_table(self) -> Table:
        """timing.csv"""
        return _from_dicts(["task"], self.timing)

    # --- for the checkpoint

    def state_dict(self) -> dict[str, Any]:
        """Plain lists, dicts and numbers."""
        return {
            "evaluations": [asdict(row) for row in self.evaluations],
            "dreams": [asdict(row) for row in self.dreams],
            "history": list(self.history),
            "timing": list(self.timing),
        }

    @classmethod
    def from_state(cls, state: dict[str, Any]) -> Record:
        """The record that gave `state`."""
        return cls(
            [EvaluationRow(**row) for row in state["evaluations"]],
            [DreamRow(**row) for row in state["dreams"]],
            list(state["history"]),
            list(state["timing"]),
        )


@dataclass(frozen=True)
class Result:
    """What a run found, and where it is."""

    folder: Path
    record: Record
    metrics: dict[str, float | None]

    @property
    def score(self) -> float | None:
        """Mean validation accuracy after the last training; None where nothing was held out."""
        return average_accuracy(self.record.matrix("validation"))


def _from_dicts(first: list[str], rows: list[dict[str, float]]) -> Table:
    columns = list(dict.fromkeys([*first, *(key for row in rows for key in row)]))
    return columns, [[row.get(column) for column in columns] for row in rows]
