"""Steps of the generators' objectives."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from math import prod

from torch import Tensor

from gr_cli.generators.base import Generator
from gr_cli.nn.gradient_rules import GradientRule, GradientStep, Loss
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
        rule: how gradients are made; each objective has a copy.
    """

    def __init__(
        self, generators: Replicas[Generator], optimizers: Sequence[Optimizer], streams: Streams, rule: GradientRule
    ) -> None:
        self._generators, self._streams = generators, streams
        self._parts = generators.modules[0].parts()
        self.descents = {self._key(name): Descent(self._trained(name), optimizers) for name in self._parts}
        self.gradient_rules = {name: copy.deepcopy(rule) for name in self.descents}

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
            key = self._key(name)
            noise = self._streams.batch(wanted, key, task, batch.update)
            labels = [] if batch.labels is None else [batch.labels]
            terms = self._generators.call("losses", name, batch.x, noise, *labels)
            values = {term: weighted_sum(value, batch.weights) for term, value in terms.items()}
            loss = Loss(total_of(list(values.values())), partial(_per_sample, terms, batch.weights))
            rule, descent = self.gradient_rules[key], self.descents[key]
            step = GradientStep(key, task, batch.update, self._streams)
            descent.step(rule.gradients(loss, descent.parameters, step), rate)
            losses |= {term: value.detach() for term, value in values.items()} | named_metrics(key, rule)
        return losses

    def step_all(self, batch: Batch, task: int, rate: Callable[[Optimizer], float]) -> dict[str, Tensor]:
        """One step of every objective on the samples of `batch`, whether one is due or not; their losses."""
        if not self._parts:
            return {}
        update = prod(part.every for part in self._parts.values()) - 1
        labels = batch.y if self._generators.modules[0].conditional else None
        return self.step(GeneratorBatch(batch.x, update, labels=labels), task, rate)


def _per_sample(terms: Mapping[str, Tensor], weights: Tensor | None) -> Tensor:
    """The part of each sample (R, B) in the loss of an objective, from its terms (R, B)."""
    values = total_of(list(terms.values()))
    return values / values.shape[1] if weights is None else values * weights


def named_metrics(name: str, rule: GradientRule) -> dict[str, Tensor]:
    """What a rule says of its newest step, by the names of history.csv: `<name>.<metric>`."""
    return {f"{name}.{metric}": value.detach() for metric, value in rule.metrics().items()}


def generator_rate(strategy: Strategy, position: Position) -> Callable[[Optimizer], float]:
    """The generator's learning rate at `position`; steps in which the solver rests have a course of their own."""
    iteration, iterations = position.iteration, position.iterations
    if strategy.solver_iteration(position) is not None:
        return lambda optimizer: optimizer.lr_at(iteration, iterations)
    own = iteration if iteration < iterations else iteration - iterations
    others = strategy.steps(iterations) - iterations
    return lambda optimizer: optimizer.lr_at(own, others or iterations)
