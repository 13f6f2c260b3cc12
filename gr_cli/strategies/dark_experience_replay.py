from __future__ import annotations

from typing import Annotated

import torch
from torch import Tensor

from gr_cli.nn.losses import cross_entropy, weighted_sum
from gr_cli.strategies.base import Strategy
from gr_cli.strategies.context import Batch, LossTerm, SolverForward, State, TaskContext, TrainingStep, optional_state
from gr_cli.strategies.regularizer import Regularizer
from gr_cli.strategies.reservoir_buffer import ReservoirBuffer, ReservoirPlacements
from gr_cli.types import CountsSamplesInMemory, NonNegative, PositiveInt, VariesPerReplica


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
    boundary_requirement = ""

    def __init__(
        self,
        memory_size: Annotated[PositiveInt, CountsSamplesInMemory] = 1000,
        batch_size: Annotated[PositiveInt | None, CountsSamplesInMemory] = None,
        alpha: Annotated[NonNegative, VariesPerReplica] = 0.5,
        beta: Annotated[NonNegative, VariesPerReplica] = 0.5,
        regularizer: Regularizer | None = None,
    ) -> None:
        super().__init__(regularizer)
        self.memory_size, self.batch_size, self.alpha, self.beta = memory_size, batch_size, alpha, beta
        self.buffer: ReservoirBuffer | None = None

    def _set_up_task(self, context: TaskContext) -> None:
        super()._set_up_task(context)
        self._current_logits: Tensor | None = None
        self._placements = ReservoirPlacements(context.streams)

    def loss(self, solver: SolverForward, batch: Batch, step: TrainingStep) -> dict[str, LossTerm]:
        size = batch.y.shape[1]
        if self.buffer is None:
            logits = solver(batch.x)
        else:
            number = self.batch_size or size
            rows = self.buffer.sample_rows(self._context.uniform("replay.choice", 2 * number, step))
            logits, old = solver(torch.cat([batch.x, self.buffer.get(rows)], 1)).split([size, 2 * number], 1)
        # What the solver says now is kept with the samples that find a place.
        self._current_logits = logits.detach()
        terms = {"current": LossTerm(weighted_sum(cross_entropy(logits, batch.y, batch.active_units), None))}
        if self.buffer is None:
            return terms
        kept, labels = self.buffer.get_extra("logits", rows[:, :number]), self.buffer.get_extra("y", rows[:, number:])
        assert kept is not None and labels is not None
        distance = (old[:, :number] - kept).square().mean(-1)
        again = cross_entropy(old[:, number:], labels, batch.competing_units[labels])
        return terms | {
            "logits": LossTerm(weighted_sum(distance, None), self.alpha),
            "replay": LossTerm(weighted_sum(again, None), self.beta),
        }

    def after_step(self, batch: Batch, step: TrainingStep) -> None:
        assert self._current_logits is not None
        extras = {"y": batch.y, "logits": self._current_logits}
        if self.buffer is None:
            self.buffer = ReservoirBuffer.empty(self.memory_size, batch.x, extras)
        rows = self._placements.rows(self.buffer, batch.y.shape[1], step)
        self.buffer.write(batch.x, rows, extras)
        self._current_logits = None

    def release_task(self) -> None:
        self._current_logits = None

    def state_dict(self) -> State:
        return super().state_dict() | {"memory": optional_state(self.buffer)}

    def load_state_dict(self, state: State, context: TaskContext) -> None:
        super().load_state_dict(state, context)
        self.buffer = ReservoirBuffer.from_state(state["memory"])
