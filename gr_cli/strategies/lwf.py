from __future__ import annotations

from typing import Annotated, Literal

import torch
from torch import Tensor, nn

from gr_cli.nn.losses import cross_entropy
from gr_cli.scenario import Scenario
from gr_cli.strategies.context import Batch, LossTerm, SolverForward, TrainingStep
from gr_cli.strategies.regularizer import Regularizer
from gr_cli.strategies.replay import ReplayBatch, ReplayStrategy, teacher_targets
from gr_cli.types import DistillationScale, Positive, ReplayWeight, VariesPerReplica


class LearningWithoutForgetting(ReplayStrategy):
    """Current samples are replayed with what the solver said to them before the task (Li & Hoiem 2017).

    Args:
        replay_weight: weight of the earlier answers beside weight 1 of the labels; or `by_tasks`: in the t-th task 1/t
            on the labels and 1 - 1/t on the earlier answers; or `by_old_tasks`: 1 and t - 1; or `by_scenario`: 1 in
            class-incremental streams, in which all earlier classes share one answer, else `by_old_tasks` (van de Ven
            et al. 2022).
        temperature: of these answers and of the solver's own.
        distillation_scale: as for `ReplayStrategy`.
        regularizer: what else keeps the solver's parameters near to where they were.
    """

    uses_teacher = True
    boundary_requirement = "asks the solver as it was when the task began"

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
        """The current samples, with the frozen solver's probabilities."""
        if self.teacher is None:
            return None
        return ReplayBatch(batch.x, teacher_targets(self.teacher, batch.x, self._context.known_units, self.temperature))

    def loss(self, solver: SolverForward, batch: Batch, step: TrainingStep) -> dict[str, LossTerm]:
        replay = self.replay(batch, step)
        if replay is None:
            return super().loss(solver, batch, step)
        logits: Tensor = solver(batch.x)  # both losses are on the same samples
        return self.loss_terms(
            cross_entropy(logits, batch.y, batch.active_units), self.replay_loss_per_sample(logits, batch, replay)
        )
