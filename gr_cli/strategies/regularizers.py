"""Penalties that keep a solver's parameters near to where the earlier tasks left them."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterable, Sequence
from typing import Annotated, ClassVar, Literal

import torch
from torch import Tensor

from gr_cli.nn.layers import per_replica
from gr_cli.strategies.context import State, TaskContext
from gr_cli.strategies.exemplar_buffer import uniform_subset
from gr_cli.strategies.fisher import FisherLabels, fisher_diagonal
from gr_cli.strategies.regularizer import Regularizer
from gr_cli.types import NonNegative, Positive, PositiveInt, VariesPerReplica


class _QuadraticPenalty(Regularizer):
    """scale * strength * (sum of importance * (parameter - anchor)^2 + rest), the sum over all parameters.

    `rest` (R,) is what an exact sum of several such penalties has besides.
    """

    scale: ClassVar[float] = 0.5

    def __init__(self, strength: float | Tensor) -> None:
        self.strength = strength
        self._importance: list[Tensor] = []
        self._anchor: list[Tensor] = []
        self._constant: Tensor | None = None

    def penalty(self, parameters: Sequence[Tensor]) -> tuple[Tensor, list[Tensor]] | None:
        if self._constant is None:
            return None
        value, pulls = self._constant, []
        for parameter, importance, anchor in zip(parameters, self._importance, self._anchor, strict=True):
            distance = parameter - anchor
            pull = importance * distance
            value = value + (pull * distance).flatten(1).sum(1)
            pulls.append(pull * per_replica(2 * self.scale * self.strength, pull))
        return per_replica(self.scale * self.strength, value) * value, pulls

    def end_task(self, parameters: Sequence[Tensor], context: TaskContext) -> None:
        found = self._task_importance(parameters, context)
        if self._constant is None:
            self._constant = parameters[0].new_zeros(parameters[0].shape[0])
            self._importance = [torch.zeros_like(value) for value in found]
            self._anchor = [parameter.clone() for parameter in parameters]
        self._consolidate(found, parameters)

    @abstractmethod
    def _task_importance(self, parameters: Sequence[Tensor], context: TaskContext) -> list[Tensor]:
        """How important each parameter was in the task that is over: shaped as the parameters, or to broadcast."""

    def _consolidate(self, task_importance: list[Tensor], parameters: Sequence[Tensor]) -> None:
        """Make one penalty of that of the earlier tasks and of what was found; the anchor moves to `parameters`."""
        self._importance = [
            self._accumulate(old, new) for old, new in zip(self._importance, task_importance, strict=True)
        ]
        self._anchor = [parameter.clone() for parameter in parameters]

    def _accumulate(self, old: Tensor, new: Tensor) -> Tensor:
        return old + new

    def state_dict(self) -> State:
        return {"importance": self._importance, "anchor": self._anchor, "constant": self._constant}

    def load_state_dict(self, state: State) -> None:
        self._importance, self._anchor = list(state["importance"]), list(state["anchor"])
        self._constant = state["constant"]


class WeightPenalty(_QuadraticPenalty):
    """1/2 strength |theta - theta*|^2: the plain distance to where the last task ended.

    Args:
        strength: weight of the penalty beside the loss.
    """

    def __init__(self, strength: Annotated[NonNegative, VariesPerReplica] = 0.1) -> None:
        super().__init__(strength)

    def _task_importance(self, parameters: Sequence[Tensor], context: TaskContext) -> list[Tensor]:
        return [parameter.new_ones(parameter.shape[0], *[1] * (parameter.dim() - 1)) for parameter in parameters]

    def _accumulate(self, old: Tensor, new: Tensor) -> Tensor:
        return new


class _FisherPenalty(_QuadraticPenalty):
    """The importance of a parameter is the diagonal of the Fisher information, its mean over the task's samples."""

    needs_second_pass = True

    def __init__(
        self,
        strength: Annotated[NonNegative, VariesPerReplica] = 1e5,
        samples: PositiveInt | None = None,
        labels: FisherLabels = "all",
    ) -> None:
        super().__init__(strength)
        self.samples, self.labels = samples, labels

    def _task_importance(self, parameters: Sequence[Tensor], context: TaskContext) -> list[Tensor]:
        each = [
            fisher_diagonal(network, self._fisher_samples(replica, context), context, replica, self.labels)
            for replica, network in enumerate(context.solver.modules)
        ]
        return [torch.stack(values) for values in zip(*each, strict=True)]

    def _fisher_samples(self, replica: int, situation: TaskContext) -> Iterable[tuple[Tensor, Tensor]]:
        if self.samples is None:
            return situation.sample_pass(replica)
        return uniform_subset(situation, replica, self.samples, "fisher.samples")


