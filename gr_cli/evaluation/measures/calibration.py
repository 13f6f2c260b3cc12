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
        tasks, sets = [task.id for task in context.tasks_so_far], list(map(context.classified, context.tasks_so_far))
        if not sets:
            return []
        sizes, pooled = [len(samples) for samples in sets], ClassifiedSamples.concatenate(sets)
        nll = torch.stack([part.sum() for part in pooled.nll.split(sizes)])
        gaps = confidence_gaps(pooled.confidence, pooled.is_correct, sizes)
        rows = [
            _row(context.after_task, task, n, error, total)
            for task, n, error, total in zip(tasks, sizes, gaps.abs().sum(1).tolist(), nll.tolist(), strict=True)
        ]
        if context.covers_tasks_so_far:
            error, total = torch.stack([gaps.sum(0).abs().sum(), nll.sum()]).tolist()
            rows.append(_row(context.after_task, ALL_TASKS, len(pooled), error, total))
        return rows


def _row(after_task: int, task: int | str, n: int, total_error: float, total_nll: float) -> TableRow:
    return {
        "after_task": after_task,
        "task": task,
        "n": n,
        "ece": total_error / n if n and isfinite(total_error) else None,
        "nll": total_nll / n if n and isfinite(total_nll) else None,
    }


def expected_calibration_error(confidence: Tensor, is_correct: Tensor, num_bins: int = NUM_BINS) -> float | None:
    """Expected calibration error of confidences (N,) of predictions that are correct or not, bool (N,).

    |accuracy - mean confidence|, averaged over bins ((b-1)/bins, b/bins] of the confidence, weighted by their samples
    (Guo et al. 2017, eq. 3).

    Returns:
        None without samples, or if a probability is not finite.
    """
    n = len(confidence)
    error = confidence_gaps(confidence, is_correct, [n], num_bins).abs().sum().item()
    return error / n if n and isfinite(error) else None


def confidence_gaps(confidence: Tensor, is_correct: Tensor, sizes: Sequence[int], num_bins: int = NUM_BINS) -> Tensor:
    """Sums of correctness minus confidence over the samples of each bin, for G consecutive sets of samples.

    Args:
        confidence: Confidences (N,).
        is_correct: Whether each prediction is correct, bool (N,).
        sizes: Number of samples of each set.
        num_bins: Number of bins.

    Returns:
        float64 (G, bins); not finite in a set with a confidence that is not.
    """
    set_index = torch.arange(len(sizes)).repeat_interleave(torch.tensor(sizes)).to(confidence.device)
    # A confidence that is not finite makes the gap of its bin so, too.
    bin_index = (confidence * num_bins).ceil().nan_to_num(1).clamp(1, num_bins).long() - 1
    gaps = torch.zeros(len(sizes) * num_bins, dtype=torch.float64, device=confidence.device)
    gaps.index_add_(0, set_index * num_bins + bin_index, is_correct.double() - confidence.double())
    return gaps.view(len(sizes), num_bins)
