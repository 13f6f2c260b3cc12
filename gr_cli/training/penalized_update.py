"""Optimizer steps with a weight penalty: EWC, SI and other regularizers."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor

from gr_cli.nn.flat_tensors import FlatTensors
from gr_cli.nn.gradient_projection import with_replica_axis
from gr_cli.optimizers import FunctionalOptimizer, Optimizer
from gr_cli.strategies.context import TaskContext
from gr_cli.strategies.regularizer import Regularizer


class PenalizedUpdate:
    """Steps of the parameters that a regularizer protects: gradient of the loss plus gradient of the penalty.

    Args:
        regularizer: Computes the penalty and its gradient.
        functional_optimizers: Optimizers of the protected parameters, by name.
        replicas: Number of replicas R.
    """

    def __init__(
        self, regularizer: Regularizer, functional_optimizers: Mapping[str, FunctionalOptimizer], replicas: int
    ) -> None:
        self.regularizer, self.functional_optimizers, self._replicas = regularizer, functional_optimizers, replicas
        self.begin_task()

    def begin_task(self) -> None:
        """Look up the parameters, which a caller may have replaced between tasks."""
        self._parameters = [
            p.detach() for optimizer in self.functional_optimizers.values() for p in optimizer.parameters
        ]
        self._replica_parameters = [with_replica_axis(p, self._replicas) for p in self._parameters]
        self._before: FlatTensors | None = None
        self._shaped: list[tuple[Tensor, Tensor]] = []  # gradients of the penalty with and without replica axis

    @torch.no_grad()
    def step(
        self, gradients: Sequence[Tensor | None], learning_rate: Callable[[Optimizer], float]
    ) -> dict[str, Tensor]:
        """One optimizer step with the sum of both gradients.

        Args:
            gradients: Gradients of the loss, in the order of the parameters.
            learning_rate: The learning rate now, from the optimizer settings of a replica.

        Returns:
            The value of the `penalty` (R,), from the second task on.
        """
        regularizer, parameters = self.regularizer, self._replica_parameters
        loss_gradients = [
            torch.zeros_like(p) if g is None else g for p, g in zip(self._parameters, gradients, strict=True)
        ]
        before: list[Tensor] = []
        if regularizer.tracks_trajectory:
            self._before = self._before or FlatTensors(parameters)
            before = self._before.copy_(parameters).views
        penalty = regularizer.penalty(parameters)
        total_gradients = loss_gradients
        if penalty is not None:
            total_gradients = self._with_parameter_shapes(penalty[1])
            torch._foreach_add_(total_gradients, loss_gradients)
        remaining = iter(total_gradients)
        for optimizer in self.functional_optimizers.values():
            optimizer.step([next(remaining) for _ in optimizer.parameters], learning_rate)
        if regularizer.tracks_trajectory:
            tracked_gradients = [with_replica_axis(g, self._replicas) for g in loss_gradients]
            regularizer.track_step(before, parameters, tracked_gradients)
        return {} if penalty is None else {"penalty": penalty[0]}

    def _with_parameter_shapes(self, gradients: list[Tensor]) -> list[Tensor]:
        """The gradients of the penalty without the replica axis if R = 1; a regularizer's buffer is shaped once."""
        if [id(g) for g in gradients] != [id(g) for g, _ in self._shaped]:
            self._shaped = [(g, g.view_as(p)) for g, p in zip(gradients, self._parameters, strict=True)]
        return [shaped for _, shaped in self._shaped]

    def end_task(self, context: TaskContext) -> None:
        """Let the regularizer estimate how important each parameter was for the completed task."""
        self.regularizer.end_task(self._replica_parameters, context)
