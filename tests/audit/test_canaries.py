"""The table of canaries: bounds beside the accounted budget."""

from pathlib import Path

import pytest

from gr_cli.audit.canaries import canary_table
from gr_cli.errors import FolderError

TINY = ("train.iterations=4", "log.every=2", "evaluate.generated_samples=0", "threads=1", "train.tasks=2")


def test_bounds_stand_beside_the_accounted_budget(made):
    folder = made(*TINY, "strategy=finetune", "canaries.count=20")
    assert all(row["accounted"] is None and row["epsilon_at_least"] >= 0 for row in canary_table(folder).rows)
    (folder / "privacy.csv").write_text(
        "after_task,task,class,delta,epsilon\n0,0,0,1e-05,0.2\n0,0,all,1e-05,0.5\n0,all,all,1e-05,0.6\n"
        "1,1,all,1e-05,0.7\n1,all,all,1e-05,0.8\n",
        encoding="utf-8",
    )
    table = canary_table(folder)
    accounted = [(row["after_task"], row["task"], row["accounted"]) for row in table.rows]
    assert accounted == [(0, 0, 0.5), (1, 0, 0.5), (1, 1, 0.7), (1, "all", 0.8)]
    assert [row["canaries"] for row in table.rows] == [20, 20, 20, 40]
    assert table.csv_text().startswith("after_task,part,score,task,canaries,guesses,correct,epsilon_at_least,largest")


def test_a_lower_confidence_gives_larger_bounds(made):
    folder = made(*TINY, "strategy=finetune", "canaries.count=20")
    certain, less_certain = (canary_table(folder, confidence=confidence).rows for confidence in (0.99, 0.5))
    assert all(a["largest"] < b["largest"] for a, b in zip(certain, less_certain, strict=True))


def test_runs_without_canaries_are_refused(made):
    folder = made(*TINY, "strategy=finetune")
    with pytest.raises(FolderError, match="has no canaries"):
        canary_table(folder)


def test_runs_without_a_finished_task_are_refused(made):
    folder: Path = made(*TINY, "strategy=finetune", "canaries.count=20")
    for file in folder.glob("membership_scores_*"):
        file.unlink()
    with pytest.raises(FolderError, match="no task is finished"):
        canary_table(folder)
