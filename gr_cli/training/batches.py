"""Batches of a stage's samples, as indices into tensors that lie on the device."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import count, islice

import torch

from gr_cli.nn.batch_order import Order
from gr_cli.strategies.steps import Batch, Pass
from gr_cli.training.experiment import Experiment

# Iterations whose samples are chosen at once, and most samples for it.
_BLOCK, _CHOSEN = 64, 1 << 20


def batches(experiments: Sequence[Experiment], number: int, start: int) -> Iterator[Batch]:
    """The batches of stage `number` from iteration `start` on, without end, for runs that are trained together."""
    stages = [experiment.stages[number] for experiment in experiments]
    size, first = experiments[0].settings.config["train"]["batch_size"], stages[0]
    orders = [Order(len(s.train), size, e.learner.draws[0], s.task) for s, e in zip(stages, experiments, strict=True)]
    one_store = all(s.train.store is first.train.store and s.train.transform is None for s in stages)
    length = max(1, min(_BLOCK, _CHOSEN // size))
    for block in count(start, length):
        chosen = [order.block(block, length) for order in orders]  # (length, B) each
        places = torch.stack(chosen, 1)  # (length, R, B)
        rows = torch.stack([s.train.rows(index) for s, index in zip(stages, chosen, strict=True)], 1)
        labels = torch.stack([s.train.y[index] for s, index in zip(stages, chosen, strict=True)], 1)
        units = (
            [first.units] * length
            if first.units.dim() == 1
            else torch.stack([s.units[index] for s, index in zip(stages, chosen, strict=True)], 1)
        )
        for row, y, competing, index in zip(rows, labels, units, places, strict=True):
            if one_store:
                x = first.train.values(row)
            else:
                x = torch.stack([s.train.values(mine) for s, mine in zip(stages, row, strict=True)])
            yield Batch(x.to(experiments[0].learner.dtype), y, competing, first.replay_units, first.rivals, index)


def passes(experiments: Sequence[Experiment], number: int, most: int | None = None) -> Pass:
    """Passes over the samples of stage `number`, for each run; over the first `most` batches of them."""
    stages, dtype = [experiment.stages[number] for experiment in experiments], experiments[0].learner.dtype
    return lambda replica: ((x.to(dtype), y) for x, y in islice(stages[replica].train.batches(), most))
