"""Steps of the generators' objectives."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import prod

import torch
from torch import Tensor

from gr_cli.generators.base import Generator
from gr_cli.nn.losses import total_of, weighted_sum
from gr_cli.nn.random_streams import Streams
from gr_cli.nn.replicas import Replicas
from gr_cli.optimizers import Descent, Optimizer
from gr_cli.strategies.base import Strategy
from gr_cli.strategies.steps import Batch, GeneratorBatch, Position


class GeneratorUpdate:
    """Trains R generators: their objectives, each with an optimiser of its own.

    Args:
        generators: the networks.
        optimizers: settings of each replica.
        streams: where the noise of the losses comes from.
    """

    def __init__(self, generators: Replicas[Generator], optimizers: Sequence[Optimizer], streams: Streams) -> None:
        self._generators, self._streams = generators, streams
        self._parts = generators.modules[0].parts()
        self.descents = {self._key(name): Descent(self._trained(name), optimizers) for name in self._parts}

    @staticmethod
    def _key(name: str) -> str:
        """What an objective is called beside the solver."""
        return f"generator.{name}"

    def _trained(self, name: str) -> list[Tensor]:
        """The parameters of an objective, (R, ...) each if there are several replicas."""
        return self._generators.trained(lambda network: network.parts()[name].parameters)

    def adopt_parameters(self) -> None:
        """Train the parameters that the generator of a single replica has now."""
        self._parts = self._generators.modules[0].parts()
        for name in self._parts:
            self.descents[self._key(name)].adopt(self._trained(name))

    def step(self, batch: GeneratorBatch, task: int, rate: Callable[[Optimizer], float]) -> dict[str, Tensor]:
        """One step of each objective that is due in this update; the terms of their losses, (R,) each."""
        losses: dict[str, Tensor] = {}
        for name, part in self._parts.items():
            if (batch.update + 1) % part.every:
                continue
            wanted = self._generators.noise("noise", batch.x.shape[1])
            noise = self._streams.batch(wanted, self._key(name), task, batch.update)
            labels = [] if batch.labels is None else [batch.labels]
            terms = self._generators.call("losses", name, batch.x, noise, *labels)
            values = {term: weighted_sum(value, batch.weights) for term, value in terms.items()}
            descent = self.descents[self._key(name)]
            # The replicas share no parameter, so the gradient of the sum holds each one's own.
            total = total_of(list(values.values())).sum()
            descent.step(torch.autograd.grad(total, descent.parameters, allow_unused=True), rate)
            losses |= {term: value.detach() for term, value in values.items()}
        return losses

    def step_all(self, batch: Batch, task: int, rate: Callable[[Optimizer], float]) -> dict[str, Tensor]:
        """One step of every objective on the samples of `batch`, whether one is due or not; their losses."""
        if not self._parts:
            return {}
        update = prod(part.every for part in self._parts.values()) - 1
        labels = batch.y if self._generators.modules[0].conditional else None
        return self.step(GeneratorBatch(batch.x, update, labels=labels), task, rate)


def generator_rate(strategy: Strategy, position: Position) -> Callable[[Optimizer], float]:
    """The generator's learning rate at `position`; steps in which the solver rests have a course of their own."""
    iteration, iterations = position.iteration, position.iterations
    if strategy.solver_iteration(position) is not None:
        return lambda optimizer: optimizer.lr_at(iteration, iterations)
    own = iteration if iteration < iterations else iteration - iterations
    others = strategy.steps(iterations) - iterations
    return lambda optimizer: optimizer.lr_at(own, others or iterations)
