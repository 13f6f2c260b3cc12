"""Training steps of the generators."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from math import prod

import torch
from torch import Tensor

from gr_cli.generators.base import Generator
from gr_cli.nn.fused import Value, detached, fused_values
from gr_cli.nn.gradient_rules import GradientRule, GradientStep, Loss
from gr_cli.nn.gradient_rules.base import weighted_terms
from gr_cli.nn.losses import sum_tensors, weighted_sum
from gr_cli.nn.random_streams import ReplicaStreams
from gr_cli.nn.replicas import Replicas
from gr_cli.optimizers import FunctionalOptimizer, Optimizer
from gr_cli.strategies.base import Strategy
from gr_cli.strategies.context import Batch, GeneratorBatch, GeneratorDistillation, TrainingStep


class GeneratorUpdate:
    """Trains R generators: one optimizer for each of their objectives.

    Args:
        generators: The networks.
        optimizers: Optimizer settings of each replica.
        streams: Random streams of the noise in the losses.
        rule: How gradients are computed; each objective has its own copy.
    """

    def __init__(
        self,
        generators: Replicas[Generator],
        optimizers: Sequence[Optimizer],
        streams: ReplicaStreams,
        rule: GradientRule,
    ) -> None:
        self._generators, self._streams = generators, streams
        self._objectives = generators.modules[0].objectives()
        self.functional_optimizers = {
            self._optimizer_name(name): FunctionalOptimizer(self._trained_parameters(name), optimizers)
            for name in self._objectives
        }
        self.gradient_rules = {name: copy.deepcopy(rule) for name in self.functional_optimizers}

    @staticmethod
    def _optimizer_name(name: str) -> str:
        """The name of an objective's optimizer in checkpoints and random streams."""
        return f"generator.{name}"

    def _trained_parameters(self, name: str) -> list[Tensor]:
        """The parameters of an objective, (R, ...) each if there are several replicas."""
        return self._generators.select_parameters(lambda network: network.objectives()[name].parameters)

    def rebind_parameters(self) -> None:
        """Optimize the parameters that the generator of a single replica has now."""
        self._objectives = self._generators.modules[0].objectives()
        for name in self._objectives:
            self.functional_optimizers[self._optimizer_name(name)].rebind_parameters(self._trained_parameters(name))

    def step(self, batch: GeneratorBatch, task: int, learning_rate: Callable[[Optimizer], float]) -> dict[str, Tensor]:
        """One step of each objective that is due in this update.

        Args:
            batch: Samples, labels and weights, and the number of the update.
            task: Index of the task, for random streams.
            learning_rate: The learning rate now, from the optimizer settings of a replica.

        Returns:
            The terms of the losses, (R,) each, and metrics of the gradient rules.
        """
        losses: dict[str, Tensor] = {}
        for name in self._due(batch):
            specs = self._generators.noise_specs("training_noise", batch.x.shape[1])
            key = self._optimizer_name(name)
            noise = self._streams.noise_at(specs, key, task, batch.update)
            rule, optimizer = self.gradient_rules[key], self.functional_optimizers[key]
            with rule.recording(self._generators):
                values, loss = self._loss(name, batch, noise)
                if batch.distillation is not None:
                    distilled = self._distillation_losses(batch.distillation, key, task, batch.update)
                    terms = [(value, batch.distillation.weight) for value in distilled.values()]
                    rest = partial(weighted_terms, terms)
                    loss = Loss(None, loss.per_sample, terms=[*loss.terms, *terms], rest=rest)
                    values |= {term: value.detach() for term, value in distilled.items()}
            step = GradientStep(key, task, batch.update, self._streams)
            optimizer.step(rule.gradients(loss, optimizer.parameters, step), learning_rate)
            losses |= values | gradient_metrics(key, rule)
        return losses

    def _due(self, batch: GeneratorBatch) -> list[str]:
        """The objectives that are due in an update."""
        number = batch.update + 1
        return [name for name, objective in self._objectives.items() if number % objective.update_every == 0]

    def kind(self, batch: GeneratorBatch) -> str:
        """Name of the work of an update, `generator.<objectives that are due>`."""
        return f"generator.{'+'.join(self._due(batch))}"

    def _loss(self, name: str, batch: GeneratorBatch, noise: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], Loss]:
        """The terms of an objective by name, (R,) each without autograd, and the loss that is their sum."""
        labels = [] if batch.labels is None else [batch.labels]
        plain_terms = partial(self._generators.call, "losses", name, batch.x, noise, *labels)
        rule = self.gradient_rules[self._optimizer_name(name)]
        fused = None
        if not rule.differentiates_twice and batch.mask is None and self._generators.has_native("fused_losses"):
            weights = None if batch.weights is None else batch.weights.expand(batch.x.shape[:2])
            fused = self._generators.call("fused_losses", name, batch.x, noise, batch.labels, weights)
        values: dict[str, Value]
        if fused is not None:
            values = dict(zip(fused.names, fused_values(fused), strict=True))
            contributions = partial(_contributions, plain_terms, batch.weights)
        else:
            terms = plain_terms()
            weights = batch.weights if batch.mask is None else _masked_weights(batch)
            values = {term: weighted_sum(value, weights) for term, value in terms.items()}
            contributions = partial(_contributions, lambda: terms, batch.weights)
        loss = _split_loss(batch, contributions, [(value, 1.0) for value in values.values()])
        return {term: detached(value) for term, value in values.items()}, loss

    def _distillation_losses(
        self, distillation: GeneratorDistillation, key: str, task: int, update: int
    ) -> dict[str, Tensor]:
        """The terms (R,) that compare trained and frozen generators on the same noised samples."""
        specs = self._generators.noise_specs("training_noise", distillation.x.shape[1])
        noise = self._streams.noise_at(specs, f"{key}.distillation", task, update)
        labels = [] if distillation.labels is None else [distillation.labels]
        with torch.no_grad():
            target = distillation.teacher.call("distillation_targets", distillation.x, noise, *labels)
        terms = self._generators.call("distillation_losses", target, distillation.x, noise, *labels)
        return {name: value.mean(-1) for name, value in terms.items()}

    def step_all_objectives(
        self, batch: Batch, task: int, learning_rate: Callable[[Optimizer], float]
    ) -> dict[str, Tensor]:
        """One step of every objective on the samples of `batch`, due or not; their losses."""
        if not self._objectives:
            return {}
        update = prod(objective.update_every for objective in self._objectives.values()) - 1  # all are due
        labels = batch.y if self._generators.modules[0].conditional else None
        return self.step(GeneratorBatch(batch.x, update, labels=labels), task, learning_rate)


