"""Reservoir buffer: uniform over the stream, with reserved slots."""

import pytest
import torch

from gr_cli.nn.random_streams import NoiseSpec, RandomStreams, ReplicaStreams
from gr_cli.strategies.context import TrainingStep
from gr_cli.strategies.reservoir_buffer import ReservoirBuffer, ReservoirDraws, first_of_each_task, split_evenly

REPLICA_OFFSET = 1000  # between the values of consecutive replicas


def empty(capacity: int, replicas: int = 2) -> ReservoirBuffer:
    return ReservoirBuffer.empty(capacity, torch.zeros(replicas, 1, 1))


def numbers(start: int, stop: int) -> torch.Tensor:
    """Samples (2, stop - start, 1) of one value each, distinct between replicas."""
    return (torch.arange(start, stop) + REPLICA_OFFSET * torch.arange(2).unsqueeze(1)).float().unsqueeze(2)


def stream(memory: ReservoirBuffer, n: int, batch: int, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    for start in range(0, n, batch):
        x = numbers(start, min(start + batch, n))
        memory.add(x, torch.rand(x.shape[:2], generator=generator))


def test_split_evenly():
    assert split_evenly(500, 3) == [167, 167, 166]
    assert sum(split_evenly(500, 7)) == 500
    assert split_evenly(2, 4) == [1, 1, 0, 0]


def test_all_samples_are_stored_below_capacity():
    memory = empty(10)
    stream(memory, 9, 4, seed=0)
    assert memory.x[:, :9, 0].tolist() == [list(range(9)), list(range(REPLICA_OFFSET, REPLICA_OFFSET + 9))]
    assert memory.num_filled == 9


def test_every_sample_is_stored_with_the_same_probability():
    capacity, n, repeats = 20, 100, 600
    counts = torch.zeros(n)
    for seed in range(repeats // 2):
        memory = empty(capacity)
        stream(memory, n, 7, seed)
        contents = []
        for replica, x in enumerate(memory.x):
            members = x[:capacity, 0].long() - REPLICA_OFFSET * replica
            assert len(members.unique()) == capacity
            counts[members] += 1
            contents.append(members)
        assert not torch.equal(*contents)
    expected = repeats * capacity / n
    deviation = (repeats * capacity / n * (1 - capacity / n)) ** 0.5
    assert ((counts - expected).abs() < 4.5 * deviation).all()
    # No trend along the stream.
    assert abs(counts[:50].mean() - counts[50:].mean()) < 4 * deviation * (2 / 50) ** 0.5


def test_contents_do_not_depend_on_the_batch_size():
    one, many = empty(5), empty(5)
    x, uniform = numbers(0, 40), torch.rand(2, 40)
    many.add(x, uniform)
    for i in range(40):
        one.add(x[:, i : i + 1], uniform[:, i : i + 1])
    assert one.x[:, :5].tolist() == many.x[:, :5].tolist()


def test_replicas_match_single_buffers():
    stacked, single = empty(8), [empty(8, replicas=1) for _ in range(2)]
    generated, valid = -numbers(1, 6), torch.tensor([[True] * 5, [False, True, False, True, False]])
    stacked.fill_reserved(generated, valid, 3)
    for i, memory in enumerate(single):
        memory.fill_reserved(generated[i : i + 1], valid[i : i + 1], 3)
    for start in (0, 4, 11, 30):
        x, uniform = numbers(start, start + 7), torch.rand(2, 7)
        stacked.add(x, uniform)
        uniform_choice = torch.rand(2, 50)
        sampled = stacked.get(stacked.sample_rows(uniform_choice))
        for i, memory in enumerate(single):
            memory.add(x[i : i + 1], uniform[i : i + 1])
            assert memory.x[0, :8].tolist() == stacked.x[i, :8].tolist()
            assert memory.get(memory.sample_rows(uniform_choice[i : i + 1]))[0].tolist() == sampled[i].tolist()
    assert stacked.num_valid_reserved.tolist() == [3, 2]


def test_reserved_slots_are_not_overwritten():
    memory = empty(10)
    memory.fill_reserved(-numbers(1, 9), torch.ones(2, 8, dtype=torch.bool), 6)
    stream(memory, 200, 32, seed=1)
    first = [-1, -2, -3, -4, -5, -6]
    assert memory.x[:, :6, 0].tolist() == [first, [value - REPLICA_OFFSET for value in first]]
    assert (memory.x[:, 6:10] >= 0).all()


def test_sampling_is_uniform_over_valid_slots():
    memory = empty(12)
    valid = torch.zeros(2, 8, dtype=torch.bool)
    valid[0, [1, 3]] = valid[1, [0, 6, 7]] = True
    memory.fill_reserved(-numbers(1, 9), valid, 6)
    memory.add(numbers(1, 3), torch.rand(2, 2))
    drawn = memory.get(memory.sample_rows(torch.linspace(0, 1 - 1e-6, 4000).expand(2, -1)))[..., 0]
    for samples, expected in zip(drawn, ([-4, -2, 1, 2], [-1008, -1007, -1001, 1001, 1002]), strict=True):
        values, counts = samples.unique(return_counts=True)
        assert values.tolist() == expected
        assert counts.tolist() == pytest.approx([4000 / len(expected)] * len(expected), abs=2)


def test_rows_drawn_for_many_iterations_are_those_of_each():
    streams = ReplicaStreams([RandomStreams(0), RandomStreams(1)])
    draws, memory, noise = ReservoirDraws(streams, "memory.choice"), empty(12), NoiseSpec("uniform", (5,))
    memory.fill_reserved(-numbers(1, 9), torch.tensor([[True] * 8, [True, False] * 4]), 6)
    for iteration in range(70):
        memory.add(numbers(2 * iteration, 2 * iteration + 2), torch.rand(2, 2))
        assert memory.is_full == (iteration >= 2)
        expected = memory.sample_rows(streams.values_at(noise, "memory.choice", 3, iteration))
        assert torch.equal(draws.rows(memory, 5, TrainingStep(3, iteration, 100)), expected)


def test_first_of_each_task_fills_quotas():
    first, second = [0, 0, 0, 1, 0, 1], [1, 1, 0, 1, 1, -1]
    expected = [[True, True, False, True, False, True], [True, True, True, True, False, False]]
    assert first_of_each_task(torch.tensor(first), [2, 3]).tolist() == expected[0]
    assert first_of_each_task(torch.tensor([first, second]), [2, 3]).tolist() == expected
