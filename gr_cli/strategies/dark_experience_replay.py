"""Dark experience replay with labels (DER++, Buzzega et al. 2020)."""

from __future__ import annotations

from typing import Annotated

import torch
from torch import Tensor

from gr_cli.nn.losses import Targets
from gr_cli.nn.random_streams import StreamNames
from gr_cli.strategies.base import Strategy
from gr_cli.strategies.context import (
    Batch,
    LossTerm,
    SolverForward,
    State,
    TaskContext,
    TrainingStep,
    logit_losses,
    optional_state,
)
from gr_cli.strategies.regularizer import Regularizer
from gr_cli.strategies.reservoir_buffer import ReservoirBuffer, ReservoirDraws, ReservoirPlacements
from gr_cli.types import CountsSamplesInMemory, NonNegative, PositiveInt, VariesPerReplica


class DarkExperienceReplay(Strategy):
    """Dark experience replay (DER++): reservoir samples replayed with their logits (Buzzega et al. 2020).

    loss = CE(current) + alpha * MSE(logits, stored logits) + beta * CE(logits, stored labels)    (eq. 6)

    The two replay terms use independent batches from a reservoir buffer of the whole stream, the current task
    included; samples are stored with the logits that the solver had when they were seen. Task boundaries are not
    used. With `beta=0` this is DER, with `alpha=0` experience replay from a reservoir.

    Args:
        memory_size: Capacity of the reservoir buffer, in samples.
        batch_size: Samples per iteration in each of the two replay batches; None: as many as current samples.
        alpha: Weight of the mean squared error between logits and stored logits.
        beta: Weight of the cross-entropy with the stored labels.
        regularizer: Penalty on the solver's parameters that is added to the loss; None: no penalty.
    """

    stores_raw_samples = True
    boundary_requirement = None

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
        self._draws = ReservoirDraws(context.streams, StreamNames.REPLAY_CHOICE)

    def loss(self, solver: SolverForward, batch: Batch, step: TrainingStep) -> dict[str, LossTerm]:
        size = batch.y.shape[1]
        if self.buffer is None:
            all_logits = logits = solver(batch.x)
        else:
            replay_size = self.batch_size or size
            rows = self._draws.rows(self.buffer, 2 * replay_size, step)
            all_logits = solver(torch.cat([batch.x, self.buffer.get(rows)], 1))
            logits = all_logits[:, :size]
        # Samples that enter the buffer are stored with these logits.
        self._current_logits = logits.detach()
        twice = getattr(solver, "differentiable_twice", True)
        if self.buffer is None:
            (current,) = logit_losses(all_logits, [self.current_targets(batch)], twice)
            return {"current": current.replace(per_sample=None)}
        stored_logits = self.buffer.get_extra("logits", rows[:, :replay_size])
        stored_labels = self.buffer.get_extra("y", rows[:, replay_size:])
        assert stored_logits is not None and stored_labels is not None
        units = batch.units_competing_with(stored_labels)
        replay_units = batch.replay_units if units is None else units
        replay_targets = Targets(stored_labels.unsqueeze(-1), replay_units, size + replay_size)
        current, replay = logit_losses(all_logits, [self.current_targets(batch), replay_targets], twice)
        logit_distance = (all_logits[:, size : size + replay_size] - stored_logits).square().mean((1, 2))
        return {
            "current": current.replace(per_sample=None),
            "logits": LossTerm(logit_distance, self.alpha),
            "replay": replay.replace(weight=self.beta, per_sample=None),
        }

    def after_step(self, batch: Batch, step: TrainingStep) -> None:
        assert self._current_logits is not None
        extras = {"y": batch.y, "logits": self._current_logits}
        if self.buffer is None:
            self.buffer = ReservoirBuffer.empty(self.memory_size, batch.x, extras)
        rows = self._placements.rows(self.buffer, batch.y.shape[1], batch.without_repeats(step))
        self.buffer.write(batch.x, rows, extras)
        self._current_logits = None

    def release_task(self) -> None:
        self._current_logits = None

    def state_dict(self) -> State:
        return super().state_dict() | {"memory": optional_state(self.buffer)}

    def load_state_dict(self, state: State, context: TaskContext) -> None:
        super().load_state_dict(state, context)
        self.buffer = ReservoirBuffer.from_state(state["memory"])
