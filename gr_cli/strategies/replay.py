"""What all strategies share that learn something of the earlier tasks beside the current batch."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from gr_cli.nn.layers import per_replica
from gr_cli.nn.losses import cross_entropy, distillation, soft_targets, weighted_sum
from gr_cli.nn.replicas import Replicas
from gr_cli.strategies.base import Strategy
from gr_cli.strategies.regularizer import Regularizer
from gr_cli.strategies.steps import Batch, Position, Situation, Solve, Term
from gr_cli.types import DistillationScale


class Replay(NamedTuple):
    """Replayed samples `x` (R, N, ...) with a target for each of H heads: units (R, N, H), or probabilities
    (R, N, H, U). `units`, bool (R, N, H, U): those that compete; None: as the batch says.

    `labels` (R, N): the classes that a conditional generator was asked for, if it was.
    `tasks` (R, N): the tasks whose gates a generator took the samples through, if it has such.
    """

    x: Tensor
    target: Tensor
    units: Tensor | None = None
    labels: Tensor | None = None
    tasks: Tensor | None = None

    @property
    def soft(self) -> bool:
        """Whether targets are probabilities."""
        return self.target.is_floating_point()

    def part(self, start: int, stop: int) -> Replay:
        """The samples from `start` to before `stop` of each replica."""
        return Replay(*(None if part is None else part[:, start:stop] for part in self))  # type: ignore[arg-type]

    def at(self, index: Tensor) -> Replay:
        """The samples at `index` (R, B), each replica's own."""
        replica = torch.arange(index.shape[0], device=index.device).unsqueeze(1)
        return Replay(*(None if part is None else part[replica, index] for part in self))  # type: ignore[arg-type]

    @staticmethod
    def joined(parts: list[Replay]) -> Replay:
        """All samples of `parts`, one after the other."""
        columns = zip(*parts, strict=True)
        return Replay(*(None if column[0] is None else torch.cat(column, 1) for column in columns))  # type: ignore[arg-type]


# Weights of the current and the replay loss with so many earlier tasks.
_RULES: dict[str, Callable[[int], tuple[float, float]]] = {
    "by_tasks": lambda old: (1 / (old + 1), old / (old + 1)),
    "by_old_tasks": lambda old: (1.0, float(old)),
}


def weights(rule: float | Tensor | str, task: int) -> tuple[float, float | Tensor]:
    """Weights of the current and the replay loss in `task` (from 0); a rule of one number per replica, (R,), as is."""
    return _RULES[rule](task) if isinstance(rule, str) else (1.0, rule)


def taught(teacher: Replicas, x: Tensor, units: Tensor, temperature: float | Tensor | None) -> Tensor:  # type: ignore[type-arg]
    """What a frozen solver says to `x` (R, N, ...), for each head of `units` bool (H, U): its choice, units (R, N, H),
    or its probabilities at `temperature`, (R, N, H, U)."""
    logits = teacher.call("__call__", x).to(x.dtype).unsqueeze(-2)  # (R, N, 1, U)
    if temperature is None:
        chosen: Tensor = logits.masked_fill(~units, -torch.inf).argmax(-1)
        return chosen
    return soft_targets(logits, units, per_replica(temperature, logits))


def sample_weights(batch: Batch, replay: Replay, current: float, old: float | Tensor) -> Tensor:
    """The weight of each sample, of current and replayed ones that weigh so much together: (R, B + N), of sum 1."""
    size, number, total = batch.x.shape[1], replay.x.shape[1], current + old
    found = replay.x.new_empty((replay.x.shape[0], size + number))
    found[:, :size] = per_replica(current / total / size, found)
    found[:, size:] = per_replica(old / total / number, found)
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
        self._joined: tuple[Position, Batch, Tensor] | None = None

    @abstractmethod
    def replay(self, batch: Batch, position: Position) -> Replay | None:
        """What is replayed on this step, the same however often it is asked for; None: nothing."""

    def _enter(self, situation: Situation) -> None:
        """Make ready for a task, or for going on in it."""
        super()._enter(situation)
        self._joined = None
        self.current_weight, self.old_weight = weights(self.replay_weight, situation.task)

    def both(self, batch: Batch, replay: Replay, position: Position) -> Tensor:
        """Current and replayed samples, one after the other; put together once in an iteration."""
        if self._joined is None or self._joined[0] != position or self._joined[1] is not batch:
            self._joined = (position, batch, torch.cat([batch.x, replay.x], 1))
        return self._joined[2]

    def loss(self, solver: Solve, batch: Batch, position: Position) -> dict[str, Term]:
        replay = self.replay(batch, position)
        if replay is None:
            current = self.current_losses(solver(batch.x), batch)
            return {"current": Term(weighted_sum(current, None), self.current_weight, per_sample=current)}
        return self.terms(*self.losses(solver(self.both(batch, replay, position)), batch, replay))

    def losses(self, logits: Tensor, batch: Batch, replay: Replay) -> tuple[Tensor, Tensor]:
        """The losses of single samples, current (R, B) and replayed (R, N), from the logits of both (R, B + N, U)."""
        size = batch.x.shape[1]
        plain = not replay.soft and replay.units is None and replay.target.shape[-1] == 1
        if plain and batch.units.dim() == 1 and self.current_by_labels:
            target = torch.cat([batch.y, replay.target[..., 0]], 1)
            units = torch.cat([batch.units.expand(size, -1), batch.replay_units.expand(target.shape[1] - size, -1)])
            loss = cross_entropy(logits, target, units)
            return loss[:, :size], loss[:, size:]
        old = self.old_losses(logits[:, size:], batch, replay)
        return self.current_losses(logits[:, :size], batch), old

    @property
    def current_by_labels(self) -> bool:
        """Whether current samples are learnt by their labels, as most strategies do."""
        return True

    @property
    def answer_temperature(self) -> float | Tensor:
        """The temperature at which the solver answers to soft targets."""
        return self.temperature

    def current_losses(self, logits: Tensor, batch: Batch) -> Tensor:
        """The losses of current samples (R, B) from their logits (R, B, U)."""
        return cross_entropy(logits, batch.y, batch.units)

    def old_losses(self, logits: Tensor, batch: Batch, replay: Replay) -> Tensor:
        """The losses of replayed samples (R, N) from their logits (R, N, U): their mean over heads."""
        units = batch.replay_units if replay.units is None else replay.units
        logits = logits.unsqueeze(-2)
        if not replay.soft:
            return cross_entropy(logits.expand(*replay.target.shape, -1), replay.target, units).mean(-1)
        temperature = self.answer_temperature
        loss = distillation(logits, replay.target, units, per_replica(temperature, logits)).mean(-1)
        return loss if self.distillation_scale == "none" else loss * per_replica(temperature**2, loss)

    def terms(self, current: Tensor, old: Tensor) -> dict[str, Term]:
        """The losses of single samples, (R, B) and (R, N), as weighted means."""
        return {
            "current": Term(weighted_sum(current, None), self.current_weight, per_sample=current),
            "replay": Term(weighted_sum(old, None), self.old_weight),
        }

    def leave_task(self) -> None:
        super().leave_task()
        self._joined = None
