"""Order of training samples, as indices: shuffled epochs, or Poisson samples."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from gr_cli.nn.random_streams import RandomStreams, StreamNames
from gr_cli.privacy.noise import uniform_numbers


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


class PoissonOrder:
    """Poisson samples in batches of one shape: each sample is in each batch with a probability, independently.

    Args:
        num_samples: Samples of the task.
        batch_size: Positions of a batch. Samples that are drawn when it is full are left out.
        rate: Probability that a sample is drawn.
        draws: Random streams of the run.
        task: Task, for its random stream.
        secure: Whether samples are drawn by the operating system's generator instead of the random stream, and put at
            random positions. The noise of a loss belongs to positions and follows from the seed, which may be known:
            in a fixed order one sample more would give all after it other noise, and change more than its own gradient.
    """

    def __init__(
        self, num_samples: int, batch_size: int, rate: float, draws: RandomStreams, task: int, secure: bool
    ) -> None:
        self._num_samples, self._batch_size, self._rate = num_samples, batch_size, rate
        self._draws, self._task, self._secure = draws, task, secure

    def block(self, iteration: int, count: int) -> tuple[Tensor, Tensor]:
        """Indices and mask (count, batch_size) of the batches of `count` iterations from `iteration` on.

        The mask is False at positions without a sample, which have the index of one that was not drawn. They come last
        unless `secure`.
        """
        indices, masks = zip(*(self._batch(i) for i in range(iteration, iteration + count)), strict=True)
        return torch.stack(indices), torch.stack(masks)

    def _batch(self, iteration: int) -> tuple[Tensor, Tensor]:
        stream = None if self._secure else self._draws.generator(StreamNames.POISSON_SAMPLES, self._task, iteration)
        is_drawn = (uniform_numbers((self._num_samples,), stream) < self._rate).to(self._draws.device, torch.uint8)
        mask, index = is_drawn.sort(descending=True, stable=True)
        padding = max(0, self._batch_size - self._num_samples)
        index, mask = (F.pad(values[: self._batch_size], (0, padding)) for values in (index, mask))
        if self._secure:
            order = uniform_numbers((self._batch_size,), None).argsort().to(index.device)
            index, mask = index[order], mask[order]
        return index, mask.bool()
