"""RanPAC: ridge regression on random projections (McDonnell et al. 2023)."""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor

from gr_cli.nn.class_statistics import (
    ClassStatistics,
    Granularity,
    TaskStatistics,
    class_statistics,
    join_classes,
    task_statistics,
)
from gr_cli.nn.random_streams import StreamNames
from gr_cli.nn.replicas import stack_states, unstack
from gr_cli.nn.symmetric import cholesky, solve
from gr_cli.strategies.closed_form import Classifier, ClosedFormStrategy
from gr_cli.strategies.context import State, TaskContext
from gr_cli.types import Positive, PositiveInt

_RIDGES = tuple(10.0**exponent for exponent in range(-8, 9))  # candidates, as in the paper
_HELD_OUT = 5  # every fifth sample of a class
_DEFAULT_RIDGE = 1.0  # of a task of which no sample is held out


class RanPAC(ClosedFormStrategy):
    """RanPAC: ridge regression of one-hot labels on a random projection with ReLU (McDonnell et al. 2023).

    Features h = max(0, x P) of random normal P have the Gram matrix G, the sum of h h' over all samples so far, and
    class c has the weights (G + ridge I)^-1 s_c, where s_c is the sum of h over its samples. P follows from the seed
    and the sizes alone and is not stored. Without the adaptation of the feature extractor in the first task. The
    solver is not trained.

    The ridge is chosen among 1e-8, 1e-7, ... 1e8: a task's weights are fitted to four fifths of its samples, and the
    ridge with the smallest squared error on every fifth sample of each class is used for all tasks so far. The squared
    error follows from the Gram matrix of these samples.

    Args:
        projection_dim: Number of random features, 10,000 in the paper; None: none, the regression is on the samples.
        ridge: Strength of the penalty on squared weights; None: chosen on held-out samples of the current task.
        keep: What Gram matrices are kept of: each `class` of each task, each `task`, or all samples together (`total`).
            The classifier is the same; only what is kept apart can be forgotten. A matrix of D features takes
            4 D (D + 1) bytes; by class, and without `ridge`, twice as many.
    """

    def __init__(
        self,
        projection_dim: PositiveInt | None = 2000,
        ridge: Positive | None = None,
        keep: Granularity = "task",
    ) -> None:
        super().__init__(keep)
        self.projection_dim, self.ridge = projection_dim, ridge
        self.held_out: list[ClassStatistics] = []  # of each replica, if they are kept by class
        self.ridges: list[dict[int, float]] = []  # of each replica, chosen in each task
        self._projections: dict[int, Tensor] = {}

    def features(self, x: Tensor, replica: int) -> Tensor:
        """Random features (B, M) of samples (B, D), in float64."""
        if self.projection_dim is None:
            return x
        if replica not in self._projections:
            stream = self._context.streams.generator(replica, StreamNames.RANDOM_PROJECTION)
            shape = (x.shape[1], self.projection_dim)
            self._projections[replica] = torch.randn(shape, generator=stream, device=x.device).double()
        return (x @ self._projections[replica]).relu()

    def _set_up_task(self, context: TaskContext) -> None:
        super()._set_up_task(context)
        if not self.statistics:
            self.held_out = self._new_statistics(context)
            self.ridges = [{} for _ in self.held_out]
            self._projections = {}  # of each replica, from its seed

    def _add(self, statistics: ClassStatistics, replica: int, x: Tensor, y: Tensor, units: list[int]) -> None:
        task = self._context.task
        features = partial(self.features, replica=replica)
        if self.ridge is not None:
            statistics.append(task_statistics(self.keep, task, x, y, units, features))
            return
        units = sorted({*units, *y.unique().tolist()})
        is_held_out = held_out_samples(y)

        def of_class(unit: int, of: Tensor) -> TaskStatistics:
            rows = ((y == unit) & of).nonzero().squeeze(1)
            return class_statistics(self.keep, task, unit, x, rows, features)

        held_out = join_classes((of_class(unit, is_held_out) for unit in units), self.keep)
        both = (of_class(unit, ~is_held_out).plus(of_class(unit, is_held_out)) for unit in units)
        of_task = join_classes(both, self.keep)
        statistics.append(of_task)
        if self.keep == "class":  # a task's ridge changes when one of its classes is forgotten
            self.held_out[replica].append(held_out)
        self.ridges[replica][task] = chosen_ridge(of_task, held_out)

    def fit(self, statistics: ClassStatistics, replica: int) -> Classifier:
        last = statistics.tasks[-1].task
        ridge = self.ridges[replica][last] if self.ridge is None else self.ridge
        weights = _ridge_regression(statistics.second_moment(), statistics.sums.T, ridge)  # (M, K)
        return lambda x: self.features(x, replica) @ weights

    def _all_statistics(self) -> list[ClassStatistics]:
        return [*self.statistics, *self.held_out]

    def forget(self, dropped: Tensor) -> None:
        before = [list(each.tasks) for each in self.statistics]
        super().forget(dropped)
        for replica, statistics in enumerate(self.statistics):
            held_out = {task.task: task for task in self.held_out[replica].tasks}
            known, self.ridges[replica] = self.ridges[replica], {}
            for task in statistics.tasks if self.ridge is None else []:
                ridge = known[task.task] if task in before[replica] else chosen_ridge(task, held_out.get(task.task))
                self.ridges[replica][task.task] = ridge

    def state_dict(self) -> State:
        states = [
            {"held_out": held_out.state_dict(), "ridges": torch.tensor([*ridges.values()], dtype=torch.float64)}
            for held_out, ridges in zip(self.held_out, self.ridges, strict=True)
        ]
        return super().state_dict() | {"choice": stack_states(states) if states else None}

    def load_state_dict(self, state: State, context: TaskContext) -> None:
        super().load_state_dict(state, context)
        self.held_out = self._new_statistics(context)
        self.ridges = [{} for _ in self.held_out]
        for replica, held_out in enumerate(self.held_out if state["choice"] is not None else []):
            own = unstack(state["choice"], replica)
            held_out.load_state_dict(own["held_out"])
            tasks = [task.task for task in self.statistics[replica].tasks] if self.statistics else []
            self.ridges[replica] = dict(zip(tasks, own["ridges"].tolist(), strict=False))


