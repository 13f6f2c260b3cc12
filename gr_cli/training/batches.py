"""Batches of a stage, gathered from tensors on the device by precomputed indices."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import count, islice

import torch

from gr_cli.nn.batch_order import BatchOrder
from gr_cli.strategies.context import Batch, SamplePass
from gr_cli.training.experiment import Experiment

# Iterations whose samples are chosen at once, and most samples for it.
_BLOCK_ITERATIONS, _MAX_BLOCK_SAMPLES = 64, 1 << 20


def batches(experiments: Sequence[Experiment], stage_index: int, first_iteration: int) -> Iterator[Batch]:
    """Endless batches of a stage from `first_iteration` on, stacked over the runs of a group."""
    stages = [experiment.stages[stage_index] for experiment in experiments]
    size, first = experiments[0].settings.config["train"]["batch_size"], stages[0]
    orders = [
        BatchOrder(len(s.train), size, e.learner.random_streams[0], s.task)
        for s, e in zip(stages, experiments, strict=True)
    ]
    one_store = all(s.train.store is first.train.store and s.train.transform is None for s in stages)
    length = max(1, min(_BLOCK_ITERATIONS, _MAX_BLOCK_SAMPLES // size))
    for block in count(first_iteration, length):
        chosen = [order.block(block, length) for order in orders]  # (length, B) each
        places = torch.stack(chosen, 1)  # (length, R, B)
        rows = torch.stack([s.train.store_rows(index) for s, index in zip(stages, chosen, strict=True)], 1)
        labels = torch.stack([s.train.y[index] for s, index in zip(stages, chosen, strict=True)], 1)
        units = (
            [first.active_units] * length
            if first.active_units.dim() == 1
            else torch.stack([s.active_units[index] for s, index in zip(stages, chosen, strict=True)], 1)
        )
        for row, y, competing, index in zip(rows, labels, units, places, strict=True):
            if one_store:
                x = first.train.values_at_rows(row)
            else:
                x = torch.stack([s.train.values_at_rows(mine) for s, mine in zip(stages, row, strict=True)])
            yield Batch(
                x.to(experiments[0].learner.dtype), y, competing, first.replay_units, first.competing_units, index
            )


def sample_passes(experiments: Sequence[Experiment], stage_index: int, max_batches: int | None = None) -> SamplePass:
    """One pass over the samples of a stage for each run, limited to the first `max_batches` batches."""
    stages, dtype = [experiment.stages[stage_index] for experiment in experiments], experiments[0].learner.dtype
    return lambda replica: ((x.to(dtype), y) for x, y in islice(stages[replica].train.batches(), max_batches))
