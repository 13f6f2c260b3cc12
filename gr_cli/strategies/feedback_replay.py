"""Replay through feedback, and brain-inspired replay: solver and generator as one network."""

from __future__ import annotations

from typing import Annotated, Literal, cast

import torch
import torch.nn.functional as F
from torch import Tensor

from gr_cli.errors import ConfigError
from gr_cli.generators.base import Generator
from gr_cli.nn.losses import weighted_sum
from gr_cli.nn.random_streams import StreamNames
from gr_cli.strategies.context import (
    Batch,
    GeneratorBatch,
    LossTerm,
    SolverForward,
    TaskContext,
    TrainingStep,
    logit_losses,
)
from gr_cli.strategies.generative_replay import GenerativeReplay
from gr_cli.strategies.regularizer import Regularizer
from gr_cli.strategies.replay import ReplayBatch, loss_weights, sample_weights
from gr_cli.types import CountsSamplesInMemory, DistillationScale, Positive, PositiveInt, ReplayWeight, VariesPerReplica


class FeedbackReplay(GenerativeReplay):
    """Replay through feedback: solver and generator share one network and loss (van de Ven & Tolias 2018).

    The solver is the generator's encoder: the generator decodes the solver's features. With a prior and gates for each
    class (`generator=bir`) this is brain-inspired replay (van de Ven et al. 2020).

    loss = solver's loss + generator's loss, both on current and replayed samples

    Args:
        generator: A generator that reads the solver's features: `rtf` or `bir`.
        batch_size: Generated samples replayed per iteration; None: as many as there are current samples.
        replay_weight: Weight of the solver's replay loss; the current loss has weight 1. `by_tasks`: in task t (from 1)
            the current loss has weight 1/t and the replay loss 1 - 1/t. `by_old_tasks`: 1 and t - 1.
        replay_reconstruction_weight: Weight of the generator's loss on replayed samples, a number or a rule as for
            `replay_weight`; None: the same as `replay_weight`.
        replay_source: Generate new samples in each iteration (`fresh`), or draw from a pool generated once per task
            (`pool`).
        pool_size: Samples in the pool.
        targets: Targets of generated samples: the teacher's predicted class (`hard`), or its probabilities (`soft`,
            distillation).
        temperature: Temperature T of the softmax of teacher and solver on soft targets.
        distillation_scale: Factor of the loss on soft targets: 1 (`none`) or T^2 (`temperature_squared`, Hinton et al.
            2015).
        consolidate_every: Iterations between two consolidations, at which the network is copied and frozen again.
            Required in task-free streams (`task_boundaries=unknown`), else not allowed.
        regularizer: Penalty on the solver's parameters that is added to the loss; None: no penalty.
    """

    shares_loss_with_generator = True

    def __init__(
        self,
        generator: Generator,
        batch_size: Annotated[PositiveInt | None, CountsSamplesInMemory] = None,
        replay_weight: Annotated[ReplayWeight, VariesPerReplica] = "by_tasks",
        replay_reconstruction_weight: Annotated[ReplayWeight | None, VariesPerReplica] = None,
        replay_source: Literal["fresh", "pool"] = "fresh",
        pool_size: Annotated[PositiveInt, CountsSamplesInMemory] = 5000,
        targets: Literal["hard", "soft"] = "soft",
        temperature: Annotated[Positive, VariesPerReplica] = 2.0,
        distillation_scale: DistillationScale = "none",
        consolidate_every: PositiveInt | None = None,
        regularizer: Regularizer | None = None,
    ) -> None:
        if not generator.reads_features:
            raise ConfigError(
                "generator",
                type(generator).__name__,
                "does not read the solver's features, as this strategy requires",
                "try generator=rtf or generator=bir",
            )
        self.replay_reconstruction_weight = replay_reconstruction_weight
        super().__init__(
            generator,
            batch_size=batch_size,
            replay_weight=replay_weight,
            generator_update_freq=1,
            replay_source=replay_source,
            pool_size=pool_size,
            targets=targets,
            temperature=temperature,
            distillation_scale=distillation_scale,
            generator_data="current_and_replay",
            consolidate_every=consolidate_every,
            regularizer=regularizer,
        )

    def _set_up_task(self, context: TaskContext) -> None:
        num_tasks = getattr(self.generator, "num_tasks", 0)
        if self.generator.gated_by_task and context.task >= num_tasks:
            raise ConfigError(
                "generator.num_tasks",
                num_tasks,
                "the generator has gates for so many tasks only",
                "try a larger number",
            )
        super()._set_up_task(context)

    def loss(self, solver: SolverForward, batch: Batch, step: TrainingStep) -> dict[str, LossTerm]:
        replay = self.replay(batch, step)
        x = batch.x if replay is None else self.current_and_replayed(batch, replay, step)
        features = solver.features(x)
        logits, twice = solver.readout(features), getattr(solver, "differentiable_twice", True)
        if replay is None:
            terms = dict(zip(["current"], logit_losses(logits, [self.current_targets(batch)], twice), strict=True))
        else:
            terms = self.loss_terms(*logit_losses(logits, self.both_targets(batch, replay), twice))
        weights, total_weight = None, cast(float | Tensor, 1.0)
        if replay is not None:
            replay_weight = self.replay_reconstruction_weight
            current_weight, old_weight = loss_weights(
                self.replay_weight if replay_weight is None else replay_weight, step.task
            )
            weights = sample_weights(batch, replay, current_weight, old_weight)
            total_weight = current_weight + old_weight
        for name, value in self._generator_losses(x, features, batch, replay, step).items():
            terms[name] = LossTerm(weighted_sum(value, weights), total_weight)
        return terms

    def _generator_losses(
        self, x: Tensor, features: Tensor, batch: Batch, replay: ReplayBatch | None, step: TrainingStep
    ) -> dict[str, Tensor]:
        """The generator's losses per sample, by name: (R, B + N) for current and replayed samples."""
        context = self._context
        specs = context.generator.noise_specs("training_noise", x.shape[1])
        noise = context.streams.noise_at(specs, StreamNames.FEEDBACK_NOISE, step.task, step.iteration)
        labels = class_probabilities = None
        if self.generator.conditional:
            labels, class_probabilities = batch.y, F.one_hot(batch.y, batch.competing_units.shape[0]).to(x.dtype)
            if replay is not None:
                assert replay.labels is not None
                labels = torch.cat([labels, replay.labels], 1)
                # The teacher's probabilities carry more information than the requested class, if there is one head.
                has_soft_labels = replay.has_soft_targets and replay.target.shape[2] == 1
                if has_soft_labels:
                    replayed_probabilities = replay.target[:, :, 0]
                else:
                    replayed_probabilities = F.one_hot(replay.labels, class_probabilities.shape[-1]).to(x.dtype)
                class_probabilities = torch.cat([class_probabilities, replayed_probabilities], 1)
        tasks = None
        if self.generator.gated_by_task:
            tasks = torch.full_like(batch.y, context.task)
            if replay is not None:
                assert replay.tasks is not None
                tasks = torch.cat([tasks, replay.tasks], 1)
        losses: dict[str, Tensor] = context.generator.call(
            "losses", "vae", x, noise, labels, features, class_probabilities, tasks
        )
        return losses

    def generator_batch(self, batch: Batch, step: TrainingStep) -> GeneratorBatch | None:
        return None  # trained by the solver's loss
