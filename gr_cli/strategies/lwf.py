"""Learning without Forgetting (Li & Hoiem 2017): distillation on the current samples."""

from __future__ import annotations

from typing import Annotated, Literal

import torch
from torch import nn

from gr_cli.scenario import Scenario
from gr_cli.strategies.context import Batch, LossTerm, SolverForward, TrainingStep, classification_losses
from gr_cli.strategies.regularizer import Regularizer
from gr_cli.strategies.replay import ReplayBatch, ReplayStrategy, teacher_targets
from gr_cli.types import DistillationScale, Positive, ReplayWeight, VariesPerReplica


class LearningWithoutForgetting(ReplayStrategy):
    """Learning without Forgetting: distillation on the current samples (Li & Hoiem 2017).

    Before a task the solver is copied and frozen as the teacher. The loss is the cross-entropy with the labels plus
    the distillation loss (`gr_cli.nn.losses.distillation_loss`) between the teacher's and the solver's predictions on
    the same samples, over the classes of earlier tasks. Nothing is stored.

    Args:
        replay_weight: Weight of the distillation loss; the loss on the labels has weight 1. `by_tasks`: in task t (from
            1) the labels have weight 1/t and the distillation loss 1 - 1/t. `by_old_tasks`: 1 and t - 1.
            `by_scenario`: 1 in class-incremental streams and else `by_old_tasks` (van de Ven et al. 2022).
        temperature: Temperature T of the softmax of teacher and solver in the distillation loss.
        distillation_scale: Factor of the distillation loss: 1 (`none`) or T^2 (`temperature_squared`, Hinton et al.
            2015).
        regularizer: Penalty on the solver's parameters that is added to the loss; None: no penalty.
    """

    uses_teacher = True
    boundary_requirement = "copies the solver at the start of each task"

    def __init__(
        self,
        replay_weight: Annotated[ReplayWeight | Literal["by_scenario"], VariesPerReplica] = "by_scenario",
        temperature: Annotated[Positive, VariesPerReplica] = 2.0,
        distillation_scale: DistillationScale = "none",
        regularizer: Regularizer | None = None,
    ) -> None:
        super().__init__(replay_weight, temperature, regularizer, distillation_scale)

    def check(self, scenario: Scenario, solver: nn.Module) -> None:
        if self.replay_weight == "by_scenario":
            self.replay_weight = 1.0 if scenario.is_class_incremental else "by_old_tasks"

    @torch.no_grad()
    def replay(self, batch: Batch, step: TrainingStep) -> ReplayBatch | None:
        """The current samples with the teacher's probabilities."""
        if self.teacher is None:
            return None
        return ReplayBatch(batch.x, teacher_targets(self.teacher, batch.x, self._context.known_units, self.temperature))

    def loss(self, solver: SolverForward, batch: Batch, step: TrainingStep) -> dict[str, LossTerm]:
        replay = self.replay(batch, step)
        if replay is None:
            return super().loss(solver, batch, step)
        targets = [self.current_targets(batch), self.replay_targets(batch, replay, start=0)]  # of the same samples
        return self.loss_terms(*classification_losses(solver, batch.x, targets))
