"""Batches of a stage, gathered from tensors on the device by precomputed indices."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import count, islice, repeat
from typing import NamedTuple

import torch
from torch import Tensor

from gr_cli.nn.batch_order import BatchOrder
from gr_cli.strategies.context import Batch, SamplePass
from gr_cli.training.experiment import Experiment
from gr_cli.training.reading import max_iterations, read_blocks

# Iterations whose samples are indexed at once, and the largest number of samples in such a block.
_BLOCK_ITERATIONS, _MAX_BLOCK_SAMPLES = 64, 1 << 20


class _IndexBlock(NamedTuple):
    """Indices and labels of some iterations of R runs with batches of B samples.

    Attributes:
        rows: Rows of the store, (length, R, B).
        labels: Output units, (length, R, B).
        active_units: The output units that compete, for each iteration.
        sample_indices: Indices into the training samples, (length, R, B).
    """

    rows: Tensor
    labels: Tensor
    active_units: Sequence[Tensor]
    sample_indices: Tensor


def batches(experiments: Sequence[Experiment], stage_index: int, first_iteration: int) -> Iterator[Batch]:
    """Batches of a stage from `first_iteration` on, stacked over the runs of a group.

    They are endless, except on single-pass streams, where each is repeated for `train.updates_per_batch` iterations.
    """
    first, dtype = experiments[0].stages[stage_index], experiments[0].learner.dtype
    train = experiments[0].settings.config["train"]
    trains = [experiment.stages[stage_index].train for experiment in experiments]
    size, updates = train["batch_size"], train["updates_per_batch"]
    first_batch, done = divmod(first_iteration, updates)
    blocks, competing_units = _index_blocks(experiments, stage_index, first_batch), first.competing_units
    for block, samples in read_blocks(blocks, trains, lambda block: block.rows):
        for x, y, active, index in zip(samples, block.labels, block.active_units, block.sample_indices, strict=True):
            x = x if x.dtype is dtype else x.to(dtype)
            is_remainder = y.shape[1] < size
            batch = Batch(
                x, y, active, first.replay_units, competing_units, index, updates=updates, is_remainder=is_remainder
            )
            yield from repeat(batch, updates - done)
            done = 0


def _index_blocks(experiments: Sequence[Experiment], stage_index: int, first_batch: int) -> Iterator[_IndexBlock]:
    """Blocks of indices of a stage from `first_batch` on, endless except on single-pass streams."""
    stages = [experiment.stages[stage_index] for experiment in experiments]
    train, first = experiments[0].settings.config["train"], stages[0]
    size = train["batch_size"]
    orders = [
        BatchOrder(len(stage.train), size, experiment.learner.random_streams[0], stage.task)
        for stage, experiment in zip(stages, experiments, strict=True)
    ]
    trains = [stage.train for stage in stages]
    length = max(1, min(_BLOCK_ITERATIONS, _MAX_BLOCK_SAMPLES // size))
    length = min(length, max_iterations(trains, size) or length)
    for selected in _selected_samples(orders, first_batch, length, train["online"]):
        rows = torch.stack([train.store_rows(index) for train, index in zip(trains, selected, strict=True)], 1)
        labels = torch.stack([train.y[index] for train, index in zip(trains, selected, strict=True)], 1)
        active_units = (
            [first.active_units] * len(rows)
            if first.active_units.dim() == 1
            else torch.stack([stage.active_units[index] for stage, index in zip(stages, selected, strict=True)], 1)
        )
        yield _IndexBlock(rows, labels, list(active_units), torch.stack(selected, 1))


def _selected_samples(
    orders: Sequence[BatchOrder], first_batch: int, length: int, single_pass: bool
) -> Iterator[list[Tensor]]:
    """Indices (length, B) of the samples of each run, for one block of batches after the other."""
    if not single_pass:
        yield from ([order.block(block, length) for order in orders] for block in count(first_batch, length))
        return
    num_full = orders[0].full_batches
    for block in range(first_batch, num_full, length):
        yield [order.block(block, min(length, num_full - block)) for order in orders]
    remainders = [order.remainder() for order in orders]
    if remainders[0].shape[1]:
        yield remainders


def sample_passes(experiments: Sequence[Experiment], stage_index: int, max_batches: int | None = None) -> SamplePass:
    """One pass over the samples of a stage for each run, limited to the first `max_batches` batches."""
    stages, dtype = [experiment.stages[stage_index] for experiment in experiments], experiments[0].learner.dtype
    return lambda replica: ((x.to(dtype), y) for x, y in islice(stages[replica].train.batches(), max_batches))
