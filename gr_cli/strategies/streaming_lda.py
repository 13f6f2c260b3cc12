"""Streaming linear discriminant analysis (Hayes & Kanan 2020)."""

from __future__ import annotations

from typing import Annotated

import torch
from torch import Tensor

from gr_cli.nn.class_statistics import ClassStatistics, Granularity
from gr_cli.nn.layers import replica_value
from gr_cli.nn.symmetric import cholesky, solve
from gr_cli.strategies.closed_form import Arithmetic, Classifier, ClosedFormStrategy
from gr_cli.types import UnitInterval, VariesPerReplica


class StreamingLDA(ClosedFormStrategy):
    """Streaming linear discriminant analysis: class means and one covariance for all classes (Hayes & Kanan 2020).

    The covariance S within classes is shrunk towards the identity, (1 - e) S + e I, and a sample x has the score
    m' A x - m' A m / 2 under a class of mean m, where A is the inverse of the shrunk covariance. S is the mean, over
    all samples so far, of the outer product of a sample's difference from the mean of its class. A classifier on
    samples as they are: images are flattened, `benchmark/features` makes it one on features. The solver is not trained.

    Args:
        shrinkage: Weight e of the identity in the covariance: 1e-4 in the paper.
        keep: What second moments are kept of: each `class` of each task, each `task`, or all samples together
            (`total`). The classifier is the same; only what is kept apart can be forgotten. A matrix of D values takes
            4 D (D + 1) bytes.
        arithmetic: Sums in `float64`; or in `fixed_point`, of values rounded to multiples of 2**-12, as integers, out
            of which single samples can be taken exactly. Values up to 4096.
    """

    def __init__(
        self,
        shrinkage: Annotated[UnitInterval, VariesPerReplica] = 1e-4,
        keep: Granularity = "task",
        arithmetic: Arithmetic = "float64",
    ) -> None:
        super().__init__(keep, arithmetic)
        self.shrinkage: float | Tensor = shrinkage

    def fit(self, statistics: ClassStatistics, replica: int) -> Classifier:
        means, shrinkage = statistics.means, replica_value(self.shrinkage, replica)
        covariance = statistics.within_class_scatter() / statistics.counts.sum()
        covariance = (1 - shrinkage) * covariance + shrinkage * torch.eye(len(covariance)).to(covariance)
        weights = solve(cholesky(covariance), means.T)  # (D, K)
        bias = -0.5 * (means.T * weights).sum(0)
        return lambda x: x @ weights + bias
