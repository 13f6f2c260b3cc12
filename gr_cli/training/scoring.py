"""Accuracy and loss from logits."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from gr_cli.nn.losses import cross_entropy

Predictions = list[tuple[Tensor, Tensor]]  # batches of logits (B, U) and labels (B,)


@dataclass(frozen=True)
class Score:
    """Accuracy and loss on a set of samples.

    Attributes:
        accuracy: Fraction correct; NaN without samples.
        loss: Mean cross-entropy; None where the unit of a label is not among those that compete.
        num_samples: Number of samples.
    """

    accuracy: float
    loss: float | None
    num_samples: int


@torch.no_grad()
def score(predictions: Predictions, units: Tensor) -> Score:
    """Score `predictions` when `units`, bool (U,), compete."""
    num_samples = sum(len(y) for _, y in predictions)
    if num_samples == 0:
        return Score(float("nan"), None, 0)
    correct = torch.stack([(x.masked_fill(~units, -torch.inf).argmax(-1) == y).sum() for x, y in predictions]).sum()
    loss = torch.stack([cross_entropy(x, y, units).sum().double() for x, y in predictions])
    all_active = torch.stack([units[y].all() for _, y in predictions]).all()
    # In Python, in order: a sum on the device could round differently.
    total = sum(loss.tolist())
    mean_loss = total / num_samples if all_active.item() else None
    return Score(correct.item() / num_samples, mean_loss, num_samples)
