from __future__ import annotations

from dataclasses import replace
from typing import Annotated, Literal

import torch
from torch import Tensor

from gr_cli.strategies.exemplars import Choice, Exemplars
from gr_cli.strategies.regularizer import Regularizer
from gr_cli.strategies.replay import Replay, ReplayStrategy
from gr_cli.strategies.steps import Batch, Position, Situation, State, Term, state_of
from gr_cli.types import InMemory, PerReplica, PositiveInt, ReplayWeight


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
    looks_again = True
    needs_boundaries = (
        "chooses which samples of each class it keeps when a task is over; "
        "strategy=er_plus strategy.alpha=0 is experience replay from a reservoir, which need not know"
    )

    def __init__(
        self,
        per_class: Annotated[PositiveInt, InMemory] = 100,
        batch_size: Annotated[PositiveInt | None, InMemory] = None,
        replay_weight: Annotated[ReplayWeight, PerReplica] = "by_tasks",
        use: Literal["loss", "constraint"] = "loss",
        regularizer: Regularizer | None = None,
    ) -> None:
        super().__init__(replay_weight, 1.0, regularizer)
        self.per_class, self.batch_size, self.use = per_class, batch_size, use
        self.kept: Exemplars | None = None

    def replay(self, batch: Batch, position: Position) -> Replay | None:
        """Kept samples, chosen evenly, the units of their own task or all so far competing."""
        if self.kept is None:
            return None
        size = self.batch_size or batch.x.shape[1]
        x, y = self.kept.draw(self._situation.uniform("replay.choice", size, position))
        return Replay(x, y.unsqueeze(2), batch.rivals[y].unsqueeze(2))

    def terms(self, current: Tensor, old: Tensor) -> dict[str, Term]:
        found = super().terms(current, old)
        if self.use == "loss":
            return found
        return {"current": replace(found["current"], weight=1.0), "replay": replace(found["replay"], constraint=True)}

    def end_task(self, situation: Situation) -> None:
        new = Exemplars.of(situation, self.per_class, lambda replica: self._any(situation, replica))
        self.kept = new if self.kept is None else Exemplars.joined([self.kept, new])

    def _any(self, situation: Situation, replica: int) -> Choice:
        draws = situation.streams.generator(replica, "exemplars", situation.task)
        return lambda x, most: torch.randperm(x.shape[0], generator=draws, device=x.device)[:most]

    def state_dict(self) -> State:
        return super().state_dict() | {"kept": state_of(self.kept)}

    def load_state_dict(self, state: State, situation: Situation) -> None:
        super().load_state_dict(state, situation)
        self.kept = Exemplars.from_state(state["kept"])
