"""Batches of a stage, gathered from tensors on the device by precomputed indices."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import count, islice

import torch

from gr_cli.nn.batch_order import BatchOrder
from gr_cli.strategies.context import Batch, SamplePass
from gr_cli.training.experiment import Experiment

# Iterations whose samples are indexed at once, and the largest number of samples in such a block.
_BLOCK_ITERATIONS, _MAX_BLOCK_SAMPLES = 64, 1 << 20


def batches(experiments: Sequence[Experiment], stage_index: int, first_iteration: int) -> Iterator[Batch]:
    """Endless batches of a stage from `first_iteration` on, stacked over the runs of a group."""
    stages = [experiment.stages[stage_index] for experiment in experiments]
    size, first = experiments[0].settings.config["train"]["batch_size"], stages[0]
    orders = [
        BatchOrder(len(stage.train), size, experiment.learner.random_streams[0], stage.task)
        for stage, experiment in zip(stages, experiments, strict=True)
    ]
    trains = [stage.train for stage in stages]
    shares_store = all(train.store is first.train.store and train.transform is None for train in trains)
    length = max(1, min(_BLOCK_ITERATIONS, _MAX_BLOCK_SAMPLES // size))
    for block in count(first_iteration, length):
        selected = [order.block(block, length) for order in orders]  # (length, B) each
        sample_indices = torch.stack(selected, 1)  # (length, R, B)
        rows = torch.stack([train.store_rows(index) for train, index in zip(trains, selected, strict=True)], 1)
        labels = torch.stack([train.y[index] for train, index in zip(trains, selected, strict=True)], 1)
        active_units = (
            [first.active_units] * length
            if first.active_units.dim() == 1
            else torch.stack([stage.active_units[index] for stage, index in zip(stages, selected, strict=True)], 1)
        )
        for row, y, active, index in zip(rows, labels, active_units, sample_indices, strict=True):
            if shares_store:
                x = first.train.values_at_rows(row)
            else:
                x = torch.stack([train.values_at_rows(r) for train, r in zip(trains, row, strict=True)])
            x = x.to(experiments[0].learner.dtype)
            yield Batch(x, y, active, first.replay_units, first.competing_units, index)


def sample_passes(experiments: Sequence[Experiment], stage_index: int, max_batches: int | None = None) -> SamplePass:
    """One pass over the samples of a stage for each run, limited to the first `max_batches` batches."""
    stages, dtype = [experiment.stages[stage_index] for experiment in experiments], experiments[0].learner.dtype
    return lambda replica: ((x.to(dtype), y) for x, y in islice(stages[replica].train.batches(), max_batches))
