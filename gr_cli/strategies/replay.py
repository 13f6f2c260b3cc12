"""What all strategies share that learn something of the earlier tasks beside the current batch."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from gr_cli.nn.layers import per_replica
from gr_cli.nn.losses import cross_entropy, distillation_loss, soft_targets, weighted_sum
from gr_cli.nn.replicas import Replicas
from gr_cli.strategies.base import Strategy
from gr_cli.strategies.context import Batch, LossTerm, SolverForward, TaskContext, TrainingStep
from gr_cli.strategies.regularizer import Regularizer
from gr_cli.types import DistillationScale


class ReplayBatch(NamedTuple):
    """Replayed samples `x` (R, N, ...) with a target for each of H heads: units (R, N, H), or probabilities
    (R, N, H, U). `units`, bool (R, N, H, U): those that compete; None: as the batch says.

    `labels` (R, N): the classes that a conditional generator was asked for, if it was.
    `tasks` (R, N): the tasks whose gates a generator took the samples through, if it has such.
    """

    x: Tensor
    target: Tensor
    active_units: Tensor | None = None
    labels: Tensor | None = None
    tasks: Tensor | None = None

    @property
    def has_soft_targets(self) -> bool:
        """Whether targets are probabilities."""
        return self.target.is_floating_point()

    def slice(self, start: int, stop: int) -> ReplayBatch:
        """The samples from `start` to before `stop` of each replica."""
        return ReplayBatch(*(None if part is None else part[:, start:stop] for part in self))  # type: ignore[arg-type]

    def select(self, index: Tensor) -> ReplayBatch:
        """The samples at `index` (R, B), each replica's own."""
        replica = torch.arange(index.shape[0], device=index.device).unsqueeze(1)
        return ReplayBatch(*(None if part is None else part[replica, index] for part in self))  # type: ignore[arg-type]

    @staticmethod
    def concatenate(parts: list[ReplayBatch]) -> ReplayBatch:
        """All samples of `parts`, one after the other."""
        columns = zip(*parts, strict=True)
        return ReplayBatch(*(None if column[0] is None else torch.cat(column, 1) for column in columns))  # type: ignore[arg-type]


# Weights of the current and the replay loss with so many earlier tasks.
_WEIGHT_RULES: dict[str, Callable[[int], tuple[float, float]]] = {
    "by_tasks": lambda old: (1 / (old + 1), old / (old + 1)),
    "by_old_tasks": lambda old: (1.0, float(old)),
}


def loss_weights(replay_weight: float | Tensor | str, task: int) -> tuple[float, float | Tensor]:
    """Weights of the current and the replay loss in `task` (from 0); a rule of one number per replica, (R,), as is."""
    return _WEIGHT_RULES[replay_weight](task) if isinstance(replay_weight, str) else (1.0, replay_weight)


def teacher_targets(teacher: Replicas, x: Tensor, known_units: Tensor, temperature: float | Tensor | None) -> Tensor:  # type: ignore[type-arg]
    """What a frozen solver says to `x` (R, N, ...), for each head of `units` bool (H, U): its choice, units (R, N, H),
    or its probabilities at `temperature`, (R, N, H, U)."""
    logits = teacher.call("__call__", x).to(x.dtype).unsqueeze(-2)  # (R, N, 1, U)
    if temperature is None:
        chosen: Tensor = logits.masked_fill(~known_units, -torch.inf).argmax(-1)
        return chosen
    return soft_targets(logits, known_units, per_replica(temperature, logits))


def sample_weights(
    batch: Batch, replay: ReplayBatch, current_loss_weight: float, replay_loss_weight: float | Tensor
) -> Tensor:
    """The weight of each sample, of current and replayed ones that weigh so much together: (R, B + N), of sum 1."""
    size, number, total = batch.x.shape[1], replay.x.shape[1], current_loss_weight + replay_loss_weight
    found = replay.x.new_empty((replay.x.shape[0], size + number))
    found[:, :size] = per_replica(current_loss_weight / total / size, found)
    found[:, size:] = per_replica(replay_loss_weight / total / number, found)
    return found


