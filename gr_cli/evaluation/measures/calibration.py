"""Calibration of the solver's confidence (Guo et al. 2017)."""

from __future__ import annotations

from collections.abc import Sequence
from math import isfinite

import torch
from torch import Tensor

from gr_cli.evaluation.base import Evaluation, EvaluationContext
from gr_cli.results.tables import AFTER_TASK, ALL_TASKS, COUNT, FRACTION, TASK, Column, TableRow
from gr_cli.training.scoring import Predictions

NUM_BINS = 15


class Calibration(Evaluation):
    """Expected calibration error and negative log-likelihood of each task so far, and of all pooled."""

    name = "calibration"
    description = (
        "Calibration of the solver's confidence, its highest probability among the competing units. Outputs that are "
        "not logits (nearest class means, likelihoods) are treated as logits."
    )
    columns = (
        AFTER_TASK,
        TASK,
        COUNT,
        Column("ece", f"expected calibration error, {NUM_BINS} equally wide bins of the confidence", FRACTION, "lower"),
        Column("nll", "negative log-likelihood of the label; empty where that is infinite", "nats", "lower"),
    )

    def rows(self, context: EvaluationContext) -> Sequence[TableRow]:
        after = context.after_task
        by_task = {
            task.id: _log_probabilities(context.predictions(task), context.competing_units(task.id))
            for task in context.tasks_so_far
        }
        pooled = [torch.cat(column) for column in zip(*by_task.values(), strict=True)]
        rows = [_row(after, task, log_p, y) for task, (log_p, y) in by_task.items()]
        return [*rows, _row(after, ALL_TASKS, *pooled)]


def _log_probabilities(answers: Predictions, units: Tensor) -> tuple[Tensor, Tensor]:
    """Log-probabilities (N, U) in double precision, -inf for units that don't compete, and labels (N,)."""
    logits, y = (torch.cat(column) for column in zip(*answers, strict=True))
    return logits.double().masked_fill(~units, -torch.inf).log_softmax(1), y


def _row(after_task: int, task: int | str, log_p: Tensor, y: Tensor) -> TableRow:
    nll = -log_p.gather(1, y.unsqueeze(1)).mean().item()
    return {
        "after_task": after_task,
        "task": task,
        "n": len(y),
        "ece": expected_calibration_error(log_p.exp(), y),
        "nll": nll if isfinite(nll) else None,
    }


def expected_calibration_error(p: Tensor, y: Tensor, num_bins: int = NUM_BINS) -> float | None:
    """Expected calibration error of probabilities (N, U) (Guo et al. 2017, eq. 3).

    |accuracy - mean confidence|, averaged over bins ((b-1)/bins, b/bins] of the confidence, weighted by their samples.

    Returns:
        None without samples, or if a probability is not finite.
    """
    if len(y) == 0 or not p.isfinite().all():
        return None
    confidence, predicted = p.max(1)
    bin_index = (confidence * num_bins).ceil().clamp(1, num_bins).long() - 1
    gap = torch.zeros(num_bins, dtype=torch.float64, device=p.device)
    gap.index_add_(0, bin_index, (predicted == y).double() - confidence.double())
    return gap.abs().sum().item() / len(y)
