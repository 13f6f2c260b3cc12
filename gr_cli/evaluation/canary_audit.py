"""Lower bounds on ε from the scores of a run's canaries, task by task and over all tasks."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from gr_cli.evaluation.attacks.canaries import CanaryBound, audit_canaries
from gr_cli.results.membership_scores import MembershipScores

GUESSED_SHARES = (0.1, 0.3, 1.0)  # of the canaries, each tried at a third of the error


@dataclass(frozen=True)
class CanaryResult:
    """The lower bound of one part of a run.

    Attributes:
        after_task: Task that was trained last.
        part: The attacked part, `solver` or `generator`.
        score: Kind of the score.
        task: Task of the canaries; None: all tasks so far.
        bound: The bound, alone at its confidence.
    """

    after_task: int
    part: str
    score: str
    task: int | None
    bound: CanaryBound


def audit_scores(scores: MembershipScores, delta: float, error: float) -> Iterator[CanaryResult]:
    """The bounds from the scores after one task: of each task's canaries, and of all where there are several tasks.

    Scores of different tasks and labels are made comparable by their median and mean absolute deviation, which the coin
    flips enter only through the scores.

    Args:
        scores: Scores of canaries.
        delta: δ at which ε is bounded.
        error: Largest probability of each bound to be above ε.
    """
    included, tasks = torch.from_numpy(scores.is_member), torch.from_numpy(scores.task).long()
    groups = tasks * (int(scores.label.max()) + 1) + torch.from_numpy(scores.label).long()
    for part, of_part in scores.parts.items():
        values = torch.from_numpy(of_part.values).double()
        if values.isnan().all():
            continue
        comparable = _standardised(values.nan_to_num(nan=float(values.nanmedian())), groups)
        selections: list[tuple[int | None, Tensor]] = [(int(task), tasks == task) for task in tasks.unique()]
        selections += [(None, torch.ones_like(included))] if len(selections) > 1 else []
        for task, selected in selections:
            number = int(selected.sum())
            guesses = sorted({max(1, round(share * number)) for share in GUESSED_SHARES})
            bound = audit_canaries(comparable[selected], included[selected], guesses, delta, error)
            yield CanaryResult(scores.after_task, part, of_part.kind, task, bound)


def _standardised(values: Tensor, groups: Tensor) -> Tensor:
    """The values of each group minus their median, divided by their mean absolute deviation from it."""
    result = torch.zeros_like(values)
    for group in groups.unique():
        own = groups == group
        centred = values[own] - values[own].median()
        result[own] = centred / centred.abs().mean().clamp(min=torch.finfo(values.dtype).tiny)
    return result