class ReplayStrategy(Strategy):
    """Current and replayed samples are learnt together: w_current * loss(current) + w_replay * loss(replayed).

    Args:
        replay_weight: weight of the replay loss beside weight 1 of the current loss, or `by_tasks`: in the t-th task
            1/t on the current and 1 - 1/t on the replayed samples, or `by_old_tasks`: 1 and t - 1.
        temperature: T of soft targets and of the solver's answer to them.
        distillation_scale: what the loss on soft targets is multiplied by: `none`, as in the program of van de Ven et
            al. (2022), or `temperature_squared`, T^2, as in their earlier ones (2018 to 2021) and Hinton et al. (2015).
        regularizer: what else keeps the solver's parameters near to where they were.
    """

    def __init__(
        self,
        replay_weight: float | Tensor | str,
        temperature: float | Tensor,
        regularizer: Regularizer | None,
        distillation_scale: DistillationScale = "none",
    ) -> None:
        super().__init__(regularizer)
        self.replay_weight, self.temperature = replay_weight, temperature
        self.distillation_scale = distillation_scale
        self._concatenated: tuple[TrainingStep, Batch, Tensor] | None = None

    @abstractmethod
    def replay(self, batch: Batch, step: TrainingStep) -> ReplayBatch | None:
        """What is replayed on this step, the same however often it is asked for; None: nothing."""

    def _set_up_task(self, context: TaskContext) -> None:
        """Make ready for a task, or for going on in it."""
        super()._set_up_task(context)
        self._concatenated = None
        self.current_loss_weight, self.replay_loss_weight = loss_weights(self.replay_weight, context.task)

    def current_and_replayed(self, batch: Batch, replay: ReplayBatch, step: TrainingStep) -> Tensor:
        """Current and replayed samples, one after the other; put together once in an iteration."""
        if self._concatenated is None or self._concatenated[0] != step or self._concatenated[1] is not batch:
            self._concatenated = (step, batch, torch.cat([batch.x, replay.x], 1))
        return self._concatenated[2]

    def loss(self, solver: SolverForward, batch: Batch, step: TrainingStep) -> dict[str, LossTerm]:
        replay = self.replay(batch, step)
        if replay is None:
            current = self.current_loss_per_sample(solver(batch.x), batch)
            return {"current": LossTerm(weighted_sum(current, None), self.current_loss_weight, per_sample=current)}
        return self.loss_terms(
            *self.losses_per_sample(solver(self.current_and_replayed(batch, replay, step)), batch, replay)
        )

    def losses_per_sample(self, logits: Tensor, batch: Batch, replay: ReplayBatch) -> tuple[Tensor, Tensor]:
        """The losses of single samples, current (R, B) and replayed (R, N), from the logits of both (R, B + N, U)."""
        size = batch.x.shape[1]
        plain = not replay.has_soft_targets and replay.active_units is None and replay.target.shape[-1] == 1
        if plain and batch.active_units.dim() == 1 and self.current_targets_are_labels:
            target = torch.cat([batch.y, replay.target[..., 0]], 1)
            units = torch.cat(
                [batch.active_units.expand(size, -1), batch.replay_units.expand(target.shape[1] - size, -1)]
            )
            loss = cross_entropy(logits, target, units)
            return loss[:, :size], loss[:, size:]
        old = self.replay_loss_per_sample(logits[:, size:], batch, replay)
        return self.current_loss_per_sample(logits[:, :size], batch), old

    @property
    def current_targets_are_labels(self) -> bool:
        """Whether current samples are learnt by their labels, as most strategies do."""
        return True

    @property
    def student_temperature(self) -> float | Tensor:
        """The temperature at which the solver answers to soft targets."""
        return self.temperature

    def current_loss_per_sample(self, logits: Tensor, batch: Batch) -> Tensor:
        """The losses of current samples (R, B) from their logits (R, B, U)."""
        return cross_entropy(logits, batch.y, batch.active_units)

    def replay_loss_per_sample(self, logits: Tensor, batch: Batch, replay: ReplayBatch) -> Tensor:
        """The losses of replayed samples (R, N) from their logits (R, N, U): their mean over heads."""
        units = batch.replay_units if replay.active_units is None else replay.active_units
        logits = logits.unsqueeze(-2)
        if not replay.has_soft_targets:
            return cross_entropy(logits.expand(*replay.target.shape, -1), replay.target, units).mean(-1)
        temperature = self.student_temperature
        loss = distillation_loss(logits, replay.target, units, per_replica(temperature, logits)).mean(-1)
        return loss if self.distillation_scale == "none" else loss * per_replica(temperature**2, loss)

    def loss_terms(self, current_loss: Tensor, replay_loss: Tensor) -> dict[str, LossTerm]:
        """The losses of single samples, (R, B) and (R, N), as weighted means."""
        return {
            "current": LossTerm(weighted_sum(current_loss, None), self.current_loss_weight, per_sample=current_loss),
            "replay": LossTerm(weighted_sum(replay_loss, None), self.replay_loss_weight),
        }

    def release_task(self) -> None:
        super().release_task()
        self._concatenated = None
