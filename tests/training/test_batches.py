"""Batches of a stage, compared with samples gathered one iteration at a time."""

from dataclasses import replace
from itertools import islice

import pytest
import torch

from gr_cli.cli.compose import compose_settings
from gr_cli.cli.launchers.program_width import experiments_on_same_data
from gr_cli.nn.batch_order import BatchOrder
from gr_cli.training import reading
from gr_cli.training.batches import batches
from gr_cli.training.experiment import prepare

STREAMS = {
    "one store": [],
    "transformed": ["benchmark=permuted_digits", "benchmark.tasks=2"],
    "all tasks": ["strategy=joint"],
}


def group(overrides, runs):
    job = compose_settings([*overrides, "train.batch_size=7", "train.iterations=5", "device=cpu"])
    first = prepare(job, runs_in_group=runs)
    jobs = [replace(job, config=job.config | {"seed": job.seed + i}) for i in range(runs)]
    return experiments_on_same_data(first, jobs) if runs > 1 else [first]


@pytest.mark.parametrize("values", [1, 1000, 1 << 17])
@pytest.mark.parametrize("runs", [1, 2])
@pytest.mark.parametrize("stream", STREAMS)
def test_samples_of_many_iterations_are_gathered_at_once(stream, runs, values, monkeypatch):
    monkeypatch.setattr(reading, "_MAX_GATHERED_VALUES", values)
    experiments = group(STREAMS[stream], runs)
    stages = [experiment.stages[-1] for experiment in experiments]
    orders = [
        BatchOrder(len(stage.train), 7, experiment.learner.random_streams[0], stage.task)
        for stage, experiment in zip(stages, experiments, strict=True)
    ]
    first = 61  # a block of 64 iterations ends within
    for iteration, batch in enumerate(islice(batches(experiments, len(experiments[0].stages) - 1, first), 6), first):
        for run, (stage, order) in enumerate(zip(stages, orders, strict=True)):
            index = order.block(iteration, 1)[0]
            x, y = stage.train.batch(index)
            assert torch.equal(batch.x[run], x) and torch.equal(batch.y[run], y)
            assert torch.equal(batch.sample_index[run], index)
            if stage.active_units.dim() == 2:
                assert torch.equal(batch.active_units[run], stage.active_units[index])
