"""Order of training samples: shuffled epochs, as indices."""

from __future__ import annotations

import torch
from torch import Tensor

from gr_cli.nn.random_streams import RandomStreams, StreamNames


class BatchOrder:
    """Endless sequence of full batches from shuffled epochs, as indices; a batch can span two epochs.

    Args:
        num_samples: Samples of the task.
        batch_size: Samples per batch.
        draws: Random streams of the run.
        task: Task, for its random stream.
    """

    def __init__(self, num_samples: int, batch_size: int, draws: RandomStreams, task: int) -> None:
        self._num_samples, self._batch_size, self._draws, self._task = num_samples, batch_size, draws, task
        self._epochs: dict[int, Tensor] = {}

    def _epoch(self, epoch: int) -> Tensor:
        if epoch not in self._epochs:
            # Iterations only increase: earlier epochs are not needed again.
            self._epochs = {e: p for e, p in self._epochs.items() if e >= epoch - 1}
            self._epochs[epoch] = self._draws.permutation(
                StreamNames.BATCH_ORDER, self._task, epoch, n=self._num_samples
            )
        return self._epochs[epoch]

    @property
    def full_batches(self) -> int:
        """Number of full batches in one epoch."""
        return self._num_samples // self._batch_size

    def remainder(self) -> Tensor:
        """Indices (1, n) of the samples of the first epoch that are in none of its full batches; n may be 0."""
        return self._epoch(0)[self.full_batches * self._batch_size :].unsqueeze(0)

    def block(self, iteration: int, count: int) -> Tensor:
        """Indices (count, batch_size) of the batches of `count` iterations from `iteration` on."""
        start, remaining, pieces = iteration * self._batch_size, count * self._batch_size, []
        while remaining:
            epoch, offset = divmod(start, self._num_samples)
            pieces.append(self._epoch(epoch)[offset : offset + remaining])
            remaining -= pieces[-1].shape[0]
            start += pieces[-1].shape[0]
        return torch.cat(pieces).view(count, self._batch_size)