class ElasticWeightConsolidation(_FisherPenalty):
    """1/2 strength sum_t F_t (theta - theta*_t)^2, a term for each task (Kirkpatrick et al. 2017, eq. 3).

    The terms are kept as one, exactly: sums of squares are a square and a constant.

    Args:
        strength: weight of the penalty beside the loss.
        samples: how many of a task's samples the Fisher information is taken from, chosen evenly; None: all.
        labels: its expectation over labels is exact (`all`), or of one label for each sample, drawn as the solver
            predicts it (`sampled`) or the `true` one (the empirical Fisher information).
    """

    def _consolidate(self, task_importance: list[Tensor], parameters: Sequence[Tensor]) -> None:
        assert self._constant is not None
        for i, (new, parameter) in enumerate(zip(task_importance, parameters, strict=True)):
            old, anchor = self._importance[i], self._anchor[i]
            # a (x - m)^2 + f (x - p)^2 = (a + f) (x - m')^2 + a f / (a + f) (p - m)^2, m' = m + f / (a + f) (p - m).
            both, way = old + new, parameter - anchor
            share = new / both.clamp(min=torch.finfo(both.dtype).tiny)
            self._constant = self._constant + (old * share * way.square()).flatten(1).sum(1)
            # What matters to no task is held nowhere; its anchor goes along.
            self._anchor[i] = torch.where(both > 0, anchor + share * way, parameter)
            self._importance[i] = both


class OnlineElasticWeightConsolidation(_FisherPenalty):
    """One running Fisher information, F <- decay F + F_t, around the newest parameters (Schwarz et al. 2018, sec. 3).

    Args:
        strength: weight of the penalty beside the loss.
        decay: how much of the earlier tasks' Fisher information is left after each task.
        samples: how many of a task's samples it is taken from, chosen evenly; None: all.
        labels: its expectation over labels is exact (`all`), or of one label for each sample, drawn as the solver
            predicts it (`sampled`) or the `true` one (the empirical Fisher information).
    """

    def __init__(
        self,
        strength: Annotated[NonNegative, VariesPerReplica] = 1e5,
        decay: Annotated[NonNegative, VariesPerReplica] = 1.0,
        samples: PositiveInt | None = None,
        labels: FisherLabels = "all",
    ) -> None:
        super().__init__(strength, samples, labels)
        self.decay = decay

    def _accumulate(self, old: Tensor, new: Tensor) -> Tensor:
        return per_replica(self.decay, old) * old + new


class SynapticIntelligence(_QuadraticPenalty):
    """strength sum Omega (theta - theta*)^2, Omega what a parameter did for the loss on its way (Zenke et al. 2017).

    omega = - sum over steps of gradient * change, and after each task Omega grows by omega / (distance^2 + damping)
    (eqs. 4 and 5). As in the authors' program Omega does not fall below 0.

    Args:
        strength: weight of the penalty beside the loss, c in the paper.
        damping: what keeps importance finite where a parameter hardly moved, xi in the paper.
        parameters: of what it holds them where solver and generator are one network with one loss: of the solver, or
            `all`, the decoder's among them, as van de Ven et al. do.
    """

    scale = 1.0

    def __init__(
        self,
        strength: Annotated[NonNegative, VariesPerReplica] = 50.0,
        damping: Annotated[Positive, VariesPerReplica] = 0.1,
        parameters: Literal["solver", "all"] = "solver",
    ) -> None:
        super().__init__(strength)
        self.damping = damping
        self.includes_generator = parameters == "all"
        self._task_start: list[Tensor] = []
        self._path_integral: list[Tensor] = []

    def release_task(self) -> None:
        self._path_integral = []

    def track_step(self, before: Sequence[Tensor], after: Sequence[Tensor], gradients: Sequence[Tensor]) -> None:
        if not self._path_integral:
            self._task_start = [parameter.clone() for parameter in before]
            self._path_integral = [torch.zeros_like(parameter) for parameter in before]
        for path, old, new, gradient in zip(self._path_integral, before, after, gradients, strict=True):
            path.addcmul_(gradient, old - new)

    def _task_importance(self, parameters: Sequence[Tensor], context: TaskContext) -> list[Tensor]:
        if not self._path_integral:
            return [torch.zeros_like(parameter) for parameter in parameters]
        found = [
            path / ((parameter - begin).square() + per_replica(self.damping, path))
            for path, parameter, begin in zip(self._path_integral, parameters, self._task_start, strict=True)
        ]
        self._path_integral = []
        return found

    def _accumulate(self, old: Tensor, new: Tensor) -> Tensor:
        return (old + new).clamp(min=0.0)

    def state_dict(self) -> State:
        begin = self._task_start if self._path_integral else []
        return super().state_dict() | {"begin": begin, "path": self._path_integral}

    def load_state_dict(self, state: State) -> None:
        super().load_state_dict(state)
        self._task_start, self._path_integral = list(state["begin"]), list(state["path"])
