"""Classification by the nearest class mean."""

from __future__ import annotations

import torch

from gr_cli.nn.class_statistics import ClassStatistics
from gr_cli.strategies.closed_form import Arithmetic, Classifier, ClosedFormStrategy


class NearestClassMean(ClosedFormStrategy):
    """Nearest class mean: a class is the mean of its samples, and the nearest one is predicted.

    A class has the score -|x - m|^2 / 2, so that probabilities are those of Gaussians of unit variance. The solver is
    not trained.

    Args:
        arithmetic: Sums in `float64`; or in `fixed_point`, of values rounded to multiples of 2**-12, as integers, out
            of which single samples can be taken exactly. Values up to 4096.
    """

    def __init__(self, arithmetic: Arithmetic = "float64") -> None:
        super().__init__(arithmetic=arithmetic)

    def fit(self, statistics: ClassStatistics, replica: int) -> Classifier:
        means = statistics.means
        return lambda x: -0.5 * torch.cdist(x, means, compute_mode="donot_use_mm_for_euclid_dist").square()
