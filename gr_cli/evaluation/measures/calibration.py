"""Calibration of the solver's confidence (Guo et al. 2017)."""

from __future__ import annotations

from collections.abc import Sequence
from math import isfinite

import torch
from torch import Tensor

from gr_cli.evaluation.base import Evaluation, EvaluationContext
from gr_cli.results.tables import AFTER_TASK, ALL_TASKS, COUNT, FRACTION, TASK, Column, TableRow
from gr_cli.training.scoring import ClassifiedSamples

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
        Column(
            "nll", "negative log-likelihood of the label; empty where that is infinite", "nats", "lower", minimum=0.0
        ),
    )

    def rows(self, context: EvaluationContext) -> Sequence[TableRow]:
        after = context.after_task
        by_task = {task.id: context.classified(task) for task in context.tasks_so_far}
        rows = [_row(after, task, samples) for task, samples in by_task.items()]
        if context.covers_tasks_so_far:
            rows.append(_row(after, ALL_TASKS, ClassifiedSamples.concatenate(list(by_task.values()))))
        return rows


def _row(after_task: int, task: int | str, samples: ClassifiedSamples) -> TableRow:
    nll = samples.nll.mean().item()
    return {
        "after_task": after_task,
        "task": task,
        "n": len(samples),
        "ece": expected_calibration_error(samples.confidence, samples.is_correct),
        "nll": nll if isfinite(nll) else None,
    }


def expected_calibration_error(confidence: Tensor, is_correct: Tensor, num_bins: int = NUM_BINS) -> float | None:
    """Expected calibration error of confidences (N,) of predictions that are correct or not, bool (N,).

    |accuracy - mean confidence|, averaged over bins ((b-1)/bins, b/bins] of the confidence, weighted by their samples
    (Guo et al. 2017, eq. 3).

    Returns:
        None without samples, or if a probability is not finite.
    """
    if len(confidence) == 0 or not confidence.isfinite().all():
        return None
    bin_index = (confidence * num_bins).ceil().clamp(1, num_bins).long() - 1
    gap = torch.zeros(num_bins, dtype=torch.float64, device=confidence.device)
    gap.index_add_(0, bin_index, is_correct.double() - confidence.double())
    return gap.abs().sum().item() / len(confidence)
