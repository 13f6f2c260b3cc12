"""Base class of classifiers in closed form, from statistics of the samples of each class and task."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Iterable
from typing import Literal

import torch
from torch import Tensor, nn

from gr_cli.errors import DataError
from gr_cli.generators.base import UNLEARNED_LOG_LIKELIHOOD
from gr_cli.nn.class_statistics import ClassStatistics, Granularity
from gr_cli.nn.replicas import stack_states, unstack
from gr_cli.nn.shared_fit import SharedFit
from gr_cli.strategies.base import Strategy
from gr_cli.strategies.context import State, TaskContext, TrainingStep

Arithmetic = Literal["float64", "fixed_point"]
Classifier = Callable[[Tensor], Tensor]  # flat samples (B, D) to a score for each of K classes (B, K)
_SCORED_SAMPLES = 4096  # at a time, in float64


class ClosedFormStrategy(Strategy):
    """Base class of classifiers that follow in closed form from sums over samples. The solver is not trained.

    At the end of a task its samples are added to the statistics, and the classifier is fitted to these. Statistics are
    kept by task, and where `keep` says so by class, and summed in one fixed order; so the classifier after `forget`
    equals, bit for bit, that of a stream without what was dropped. Subclasses define `fit`:

        >>> class NearestMean(ClosedFormStrategy):
        ...     def fit(self, statistics, replica):
        ...         means = statistics.means  # (K, D)
        ...         return lambda x: -torch.cdist(x, means)

    Args:
        keep: What second moments are kept of, as in `ClassStatistics`; None: they are not needed.
        arithmetic: Sums in float64, or in fixed point, out of which single samples can be taken exactly, if they are
            summed as they are. None: the strategy has no such setting, and float64.
    """

    needs_second_pass = True
    second_pass_is_streamable = True  # sums over samples
    boundary_requirement = "adds the samples of a task to its statistics at the end of the task"

    def __init__(self, keep: Granularity | None = None, arithmetic: Arithmetic | None = None) -> None:
        super().__init__()
        self.keep, self.arithmetic = keep, arithmetic
        self.stores_raw_samples = arithmetic == "fixed_point"  # exact sums show values that one sample alone has
        self.statistics: list[ClassStatistics] = []  # of each replica
        self._classifiers: list[Classifier] = []  # of each replica, fitted to the current statistics

    @abstractmethod
    def fit(self, statistics: ClassStatistics, replica: int) -> Classifier:
        """The classifier for flat samples (B, D), in float64, to a score for each class of `statistics` (B, K)."""

    def num_steps(self, iterations: int) -> int:
        return 0

    def solver_iteration(self, step: TrainingStep) -> int | None:
        return None

    @torch.no_grad()
    def end_task(self, context: TaskContext) -> None:
        if not self.statistics:
            self.statistics = self._new_statistics(context)
        units = context.task_units[context.task].nonzero().squeeze(1).tolist()
        with torch.autocast(context.streams.device.type, enabled=False):  # sums need full precision
            for replica, statistics in enumerate(self.statistics):
                x, y = task_samples(context.sample_pass(replica))
                if not self.stores_raw_samples:
                    check_class_sizes(y, context.task)
                self._add(statistics, replica, x, y, units)
            self._classifiers = []
            self._fit_all()

    def _new_statistics(self, context: TaskContext) -> list[ClassStatistics]:
        fixed_point = self.arithmetic == "fixed_point"
        return [ClassStatistics(self.keep, fixed_point) for _ in range(context.streams.replicas)]

    def _add(self, statistics: ClassStatistics, replica: int, x: Tensor, y: Tensor, units: list[int]) -> None:
        """Add the samples x (N, D) of a task, with units y (N,)."""
        statistics.add(self._context.task, x, y, units)

    def _fit_all(self) -> list[Classifier]:
        """The classifiers of all replicas, fitted once after each change of their statistics."""
        if not self._classifiers:
            self._classifiers = [self.fit(each, replica) for replica, each in enumerate(self.statistics)]
        return self._classifiers

    def classifier(self, replica: int, solver: nn.Module) -> Callable[..., Tensor]:
        if not self.statistics or not self.statistics[replica].classes:
            return lambda x, batch_id=None: solver(x)  # before the first task
        classify, num_units = self._fit_all()[replica], self._context.task_units.shape[1]
        classes = torch.tensor(self.statistics[replica].classes, device=self._context.task_units.device)

        def scores(x: Tensor) -> Tensor:
            result = x.new_full((len(x), num_units), UNLEARNED_LOG_LIKELIHOOD, dtype=torch.float64)
            with torch.autocast(x.device.type, enabled=False):
                for rows in torch.arange(len(x), device=x.device).split(_SCORED_SAMPLES):
                    result[rows.unsqueeze(1), classes] = classify(x.index_select(0, rows).flatten(1).double())
            return result

        return scores

    @property
    def shared_fits(self) -> tuple[SharedFit, ...]:
        return ()  # no memory of samples; and what is not kept apart, the statistics refuse to drop

    def forget(self, dropped: Tensor) -> None:
        for statistics in self._all_statistics():
            statistics.drop(dropped)
        self._classifiers = []

    def forget_samples(self, task: int, unit: int, x: Tensor) -> None:
        if self.arithmetic is None:
            super().forget_samples(task, unit, x)
        values = x.to(self._context.task_units.device, self._context.streams.dtype).flatten(1)
        for statistics in self.statistics:
            statistics.remove(task, unit, values)
        self._classifiers = []

    def _all_statistics(self) -> list[ClassStatistics]:
        """Everything that is kept of samples."""
        return self.statistics

    def state_dict(self) -> State:
        states = [each.state_dict() for each in self.statistics]
        return super().state_dict() | {"statistics": stack_states(states) if states else None}

    def load_state_dict(self, state: State, context: TaskContext) -> None:
        super().load_state_dict(state, context)
        self.statistics, self._classifiers = [], []
        if state["statistics"] is not None:
            self.statistics = self._new_statistics(context)
            for replica, statistics in enumerate(self.statistics):
                statistics.load_state_dict(unstack(state["statistics"], replica))


def task_samples(sample_pass: Iterable[tuple[Tensor, Tensor]]) -> tuple[Tensor, Tensor]:
    """All samples of a task, flat (N, D), and their units (N,)."""
    batches = [(x.flatten(1), y) for x, y in sample_pass]
    return torch.cat([x for x, _ in batches]), torch.cat([y for _, y in batches])


def check_class_sizes(y: Tensor, task: int) -> None:
    """Refuse a class of a single sample, given the units (N,) of a task's samples; raises DataError."""
    units, counts = y.unique(return_counts=True)
    alone = units[counts == 1].tolist()
    if alone:
        raise DataError(
            f"benchmark: output unit {alone[0]} has a single sample in task {task}, which its sum would store; "
            "give it more samples, or try strategy=er, which stores samples"
        )
