from __future__ import annotations

from dataclasses import replace
from typing import Annotated, Literal

import torch
from torch import Tensor

from gr_cli.strategies.context import Batch, LossTerm, State, TaskContext, TrainingStep, optional_state
from gr_cli.strategies.exemplar_buffer import ExemplarBuffer, Selection
from gr_cli.strategies.regularizer import Regularizer
from gr_cli.strategies.replay import ReplayBatch, ReplayStrategy
from gr_cli.types import CountsSamplesInMemory, PositiveInt, ReplayWeight, VariesPerReplica


class ExperienceReplay(ReplayStrategy):
    """Some samples of each class of each task are kept and learnt again beside the current ones (Rolnick et al. 2019).

    As a `constraint` it is A-GEM (Chaudhry et al. 2019): the current loss alone is gone down, but never in a direction
    in which that of the kept samples rises.

    Args:
        per_class: samples kept of each class of each task, chosen evenly when it is over.
        batch_size: kept samples replayed in each iteration; None: as many as current ones.
        replay_weight: weight of the replay loss beside weight 1 of the current loss, or `by_tasks`: in the t-th task
            1/t on the current and 1 - 1/t on the replayed samples, or `by_old_tasks`: 1 and t - 1. A constraint
            has no weight.
        use: of the loss on kept samples, `loss` or `constraint`.
        regularizer: what else keeps the solver's parameters near to where they were.
    """

    stores_raw_samples = True
    needs_second_pass = True
    boundary_requirement = (
        "chooses which samples of each class it keeps when a task is over; "
        "strategy=er_plus strategy.alpha=0 is experience replay from a reservoir, which need not know"
    )

    def __init__(
        self,
        per_class: Annotated[PositiveInt, CountsSamplesInMemory] = 100,
        batch_size: Annotated[PositiveInt | None, CountsSamplesInMemory] = None,
        replay_weight: Annotated[ReplayWeight, VariesPerReplica] = "by_tasks",
        use: Literal["loss", "constraint"] = "loss",
        regularizer: Regularizer | None = None,
    ) -> None:
        super().__init__(replay_weight, 1.0, regularizer)
        self.per_class, self.batch_size, self.use = per_class, batch_size, use
        self.exemplars: ExemplarBuffer | None = None

    def replay(self, batch: Batch, step: TrainingStep) -> ReplayBatch | None:
        """Kept samples, chosen evenly, the units of their own task or all so far competing."""
        if self.exemplars is None:
            return None
        size = self.batch_size or batch.x.shape[1]
        x, y = self.exemplars.sample(self._context.uniform("replay.choice", size, step))
        return ReplayBatch(x, y.unsqueeze(2), batch.competing_units[y].unsqueeze(2))

    def loss_terms(self, current_loss: Tensor, replay_loss: Tensor) -> dict[str, LossTerm]:
        found = super().loss_terms(current_loss, replay_loss)
        if self.use == "loss":
            return found
        return {
            "current": replace(found["current"], weight=1.0),
            "replay": replace(found["replay"], is_constraint=True),
        }

    def end_task(self, context: TaskContext) -> None:
        new = ExemplarBuffer.from_task(
            context, self.per_class, lambda replica: self._random_selection(context, replica)
        )
        self.exemplars = new if self.exemplars is None else ExemplarBuffer.concatenate([self.exemplars, new])

    def _random_selection(self, situation: TaskContext, replica: int) -> Selection:
        draws = situation.streams.generator(replica, "exemplars", situation.task)
        return lambda x, most: torch.randperm(x.shape[0], generator=draws, device=x.device)[:most]

    def state_dict(self) -> State:
        return super().state_dict() | {"exemplars": optional_state(self.exemplars)}

    def load_state_dict(self, state: State, context: TaskContext) -> None:
        super().load_state_dict(state, context)
        self.exemplars = ExemplarBuffer.from_state(state["exemplars"])
