"""Predictions of a solver: a few numbers per sample from its logits, and accuracy and loss from these."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields

import torch
from torch import Tensor

Predictions = list[tuple[Tensor, Tensor]]  # batches of logits (B, U) and labels (B,)


@dataclass(frozen=True)
class ClassifiedSamples:
    """What a solver predicts for N samples, without the logits, which may be thousands per sample.

    Attributes:
        labels: Output unit of each sample, (N,).
        predicted: Unit with the highest logit among those that compete, (N,).
        confidence: Probability of that unit, float64 (N,).
        nll: Negative log-likelihood of the label, float64 (N,); inf where its unit does not compete.
        label_competes: Whether the label's unit competes, bool (N,).
    """

    labels: Tensor
    predicted: Tensor
    confidence: Tensor
    nll: Tensor
    label_competes: Tensor

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def is_correct(self) -> Tensor:
        """Whether each sample is classified correctly, bool (N,)."""
        return self.predicted == self.labels

    def split(self, sizes: Sequence[int]) -> list[ClassifiedSamples]:
        """The samples in consecutive parts of these sizes."""
        columns = (getattr(self, name).split(list(sizes)) for name in _COLUMNS)
        return [ClassifiedSamples(*part) for part in zip(*columns, strict=True)]

    @staticmethod
    def concatenate(parts: Sequence[ClassifiedSamples]) -> ClassifiedSamples:
        """All samples of `parts`, in order."""
        if len(parts) == 1:
            return parts[0]
        if not parts:
            integers, floats = torch.empty(0, dtype=torch.long), torch.empty(0, dtype=torch.float64)
            return ClassifiedSamples(integers, integers, floats, floats, integers.bool())
        return ClassifiedSamples(*(torch.cat([getattr(part, name) for part in parts]) for name in _COLUMNS))


_COLUMNS = tuple(field.name for field in fields(ClassifiedSamples))


@torch.no_grad()
def classify(logits: Tensor, labels: Tensor, units: Tensor, group: Tensor | None = None) -> ClassifiedSamples:
    """The predictions of a solver from its logits.

    Args:
        logits: Logits (N, U).
        labels: Output units (N,).
        units: The units that compete, bool (U,), or (G, U) for samples of G groups; at least one each.
        group: Group of each sample, (N,), if there are several.
    """
    if group is None:
        label_competes, competing, first_unit = units[labels], logits, 0
        indices = units.nonzero().squeeze(1)
        if len(indices) < units.shape[0]:
            first_unit, last_unit = int(indices[0]), int(indices[-1])
            competing = logits[:, first_unit : last_unit + 1]
            if len(indices) <= last_unit - first_unit:
                competing = competing.masked_fill(~units[first_unit : last_unit + 1], -torch.inf)
        highest, predicted = competing.max(1)
        predicted = predicted + first_unit
    else:
        label_competes, counts = units[group, labels], units.sum(1)
        # The competing units of each group first, in ascending order.
        columns = (~units).to(torch.uint8).argsort(dim=1, stable=True)[:, : int(counts.max())]
        is_column = torch.arange(columns.shape[1], device=units.device) < counts.unsqueeze(1)
        competing = logits.gather(1, columns[group]).masked_fill(~is_column[group], -torch.inf)
        highest, index = competing.max(1)
        predicted = columns[group, index]
    # Sums over units in double precision, but not the exponentials: those of thousands of units would take long.
    total = (competing - highest.unsqueeze(1)).exp_().sum(1, dtype=torch.float64)
    label_logit = logits.gather(1, labels.unsqueeze(1)).squeeze(1)
    nll = total.log() + (highest.double() - label_logit.double())
    return ClassifiedSamples(
        labels, predicted, total.reciprocal(), nll.masked_fill(~label_competes, torch.inf), label_competes
    )


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


def score(samples: ClassifiedSamples) -> Score:
    """Accuracy and loss of classified samples."""
    return scores([samples])[0]


def scores(sets: Sequence[ClassifiedSamples]) -> list[Score]:
    """Accuracy and loss of each of several sets of classified samples."""
    if not sets:
        return []
    samples, sizes = ClassifiedSamples.concatenate(sets), [len(each) for each in sets]
    values = torch.stack([samples.is_correct.double(), samples.nll, samples.label_competes.double()])
    if len(set(sizes)) == 1:
        sums = values.view(3, len(sizes), sizes[0]).sum(2).T.tolist()
    else:
        sums = torch.stack([part.sum(1) for part in values.split(sizes, 1)]).tolist()
    return [
        Score(correct / n, nll / n if competing == n else None, n) if n else Score(float("nan"), None, 0)
        for n, (correct, nll, competing) in zip(sizes, sums, strict=True)
    ]


def score_predictions(predictions: Iterable[tuple[Tensor, Tensor]], units: Tensor) -> Score:
    """Accuracy and loss from batches of logits (B, U) and labels (B,) when `units`, bool (U,), compete."""
    classified = [classify(logits, labels, units) for logits, labels in predictions if len(labels)]
    return score(ClassifiedSamples.concatenate(classified))
