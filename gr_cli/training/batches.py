"""Batches of a stage, gathered from tensors on the device by precomputed indices."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import count, islice, repeat
from typing import NamedTuple

import torch
from torch import Tensor

from gr_cli.nn.batch_order import BatchOrder, PoissonOrder
from gr_cli.strategies.context import Batch, SamplePass
from gr_cli.training.experiment import Experiment
from gr_cli.training.reading import max_iterations, read_blocks
from gr_cli.training.stages import Stage

# Iterations whose samples are indexed at once, and the largest number of samples in such a block.
_BLOCK_ITERATIONS, _MAX_BLOCK_SAMPLES = 64, 1 << 20


class _IndexBlock(NamedTuple):
    """Indices and labels of some iterations of R runs with batches of B samples.

    Attributes:
        rows: Rows of the store, (length, R, B).
        labels: Output units, (length, R, B).
        active_units: The output units that compete, for each iteration.
        sample_indices: Indices into the training samples, (length, R, B).
        masks: Poisson samples: which positions hold one, (length, R, B); None: all do.
    """

    rows: Tensor
    labels: Tensor
    active_units: Sequence[Tensor]
    sample_indices: Tensor
    masks: Tensor | None = None


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
        masks = repeat(None) if block.masks is None else iter(block.masks)
        for x, y, active, index in zip(samples, block.labels, block.active_units, block.sample_indices, strict=True):
            x = x if x.dtype is dtype else x.to(dtype)
            is_remainder, mask = y.shape[1] < size, next(masks)
            batch = Batch(
                x, y, active, first.replay_units, competing_units, index,
                updates=updates, is_remainder=is_remainder, mask=mask,
            )  # fmt: skip
            yield from repeat(batch, updates - done)
            done = 0


def _index_blocks(experiments: Sequence[Experiment], stage_index: int, first_batch: int) -> Iterator[_IndexBlock]:
    """Blocks of indices of a stage from `first_batch` on, endless except on single-pass streams."""
    stages = [experiment.stages[stage_index] for experiment in experiments]
    train, first = experiments[0].settings.config["train"], stages[0]
    size = train["batch_size"]
    trains = [stage.train for stage in stages]
    length = max(1, min(_BLOCK_ITERATIONS, _MAX_BLOCK_SAMPLES // size))
    length = min(length, max_iterations(trains, size) or length)
    for selected, masks in _selected_samples(experiments, stages, first_batch, length):
        rows = torch.stack([train.store_rows(index) for train, index in zip(trains, selected, strict=True)], 1)
        labels = torch.stack([train.y[index] for train, index in zip(trains, selected, strict=True)], 1)
        active_units = (
            [first.active_units] * len(rows)
            if first.active_units.dim() == 1
            else torch.stack([stage.active_units[index] for stage, index in zip(stages, selected, strict=True)], 1)
        )
        yield _IndexBlock(rows, labels, list(active_units), torch.stack(selected, 1), masks)


def _selected_samples(
    experiments: Sequence[Experiment], stages: Sequence[Stage], first_batch: int, length: int
) -> Iterator[tuple[list[Tensor], Tensor | None]]:
    """Indices (length, B) of the samples of each run, and masks, for one block of batches after the other."""
    config = experiments[0].settings.config
    train, privacy = config["train"], config["privacy"]
    sizes, draws = [len(stage.train) for stage in stages], [e.learner.random_streams[0] for e in experiments]
    if privacy["sampling_rate"] is not None:
        settings = train["batch_size"], privacy["sampling_rate"]
        samplers = [
            PoissonOrder(size, *settings, streams, stage.task, privacy["secure"])
            for size, streams, stage in zip(sizes, draws, stages, strict=True)
        ]
        for block in count(first_batch, length):
            indices, masks = zip(*(sampler.block(block, length) for sampler in samplers), strict=True)
            yield list(indices), torch.stack(masks, 1)
    orders = [
        BatchOrder(size, train["batch_size"], streams, stage.task)
        for size, streams, stage in zip(sizes, draws, stages, strict=True)
    ]
    for selected in _shuffled_samples(orders, first_batch, length, train["online"]):
        yield selected, None


def _shuffled_samples(
    orders: Sequence[BatchOrder], first_batch: int, length: int, single_pass: bool
) -> Iterator[list[Tensor]]:
    """Indices (length, B) of the samples of each run from shuffled epochs."""
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
