"""Memory that the generator of generative replay is trained on."""

from __future__ import annotations

import torch
from torch import Tensor

from gr_cli.errors import ConfigError
from gr_cli.nn.random_streams import StreamNames
from gr_cli.strategies.context import GeneratorBatch, TaskContext, TrainingStep
from gr_cli.strategies.generated_samples import GeneratedReplay
from gr_cli.strategies.reservoir_buffer import (
    ReservoirBuffer,
    ReservoirDraws,
    ReservoirPlacements,
    first_of_each_task,
    split_evenly,
)

_CANDIDATES_PER_SLOT = 4  # generated samples per slot, so that rare classes fill their quota


class GeneratorMemory:
    """Samples of the current task by reservoir sampling, and generated samples of earlier tasks.

    Args:
        size: Capacity in samples.
        task_balanced: Whether the capacity is divided evenly between the tasks so far. If not, it is one reservoir that
            starts filled with generated samples and is updated with all samples.
        keeps_labels: Whether labels are stored, for conditional generators.

    Attributes:
        buffer: The stored samples; None while empty.

    Raises:
        ConfigError: The capacity is 0.
    """

    def __init__(self, size: int, task_balanced: bool, keeps_labels: bool) -> None:
        if size == 0:
            raise ConfigError(
                "strategy.memory_size",
                0,
                "the generator would have no training samples",
                "try strategy.memory_size=500 or strategy.generator_data=current_and_replay",
            )
        self._size, self._task_balanced, self._keeps_labels = size, task_balanced, keeps_labels
        self.buffer: ReservoirBuffer | None = None

    def set_up_task(self, context: TaskContext) -> None:
        """Empty the memory for a task, or for resuming within it."""
        self.buffer, self._placements = None, ReservoirPlacements(context.streams)
        self._draws = ReservoirDraws(context.streams, StreamNames.MEMORY_CHOICE)

    def fill(self, context: TaskContext, generated: GeneratedReplay) -> None:
        """Store generated samples of the earlier tasks."""
        by_label = self._task_balanced and context.task_of_unit is not None
        replay = generated.generate(self._size * (_CANDIDATES_PER_SLOT if by_label else 1), StreamNames.MEMORY_FILL)
        extras = {} if replay.labels is None else {"labels": replay.labels}
        self.buffer = ReservoirBuffer.empty(self._size, replay.x, extras)
        if not self._task_balanced:
            first = {name: value[:, : self._size] for name, value in extras.items()}
            x = replay.x[:, : self._size]
            self.buffer.add(x, x.new_zeros(x.shape[:2]), first)
            return
        num_reserved = self._size * context.task // (context.task + 1)
        valid = torch.ones(replay.x.shape[:2], dtype=torch.bool, device=replay.x.device)
        if context.task_of_unit is not None:
            first_head = replay.target[:, :, 0]
            label = first_head.argmax(-1) if replay.has_soft_targets else first_head
            valid = first_of_each_task(context.task_of_unit[label], split_evenly(num_reserved, context.task))
        self.buffer.fill_reserved(replay.x, valid, num_reserved, extras)

    def add(self, x: Tensor, y: Tensor, step: TrainingStep) -> None:
        """Update the reservoir with samples (R, B, ...) and labels (R, B)."""
        extras = {"labels": y} if self._keeps_labels else {}
        if self.buffer is None:
            self.buffer = ReservoirBuffer.empty(self._size, x, extras)
        self.buffer.write(x, self._placements.rows(self.buffer, x.shape[1], step), extras)

    def batch(self, size: int, step: TrainingStep, update: int) -> GeneratorBatch:
        """A batch of `size` samples for a step, drawn with replacement."""
        assert self.buffer is not None
        rows = self._draws.rows(self.buffer, size, step)
        return GeneratorBatch(self.buffer.get(rows), update, labels=self.buffer.get_extra("labels", rows))
