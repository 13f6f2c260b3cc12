"""Base class of strategies that train on current and replayed samples, and their teacher's targets."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from gr_cli.nn.layers import per_replica
from gr_cli.nn.losses import Targets, soft_targets
from gr_cli.nn.replicas import Replicas, select_samples
from gr_cli.strategies.base import Strategy
from gr_cli.strategies.context import Batch, LossTerm, SolverForward, TaskContext, TrainingStep, classification_losses
from gr_cli.strategies.regularizer import Regularizer
from gr_cli.types import DistillationScale


class ReplayBatch(NamedTuple):
    """Replayed samples with a target for each of H heads.

    Attributes:
        x: Samples (R, N, ...).
        target: Hard targets, units (R, N, H); or soft targets, probabilities (R, N, H, U).
        active_units: Units that compete on each sample, bool (R, N, H, U); None: `Batch.replay_units`.
        labels: Classes (R, N) requested from a conditional generator; None for others.
        tasks: Tasks (R, N) whose gates a task-gated generator used; None for others.
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

    def split(self, size: int) -> list[ReplayBatch]:
        """Batches of `size` consecutive samples of each replica."""
        num_batches = self.x.shape[1] // size
        columns = [[None] * num_batches if value is None else value.split(size, 1) for value in self]
        return [ReplayBatch(*values) for values in zip(*columns, strict=True)]

    def select(self, index: Tensor) -> ReplayBatch:
        """The samples at `index` (R, B), indexed within each replica."""
        return ReplayBatch(*(None if value is None else select_samples(value, index) for value in self))  # type: ignore[arg-type]

    def first(self, size: int) -> ReplayBatch:
        """The first `size` samples of each replica."""
        return ReplayBatch(*(None if value is None else value[:, :size] for value in self))  # type: ignore[arg-type]

    @staticmethod
    def concatenate(parts: list[ReplayBatch]) -> ReplayBatch:
        """All samples of `parts`, in their order."""
        columns = zip(*parts, strict=True)
        return ReplayBatch(*(None if column[0] is None else torch.cat(column, 1) for column in columns))  # type: ignore[arg-type]


# Weights of current and replay loss, given the number of earlier tasks.
_WEIGHT_RULES: dict[str, Callable[[int], tuple[float, float]]] = {
    "by_tasks": lambda num_earlier: (1 / (num_earlier + 1), num_earlier / (num_earlier + 1)),
    "by_old_tasks": lambda num_earlier: (1.0, float(num_earlier)),
}


def loss_weights(replay_weight: float | Tensor | str, task: int) -> tuple[float, float | Tensor]:
    """Weights of current and replay loss in `task` (from 0), given a number, (R,) numbers or the name of a rule."""
    return _WEIGHT_RULES[replay_weight](task) if isinstance(replay_weight, str) else (1.0, replay_weight)


def teacher_targets(teacher: Replicas, x: Tensor, known_units: Tensor, temperature: float | Tensor | None) -> Tensor:  # type: ignore[type-arg]
    """Targets by a frozen teacher, for each head.

    Args:
        teacher: The frozen solvers.
        x: Samples (R, N, ...).
        known_units: Units of each head: bool (H, U).
        temperature: T of soft targets, one number or (R,); None: hard targets.

    Returns:
        Hard targets, the units (R, N, H) with the largest logit; or soft targets, probabilities (R, N, H, U).
    """
    logits = teacher.call("__call__", x).to(x.dtype).unsqueeze(-2)  # (R, N, 1, U)
    if temperature is None:
        predicted: Tensor = logits.masked_fill(~known_units, -torch.inf).argmax(-1)
        return predicted
    return soft_targets(logits, known_units, per_replica(temperature, logits))


def sample_weights(
    batch: Batch, replay: ReplayBatch, current_loss_weight: float, replay_loss_weight: float | Tensor
) -> Tensor:
    """Weights (R, B + N), with sum 1, of current and replayed samples from the weights of their losses."""
    num_current, num_replayed, total = batch.x.shape[1], replay.x.shape[1], current_loss_weight + replay_loss_weight
    weights = replay.x.new_empty((replay.x.shape[0], num_current + num_replayed))
    weights[:, :num_current] = per_replica(current_loss_weight / total / num_current, weights)
    weights[:, num_current:] = per_replica(replay_loss_weight / total / num_replayed, weights)
    return weights


