"""Canaries of a run: lower bounds on ε, beside what the run's ledger accounts for."""

from __future__ import annotations

import csv
import io
from pathlib import Path

from gr_cli.errors import FolderError
from gr_cli.evaluation.canary_audit import CanaryResult, audit_scores
from gr_cli.results.membership_scores import MembershipScores, membership_files
from gr_cli.results.stored_config import stored_settings
from gr_cli.results.tables import AFTER_TASK, ALL_TASKS, TASK, CellValue, Column, MeasuredTable, TableFormat
from gr_cli.system.reading import read_text

CONFIDENCE = 0.99  # of each bound alone

CANARY_TABLE = TableFormat(
    "canaries",
    "Lower bounds on ε from canaries that independent coin flips included (Steinke et al. 2023), beside the accounted "
    "upper bound. Each bound alone holds at its confidence.",
    (
        AFTER_TASK,
        Column("part", "what is attacked", key=True),
        Column("score", "what the canaries are ranked by", key=True),
        TASK,
        Column("canaries", "number of canaries"),
        Column("guesses", "number of guesses of the best bound; the attacker abstains from the other canaries"),
        Column("correct", "correct guesses"),
        Column("epsilon_at_least", "lower bound on ε", direction="lower", minimum=0.0),
        Column("largest", "largest lower bound that so many canaries can give"),
        Column("accounted", "upper bound on ε by privacy.csv; empty for a run that claims nothing", minimum=0.0),
        Column("delta", "δ of both bounds"),
        Column("confidence", "probability that ε is at least the lower bound", minimum=0.0),
    ),
)


def canary_table(path: Path, trust: tuple[str, ...] = (), confidence: float = CONFIDENCE) -> MeasuredTable:
    """The bounds of a run, after each of its tasks.

    Args:
        path: Folder of a run with `canaries.count`.
        trust: Names of code that the run's settings may import.
        confidence: Of each bound alone.

    Raises:
        FolderError: The run has no canaries, or no task is finished.
    """
    config = stored_settings(path, trust).config
    files = membership_files(path)
    if config["canaries"]["count"] is None:
        raise FolderError(f"{path}: has no canaries; train a run with canaries.count=500, for example")
    if not files:
        raise FolderError(f"{path}: no task is finished; continue it with gr-run resume={path}")
    delta, accounted = float(config["privacy"]["delta"]), _accounted(path)
    table = MeasuredTable(CANARY_TABLE)
    for file in files.values():
        for result in audit_scores(MembershipScores.load(file), delta, 1 - confidence):
            table.rows.append(_row(result, accounted, confidence))
    return table


def _row(result: CanaryResult, accounted: dict[tuple[str, str], float], confidence: float) -> dict[str, CellValue]:
    bound = result.bound
    task = ALL_TASKS if result.task is None else result.task
    # The budget of a task is spent in it, that of all tasks by the last of them.
    key = (str(result.after_task), ALL_TASKS) if result.task is None else (str(task), str(task))
    return {
        "after_task": result.after_task,
        "part": result.part,
        "score": result.score,
        "task": task,
        "canaries": bound.guesses.canaries,
        "guesses": bound.guesses.total,
        "correct": bound.guesses.correct,
        "epsilon_at_least": bound.epsilon,
        "largest": bound.largest,
        "accounted": accounted.get(key),
        "delta": f"{bound.delta:g}",
        "confidence": confidence,
    }


def _accounted(path: Path) -> dict[tuple[str, str], float]:
    """ε of privacy.csv by the columns `after_task` and `task`; empty for a run without a claim."""
    file = next((file for file in (path / "privacy.csv",) if file.is_file()), None)
    if file is None:
        return {}
    rows = csv.DictReader(io.StringIO(read_text(file)))
    return {(row["after_task"], row["task"]): float(row["epsilon"]) for row in rows if row["class"] == "all"}
