"""FeCAM: a Mahalanobis distance for each class (Goswami et al. 2023)."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from dataclasses import dataclass
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gr_cli.errors import ConfigError
from gr_cli.generators.base import UNLEARNED_LOG_LIKELIHOOD
from gr_cli.nn.class_statistics import ClassStatistics
from gr_cli.nn.symmetric import cholesky
from gr_cli.scenario import Scenario
from gr_cli.strategies.closed_form import Classifier, ClosedFormStrategy
from gr_cli.strategies.context import State, TaskContext
from gr_cli.strategies.score_cache import ScoreCache
from gr_cli.types import NonNegative, Positive

_SMALLEST_VARIANCE = 1e-12  # of the mean square: a feature with less is constant up to rounding


@dataclass(frozen=True)
class _ClassModel:
    """The mean (D,) of a class, and the inverse Cholesky factor (D, D) of its correlation matrix."""

    mean: Tensor
    whitening: Tensor


class FeCAM(ClosedFormStrategy):
    """FeCAM: a Mahalanobis distance for each class (Goswami et al. 2023).

    Features are transformed by Tukey's ladder of powers, x^power. A class has their mean m and their covariance, which
    is shrunk, S + s v I + o c (1 - I) with the mean variance v and the mean c of all other entries, and normalised to a
    correlation matrix R. The class with the smallest (x - m)' R^-1 (x - m) is predicted. For features that are not
    negative; of others the absolute value is transformed and the sign kept. The solver is not trained.

    Args:
        power: Exponent of Tukey's transform: 0.5 in the paper; 1: none.
        shrinkage: Weight s of the mean variance on the diagonal: 1 in the paper for features that were trained on the
            first task, 100 for few samples of a class.
        off_diagonal_shrinkage: Weight o of the mean covariance off the diagonal, likewise.
        unit_length: Whether x and m are scaled to length 1 before the distance, as in the authors' code.
    """

    def __init__(
        self,
        power: Positive = 0.5,
        shrinkage: NonNegative = 1.0,
        off_diagonal_shrinkage: NonNegative = 1.0,
        unit_length: bool = False,
    ) -> None:
        super().__init__("class")
        self.power, self.unit_length = power, unit_length
        self.shrinkage, self.off_diagonal_shrinkage = shrinkage, off_diagonal_shrinkage
        self._models: dict[tuple[int, int], _ClassModel] = {}  # by replica and unit
        self._scores = ScoreCache()

    def check(self, scenario: Scenario, solver: nn.Module) -> None:
        super().check(scenario, solver)
        self.keeps_scores = scenario.classes_are_disjoint  # a class does not change after its task

    def transform(self, x: Tensor) -> Tensor:
        """Tukey's transform of samples (B, D)."""
        return x if self.power == 1 else x.sign() * x.abs().pow(self.power)

    def _set_up_task(self, context: TaskContext) -> None:
        super()._set_up_task(context)
        if not self.statistics:
            self._models, self._scores = {}, ScoreCache()

    def _add(self, statistics: ClassStatistics, replica: int, x: Tensor, y: Tensor, units: list[int]) -> None:
        statistics.add(self._context.task, x, y, units, self.transform)
        for unit in statistics.tasks[-1].classes:
            self._models[replica, unit] = self._fitted(statistics, unit)

    def _fitted(self, statistics: ClassStatistics, unit: int) -> _ClassModel:
        factor, dtype = self._factor(self.correlation(statistics, unit)), self._context.streams.dtype
        whitening = torch.linalg.solve_triangular(factor, torch.eye(len(factor)).to(factor), upper=False)
        mean = self._scaled(statistics.means[statistics.classes.index(unit)])
        return _ClassModel(mean.to(dtype), whitening.to(dtype))

    def _factor(self, correlation: Tensor) -> Tensor:
        """The Cholesky factor of a correlation matrix.

        Raises:
            ConfigError: It is not finite or not positive definite, which follows from the settings.
        """
        if not correlation.isfinite().all():
            raise ConfigError("strategy.power", self.power, "makes values that are not finite", "try a smaller one")
        try:
            return cholesky(correlation)
        except ValueError:
            weight, remedy = self.off_diagonal_shrinkage, "try a smaller one, or a larger strategy.shrinkage"
            problem = f"leaves a covariance that is not positive definite, with strategy.shrinkage={self.shrinkage}"
            raise ConfigError("strategy.off_diagonal_shrinkage", weight, problem, remedy) from None

    def fit(self, statistics: ClassStatistics, replica: int) -> Classifier:
        return lambda x: self._class_scores(x, replica, statistics.classes)

    def correlation(self, statistics: ClassStatistics, unit: int) -> Tensor:
        """The shrunk covariance of a class as a correlation matrix (D, D); constant features are uncorrelated."""
        row = statistics.classes.index(unit)
        count, mean = statistics.counts[row], statistics.means[row]
        covariance = statistics.class_scatter(unit) / count
        size, variance = len(covariance), covariance.diagonal()
        is_constant = variance <= _SMALLEST_VARIANCE * (variance + mean.square())
        covariance = covariance.masked_fill(is_constant | is_constant.unsqueeze(1), 0.0)
        variance = covariance.diagonal()
        off_diagonal = (covariance.sum() - variance.sum()) / max(1, size * (size - 1))
        identity = torch.eye(size).to(covariance)
        covariance = covariance + self.shrinkage * variance.mean() * identity
        covariance = covariance + self.off_diagonal_shrinkage * off_diagonal * (1 - identity)
        deviation = covariance.diagonal().clamp(min=0).sqrt()
        deviation = torch.where(deviation > 0, deviation, 1.0)
        correlation = covariance / deviation / deviation.unsqueeze(1)
        correlation.fill_diagonal_(1.0)
        return correlation

    def _scaled(self, x: Tensor) -> Tensor:
        return F.normalize(x, dim=-1) if self.unit_length else x

    def _class_scores(self, x: Tensor, replica: int, classes: list[int]) -> Tensor:
        """Negative squared distances (B, K) of samples (B, D), in their own precision."""
        scaled = self._scaled(self.transform(x))
        for unit in classes:  # of a run that was resumed, or forgot another
            if (replica, unit) not in self._models:
                self._models[replica, unit] = self._fitted(self.statistics[replica], unit)
        models = [self._models[replica, unit] for unit in classes]
        distances = [((scaled - m.mean) @ m.whitening.to(scaled).T).square().sum(1) for m in models]
        return -torch.stack(distances, 1)

    def classifier(self, replica: int, solver: nn.Module) -> Callable[..., Tensor]:
        if not self.statistics or not self.statistics[replica].classes:
            return super().classifier(replica, solver)
        num_units = self._context.task_units.shape[1]

        def scores(x: Tensor, batch_id: Hashable = None) -> Tensor:
            result = x.new_full((len(x), num_units), UNLEARNED_LOG_LIKELIHOOD)
            with torch.autocast(x.device.type, enabled=False):
                for classes in self._groups(replica):
                    compute = partial(self._class_scores, x.flatten(1), replica, classes)
                    kept = self.keeps_scores and batch_id is not None
                    key = (replica, batch_id, tuple(classes))
                    result[:, classes] = self._scores.get(key, compute) if kept else compute()
            return result

        return scores

    def _groups(self, replica: int) -> list[list[int]]:
        """The classes that are scored together: those of a task if their scores are kept, else all."""
        statistics = self.statistics[replica]
        if not self.keeps_scores:
            return [statistics.classes]
        return [classes for task in statistics.tasks if (classes := task.classes)]

    def forget(self, dropped: Tensor) -> None:
        super().forget(dropped)
        self._models, self._scores = {}, ScoreCache()

    def load_state_dict(self, state: State, context: TaskContext) -> None:
        super().load_state_dict(state, context)
        self._models, self._scores = {}, ScoreCache()