class ReplayStrategy(Strategy):
    """Base class of strategies that train on current and replayed samples.

    loss = w_current * loss(current samples) + w_replay * loss(replayed samples). Subclasses define `replay`:

        >>> class PreviousBatchReplay(ReplayStrategy):
        ...     stores_raw_samples = True
        ...     previous = None
        ...
        ...     def replay(self, batch, step):
        ...         return self.previous
        ...
        ...     def after_step(self, batch, step):
        ...         self.previous = ReplayBatch(batch.x, batch.y.unsqueeze(-1))  # one head
        >>> strategy = PreviousBatchReplay(replay_weight=1.0, temperature=1.0, regularizer=None)
        >>> units = torch.ones(2, dtype=torch.bool)
        >>> batch = Batch(torch.zeros(1, 4, 3), torch.tensor([[0, 1, 0, 1]]), units, units[None], units.expand(2, 2))
        >>> strategy.after_step(batch, TrainingStep(task=0, iteration=0, iterations=100))
        >>> strategy.replay(batch, TrainingStep(task=0, iteration=1, iterations=100)).target.shape  # (R, N, H)
        torch.Size([1, 4, 1])

    Args:
        replay_weight: Weight of the replay loss; the current loss has weight 1. `by_tasks`: in task t (from 1) the
            current loss has weight 1/t and the replay loss 1 - 1/t. `by_old_tasks`: 1 and t - 1.
        temperature: Temperature T of soft targets and of the solver's softmax against them.
        regularizer: Penalty on the solver's parameters that is added to the loss; None: no penalty.
        distillation_scale: Factor of the loss on soft targets: 1 (`none`), as in the code of van de Ven et al. (2022),
            or T^2 (`temperature_squared`), as in Hinton et al. (2015) and van de Ven et al. (2018 to 2021).
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
        self._concatenated: tuple[TrainingStep, Batch, ReplayBatch, Tensor] | None = None

    @abstractmethod
    def replay(self, batch: Batch, step: TrainingStep) -> ReplayBatch | None:
        """The replay batch of a step, the same at each call; None: no replay."""

    def solver_replay(self, solver: SolverForward, batch: Batch, step: TrainingStep) -> ReplayBatch | None:
        """The replay batch that the solver is trained on in a step; by default that of `replay`."""
        return self.replay(batch, step)

    def _set_up_task(self, context: TaskContext) -> None:
        super()._set_up_task(context)
        self._concatenated = None
        self.current_loss_weight, self.replay_loss_weight = loss_weights(self.replay_weight, context.task)

    def current_and_replayed(self, batch: Batch, replay: ReplayBatch, step: TrainingStep) -> Tensor:
        """Current and replayed samples, concatenated once per step: (R, B + N, ...)."""
        cached = self._concatenated
        if cached is None or cached[1] is not batch or cached[2].x is not replay.x or cached[0] != step:
            cached = self._concatenated = (step, batch, replay, torch.cat([batch.x, replay.x], 1))
        return cached[3]

    def loss(self, solver: SolverForward, batch: Batch, step: TrainingStep) -> dict[str, LossTerm]:
        replay = self.solver_replay(solver, batch, step)
        if replay is None:
            (current,) = classification_losses(solver, batch.x, [self.current_targets(batch)])
            return {"current": current.replace(weight=self.current_loss_weight)}
        x = self.current_and_replayed(batch, replay, step)
        return self.loss_terms(*classification_losses(solver, x, self.both_targets(batch, replay)))

    def both_targets(self, batch: Batch, replay: ReplayBatch) -> list[Targets]:
        """Targets of current and of replayed samples, which follow them in the batch."""
        return [self.current_targets(batch), self.replay_targets(batch, replay, batch.x.shape[1])]

    @property
    def student_temperature(self) -> float | Tensor:
        """Temperature of the solver's softmax against soft targets."""
        return self.temperature

    def replay_targets(self, batch: Batch, replay: ReplayBatch, start: int) -> Targets:
        """Targets of replayed samples, from position `start` of the batch on."""
        units = batch.replay_units if replay.active_units is None else replay.active_units
        if not replay.has_soft_targets:
            return Targets(replay.target, units, start)
        temperature = self.student_temperature
        scale = 1.0 if self.distillation_scale == "none" else temperature**2
        return Targets(replay.target, units, start, temperature, scale)

    def loss_terms(self, current: LossTerm, replay: LossTerm) -> dict[str, LossTerm]:
        """The losses of current and replayed samples with their weights."""
        return {
            "current": current.replace(weight=self.current_loss_weight),
            "replay": replay.replace(weight=self.replay_loss_weight, per_sample=None),
        }

    def release_task(self) -> None:
        super().release_task()
        self._concatenated = None