def _contributions(terms: Callable[[], Mapping[str, Tensor]], weights: Tensor | None) -> Tensor:
    """Contribution (R, B) of each sample to the loss of an objective, from its terms (R, B)."""
    values = sum_tensors(list(terms().values()))
    return values / values.shape[1] if weights is None else values * weights


def _masked_weights(batch: GeneratorBatch) -> Tensor:
    """Weights (R, B) that leave out positions without a sample, and give theirs to the other current samples."""
    assert batch.mask is not None
    replicas, size = batch.x.shape[:2]
    weights = batch.x.new_full((replicas, size), 1.0 / size) if batch.weights is None else batch.weights.clone()
    number = batch.mask.shape[1]
    weights[:, :number] *= batch.mask * (number / batch.mask.sum(1, keepdim=True).clamp(min=1))
    return weights


def _split_loss(
    batch: GeneratorBatch, contributions: Callable[[], Tensor], terms: Sequence[tuple[Value, float]]
) -> Loss:
    """The loss of an objective, with the parts of current samples and, as the rest, that of replayed ones.

    Args:
        batch: The samples.
        contributions: Computes the part (R, B) of each of them.
        terms: Values (R,) and their weights.
    """
    number = batch.num_current
    if number is None:
        return Loss(None, contributions, terms=terms)

    def per_sample() -> Tensor:
        current = contributions()[:, :number]
        return current if batch.mask is None else current * batch.mask

    has_rest = number < batch.x.shape[1]
    weights = None if batch.weights is None else batch.weights.expand(batch.x.shape[:2])
    current_weight = 1.0 if weights is None else weights[:, :number].sum(1)
    return Loss(
        None, per_sample, terms=terms, rest=(lambda: contributions()[:, number:].sum(1)) if has_rest else None,
        current_weight=current_weight,
    )  # fmt: skip


def gradient_metrics(name: str, rule: GradientRule) -> dict[str, Tensor]:
    """Metrics of a gradient rule in its last step, named `<name>.<metric>` as in history.csv."""
    return {f"{name}.{metric}": value.detach() for metric, value in rule.metrics().items()}


def generator_learning_rate(strategy: Strategy, step: TrainingStep) -> Callable[[Optimizer], float]:
    """The generator's learning rate at a step; steps of the generator alone have a schedule of their own."""
    iteration, iterations = step.iteration, step.iterations
    if strategy.solver_iteration(step) is not None:
        return lambda optimizer: optimizer.lr_at(iteration, iterations)
    generator_iteration = iteration if iteration < iterations else iteration - iterations
    generator_only_steps = strategy.num_steps(iterations) - iterations
    return lambda optimizer: optimizer.lr_at(generator_iteration, generator_only_steps or iterations)
