from __future__ import annotations

from typing import Annotated

import torch
from torch import Tensor

from gr_cli.nn.losses import cross_entropy, weighted_sum
from gr_cli.strategies.base import Strategy
from gr_cli.strategies.regularizer import Regularizer
from gr_cli.strategies.reservoir import Memory, Passage
from gr_cli.strategies.steps import Batch, Position, Situation, Solve, State, Term, state_of
from gr_cli.types import InMemory, NonNegative, PerReplica, PositiveInt


class DarkExperienceReplay(Strategy):
    """Kept samples are replayed with the logits that they had when they passed (DER++, Buzzega et al. 2020, eq. 6).

    loss = CE(current) + alpha * MSE(logits, kept logits) + beta * CE(kept labels), the two on different draws from a
    reservoir of all that passed, of the current task too. It never asks where a task ends. With beta = 0 it is DER.

    Args:
        memory_size: places in the reservoir.
        batch_size: samples of each of the two draws; None: as many as current ones.
        alpha: weight of the distance to kept logits.
        beta: weight of the loss on kept labels.
        regularizer: what else keeps the solver's parameters near to where they were.
    """

    stores_raw_samples = True
    needs_boundaries = ""

    def __init__(
        self,
        memory_size: Annotated[PositiveInt, InMemory] = 1000,
        batch_size: Annotated[PositiveInt | None, InMemory] = None,
        alpha: Annotated[NonNegative, PerReplica] = 0.5,
        beta: Annotated[NonNegative, PerReplica] = 0.5,
        regularizer: Regularizer | None = None,
    ) -> None:
        super().__init__(regularizer)
        self.memory_size, self.batch_size, self.alpha, self.beta = memory_size, batch_size, alpha, beta
        self.memory: Memory | None = None

    def _enter(self, situation: Situation) -> None:
        super()._enter(situation)
        self._said: Tensor | None = None
        self._passage = Passage(situation.streams)

    def loss(self, solver: Solve, batch: Batch, position: Position) -> dict[str, Term]:
        size = batch.y.shape[1]
        if self.memory is None:
            logits = solver(batch.x)
        else:
            number = self.batch_size or size
            rows = self.memory.choose(self._situation.uniform("replay.choice", 2 * number, position))
            logits, old = solver(torch.cat([batch.x, self.memory.at(rows)], 1)).split([size, 2 * number], 1)
        # What the solver says now is kept with the samples that find a place.
        self._said = logits.detach()
        terms = {"current": Term(weighted_sum(cross_entropy(logits, batch.y, batch.units), None))}
        if self.memory is None:
            return terms
        kept, labels = self.memory.extra("logits", rows[:, :number]), self.memory.extra("y", rows[:, number:])
        assert kept is not None and labels is not None
        distance = (old[:, :number] - kept).square().mean(-1)
        again = cross_entropy(old[:, number:], labels, batch.rivals[labels])
        return terms | {
            "logits": Term(weighted_sum(distance, None), self.alpha),
            "replay": Term(weighted_sum(again, None), self.beta),
        }

    def after_step(self, batch: Batch, position: Position) -> None:
        assert self._said is not None
        extras = {"y": batch.y, "logits": self._said}
        if self.memory is None:
            self.memory = Memory.empty(self.memory_size, batch.x, extras)
        rows = self._passage.rows(self.memory, batch.y.shape[1], position)
        self.memory.put(batch.x, rows, extras)
        self._said = None

    def leave_task(self) -> None:
        self._said = None

    def state_dict(self) -> State:
        return super().state_dict() | {"memory": state_of(self.memory)}

    def load_state_dict(self, state: State, situation: Situation) -> None:
        super().load_state_dict(state, situation)
        self.memory = Memory.from_state(state["memory"])