def held_out_samples(y: Tensor) -> Tensor:
    """Whether each sample is held out, (N,), given the labels (N,): every fifth of a class, but never one alone."""
    result = torch.zeros_like(y, dtype=torch.bool)
    for unit in y.unique().tolist():
        held_out = (y == unit).nonzero().squeeze(1)[_HELD_OUT - 1 :: _HELD_OUT]
        if len(held_out) > 1:  # the sum of one would be the sample
            result[held_out] = True
    return result


@torch.no_grad()
def chosen_ridge(of_task: TaskStatistics, held_out: TaskStatistics | None) -> float:
    """The candidate with the smallest squared error on the held-out samples of a task.

    With Gram matrix H and class sums S (M, K) of n held-out samples, weights W have the squared error
    tr(W' H W) - 2 tr(W' S) + n.

    Args:
        of_task: Statistics of all samples of the task.
        held_out: Those of the held-out ones, if there are any.

    Returns:
        The ridge; 1 without held-out samples.
    """
    if held_out is None or not held_out.counts.any():
        return _DEFAULT_RIDGE
    sums, gram = held_out.sums.T, held_out.second_moment()
    trained_sums, trained_gram = of_task.sums.T - sums, of_task.second_moment() - gram
    errors = []
    for ridge in _RIDGES:
        weights = _ridge_regression(trained_gram, trained_sums, ridge)
        errors.append(float((weights * (gram @ weights - 2 * sums)).sum()))
    return _RIDGES[min(range(len(errors)), key=errors.__getitem__)]


def _ridge_regression(gram: Tensor, sums: Tensor, ridge: float) -> Tensor:
    """The weights (M, K) that minimise squared errors plus `ridge` times squared weights."""
    penalized = gram.clone()
    penalized.diagonal().add_(ridge)
    return solve(cholesky(penalized), sums)
