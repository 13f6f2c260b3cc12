"""Optimizer steps with a weight penalty: EWC, SI and other regularizers."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor

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
        regularizer, parameters = self.regularizer, self._parameters()
        loss_gradients = [
            torch.zeros_like(p) if g is None else with_replica_axis(g, self._replicas)
            for p, g in zip(parameters, gradients, strict=True)
        ]
        before = [p.clone() for p in parameters] if regularizer.tracks_trajectory else []
        penalty = regularizer.penalty(parameters)
        total_gradients = loss_gradients
        if penalty is not None:
            total_gradients = [loss + weight for loss, weight in zip(loss_gradients, penalty[1], strict=True)]
        remaining = iter(total_gradients)
        for optimizer in self.functional_optimizers.values():
            optimizer.step([next(remaining).view_as(p) for p in optimizer.parameters], learning_rate)
        if regularizer.tracks_trajectory:
            regularizer.track_step(before, parameters, loss_gradients)
        return {} if penalty is None else {"penalty": penalty[0]}

    def end_task(self, context: TaskContext) -> None:
        """Let the regularizer estimate how important each parameter was for the completed task."""
        self.regularizer.end_task(self._parameters(), context)

    def _parameters(self) -> list[Tensor]:
        parameters = (p.detach() for optimizer in self.functional_optimizers.values() for p in optimizer.parameters)
        return [with_replica_axis(p, self._replicas) for p in parameters]
