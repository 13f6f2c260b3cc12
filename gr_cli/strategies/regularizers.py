"""Parameter regularization: weight penalty, EWC, online EWC and synaptic intelligence."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterable, Sequence
from typing import Annotated, ClassVar, Literal

import torch
from torch import Tensor

from gr_cli.nn.flat_tensors import FlatTensors
from gr_cli.nn.layers import per_replica
from gr_cli.nn.random_streams import StreamNames
from gr_cli.strategies.context import State, TaskContext
from gr_cli.strategies.exemplar_buffer import uniform_subset
from gr_cli.strategies.fisher import FisherLabels, fisher_diagonal
from gr_cli.strategies.regularizer import Regularizer
from gr_cli.types import NonNegative, Positive, PositiveInt, VariesPerReplica


class _Quadratic:
    """The function 1/2 sum curvature * (parameter - anchor)^2 + constant of all parameters of each replica.

    Its operators work in place on one flat buffer: the time of a small network is that of the dispatched operators.

    Args:
        curvature: Curvature in each parameter; shapes broadcast to the parameters'.
        anchor: Parameters (R, ...) at the minimum.
        constant: The minimum (R,).

    Attributes:
        anchor: A copy of the anchor.
    """

    def __init__(self, curvature: Sequence[Tensor], anchor: Sequence[Tensor], constant: Tensor) -> None:
        self._curvature, self.anchor = FlatTensors(anchor).copy_(curvature), FlatTensors(anchor).copy_(anchor)
        self._distance, self._gradient = FlatTensors(anchor), FlatTensors(anchor)
        self._constant = constant

    def value_and_gradient(self, parameters: Sequence[Tensor]) -> tuple[Tensor, list[Tensor]]:
        """The value (R,), and the gradient in a buffer that the next call overwrites."""
        distance, gradient = self._distance.copy_(parameters).flat, self._gradient.flat
        distance.sub_(self.anchor.flat)
        torch.mul(distance, self._curvature.flat, out=gradient)
        distance.mul_(gradient)
        return torch.add(self._constant, self._distance.sum_per_replica(), alpha=0.5), self._gradient.views


class _QuadraticPenalty(Regularizer):
    """A quadratic penalty: scale * strength * (sum of importance * (parameter - anchor)^2 + constant).

    The sum is over all parameters of a replica. Subclasses say how important each parameter was for a task, and how
    the importances of several tasks are combined.
    """

    scale: ClassVar[float] = 0.5

    def __init__(self, strength: float | Tensor) -> None:
        self.strength = strength
        self._importance: list[Tensor] = []
        self._anchor: list[Tensor] = []
        self._constant: Tensor | None = None
        self._quadratic: _Quadratic | None = None  # made when the penalty is first computed in a task

    def penalty(self, parameters: Sequence[Tensor]) -> tuple[Tensor, list[Tensor]] | None:
        if self._constant is None:
            return None
        if self._quadratic is None:
            curvature = [i * per_replica(2 * self.scale * self.strength, i) for i in self._importance]
            constant = per_replica(self.scale * self.strength, self._constant) * self._constant
            self._quadratic = _Quadratic(curvature, self._anchor, constant)
            self._anchor = self._quadratic.anchor.views  # stored once
        return self._quadratic.value_and_gradient(parameters)

    def end_task(self, parameters: Sequence[Tensor], context: TaskContext) -> None:
        task_importance = self._task_importance(parameters, context)
        if self._constant is None:
            self._constant = parameters[0].new_zeros(parameters[0].shape[0])
            self._importance = [torch.zeros_like(value) for value in task_importance]
            self._anchor = [parameter.clone() for parameter in parameters]
        self._consolidate(task_importance, parameters)
        self._quadratic = None

    @abstractmethod
    def _task_importance(self, parameters: Sequence[Tensor], context: TaskContext) -> list[Tensor]:
        """Importance of each parameter in the completed task; shapes broadcast to the parameters'."""

    def _consolidate(self, task_importance: list[Tensor], parameters: Sequence[Tensor]) -> None:
        """Merge the completed task's penalty into that of the earlier tasks; the anchor becomes `parameters`."""
        self._importance = [
            self._accumulate(old, new) for old, new in zip(self._importance, task_importance, strict=True)
        ]
        self._anchor = [parameter.clone() for parameter in parameters]

    def _accumulate(self, old: Tensor, new: Tensor) -> Tensor:
        """Importance over all tasks, from that of the earlier tasks and of the completed one."""
        return old + new

    def state_dict(self) -> State:
        return {"importance": self._importance, "anchor": self._anchor, "constant": self._constant}

    def load_state_dict(self, state: State) -> None:
        self._importance, self._anchor = list(state["importance"]), list(state["anchor"])
        self._constant, self._quadratic = state["constant"], None


class WeightPenalty(_QuadraticPenalty):
    """L2 penalty on the distance to the parameters at the end of the last task.

    1/2 strength |theta - theta*|^2, every parameter with the same importance.

    Args:
        strength: Weight of the penalty; the loss has weight 1.
    """

    def __init__(self, strength: Annotated[NonNegative, VariesPerReplica] = 0.1) -> None:
        super().__init__(strength)

    def _task_importance(self, parameters: Sequence[Tensor], context: TaskContext) -> list[Tensor]:
        return [parameter.new_ones(parameter.shape[0], *[1] * (parameter.dim() - 1)) for parameter in parameters]

    def _accumulate(self, old: Tensor, new: Tensor) -> Tensor:
        return new


class _FisherPenalty(_QuadraticPenalty):
    """A quadratic penalty whose importance is the diagonal of the Fisher information."""

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
        by_replica = [
            fisher_diagonal(network, self._fisher_samples(replica, context), context, replica, self.labels)
            for replica, network in enumerate(context.solver.modules)
        ]
        return [torch.stack(values) for values in zip(*by_replica, strict=True)]

    def _fisher_samples(self, replica: int, context: TaskContext) -> Iterable[tuple[Tensor, Tensor]]:
        if self.samples is None:
            return context.sample_pass(replica)
        return uniform_subset(context, replica, self.samples, StreamNames.FISHER_SAMPLES)


class ElasticWeightConsolidation(_FisherPenalty):
    """Elastic weight consolidation (EWC): one Fisher-weighted penalty per task (Kirkpatrick et al. 2017).

    1/2 strength sum_t F_t (theta - theta*_t)^2 (eq. 3), F_t being the diagonal of the Fisher information of task t.
    The penalties of all tasks are stored exactly as one: a sum of quadratics is a quadratic plus a constant.

    Args:
        strength: Weight of the penalty; the loss has weight 1.
        samples: Samples of a task that the Fisher information is estimated from, drawn uniformly; None: all.
        labels: Labels in the Fisher information: its expectation over the solver's predictions (`all`), one label per
            sample drawn from them (`sampled`), or the true ones (`true`, the empirical Fisher information).
    """

    def _consolidate(self, task_importance: list[Tensor], parameters: Sequence[Tensor]) -> None:
        assert self._constant is not None
        for i, (new, parameter) in enumerate(zip(task_importance, parameters, strict=True)):
            old, anchor = self._importance[i], self._anchor[i]
            # a (x - m)^2 + f (x - p)^2 = (a + f) (x - m')^2 + a f / (a + f) (p - m)^2, m' = m + f / (a + f) (p - m).
            total, shift = old + new, parameter - anchor
            fraction = new / total.clamp(min=torch.finfo(total.dtype).tiny)
            self._constant = self._constant + (old * fraction * shift.square()).flatten(1).sum(1)
            # Parameters of no importance have no penalty; their anchor follows them.
            self._anchor[i] = torch.where(total > 0, anchor + fraction * shift, parameter)
            self._importance[i] = total


class OnlineElasticWeightConsolidation(_FisherPenalty):
    """Online EWC: one running Fisher information around the newest parameters (Schwarz et al. 2018).

    1/2 strength F (theta - theta*)^2 with F <- decay F + F_t at the end of task t (sec. 3).

    Args:
        strength: Weight of the penalty; the loss has weight 1.
        decay: Factor of the earlier tasks' Fisher information at the end of each task; 1 is a plain sum.
        samples: Samples of a task that the Fisher information is estimated from, drawn uniformly; None: all.
        labels: Labels in the Fisher information: its expectation over the solver's predictions (`all`), one label per
            sample drawn from them (`sampled`), or the true ones (`true`, the empirical Fisher information).
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
    """Synaptic intelligence (SI): importance from the path of each parameter (Zenke et al. 2017).

    strength sum Omega (theta - theta*)^2. Within a task omega = -sum over steps of gradient * change; at its end Omega
    grows by omega / (distance^2 + damping) (eqs. 4 and 5). As in the authors' code Omega is clamped at 0.

    Args:
        strength: Weight of the penalty (c in the paper); the loss has weight 1.
        damping: Added to the squared distance that omega is divided by (xi in the paper).
        parameters: Parameters with a penalty where solver and generator are one network (`rtf`, `bir`): the `solver`'s,
            as in van de Ven et al. (2020), or `all`, the decoder's included. Elsewhere always the solver's.
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
        decrease = list(before)
        torch._foreach_sub_(decrease, list(after))
        torch._foreach_addcmul_(self._path_integral, list(gradients), decrease)

    def _task_importance(self, parameters: Sequence[Tensor], context: TaskContext) -> list[Tensor]:
        if not self._path_integral:
            return [torch.zeros_like(parameter) for parameter in parameters]
        importance = [
            path / ((parameter - start).square() + per_replica(self.damping, path))
            for path, parameter, start in zip(self._path_integral, parameters, self._task_start, strict=True)
        ]
        self._path_integral = []
        return importance

    def _accumulate(self, old: Tensor, new: Tensor) -> Tensor:
        return (old + new).clamp(min=0.0)

    def state_dict(self) -> State:
        task_start = self._task_start if self._path_integral else []
        return super().state_dict() | {"task_start": task_start, "path_integral": self._path_integral}

    def load_state_dict(self, state: State) -> None:
        super().load_state_dict(state)
        self._task_start, self._path_integral = list(state["task_start"]), list(state["path_integral"])
