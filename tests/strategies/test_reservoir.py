import pytest
import torch

from gr_cli.strategies.reservoir_buffer import ReservoirBuffer, first_of_each_task, split_evenly

APART = 1000  # between the numbers that pass through one replica and through the next


def empty(capacity: int, replicas: int = 2) -> ReservoirBuffer:
    return ReservoirBuffer.empty(capacity, torch.zeros(replicas, 1, 1))


def numbers(start: int, stop: int) -> torch.Tensor:
    """Samples (2, stop - start, 1) of one value each, which also tells their replica."""
    return (torch.arange(start, stop) + APART * torch.arange(2).unsqueeze(1)).float().unsqueeze(2)


def stream(memory: ReservoirBuffer, n: int, batch: int, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    for start in range(0, n, batch):
        x = numbers(start, min(start + batch, n))
        memory.add(x, torch.rand(x.shape[:2], generator=generator))


def test_shares_are_even_and_sum():
    assert split_evenly(500, 3) == [167, 167, 166]
    assert sum(split_evenly(500, 7)) == 500
    assert split_evenly(2, 4) == [1, 1, 0, 0]


def test_everything_is_kept_while_there_is_room():
    memory = empty(10)
    stream(memory, 9, 4, seed=0)
    assert memory.x[:, :9, 0].tolist() == [list(range(9)), list(range(APART, APART + 9))]
    assert memory.num_filled == 9


def test_reservoir_keeps_each_sample_with_the_same_probability():
    capacity, n, repeats = 20, 100, 600
    kept = torch.zeros(n)
    for seed in range(repeats // 2):
        memory = empty(capacity)
        stream(memory, n, 7, seed)
        both = []
        for replica, x in enumerate(memory.x):
            members = x[:capacity, 0].long() - APART * replica
            assert len(members.unique()) == capacity
            kept[members] += 1
            both.append(members)
        assert not torch.equal(*both)
    expected = repeats * capacity / n
    spread = (repeats * capacity / n * (1 - capacity / n)) ** 0.5
    assert ((kept - expected).abs() < 4.5 * spread).all()
    # No drift from the first to the last of the stream.
    assert abs(kept[:50].mean() - kept[50:].mean()) < 4 * spread * (2 / 50) ** 0.5


def test_batches_change_nothing_but_their_size():
    one, many = empty(5), empty(5)
    x, uniform = numbers(0, 40), torch.rand(2, 40)
    many.add(x, uniform)
    for i in range(40):
        one.add(x[:, i : i + 1], uniform[:, i : i + 1])
    assert one.x[:, :5].tolist() == many.x[:, :5].tolist()


def test_replicas_keep_and_give_what_each_would_alone():
    together, apart = empty(8), [empty(8, replicas=1) for _ in range(2)]
    generated, valid = -numbers(1, 6), torch.tensor([[True] * 5, [False, True, False, True, False]])
    together.fill_reserved(generated, valid, 3)
    for i, memory in enumerate(apart):
        memory.fill_reserved(generated[i : i + 1], valid[i : i + 1], 3)
    for start in (0, 4, 11, 30):
        x, uniform = numbers(start, start + 7), torch.rand(2, 7)
        together.add(x, uniform)
        choice = torch.rand(2, 50)
        given = together.get(together.sample_rows(choice))
        for i, memory in enumerate(apart):
            memory.add(x[i : i + 1], uniform[i : i + 1])
            assert memory.x[0, :8].tolist() == together.x[i, :8].tolist()
            assert memory.get(memory.sample_rows(choice[i : i + 1]))[0].tolist() == given[i].tolist()
    assert together.num_valid_reserved.tolist() == [3, 2]


def test_generated_samples_keep_their_places():
    memory = empty(10)
    memory.fill_reserved(-numbers(1, 9), torch.ones(2, 8, dtype=torch.bool), 6)
    stream(memory, 200, 32, seed=1)
    first = [-1, -2, -3, -4, -5, -6]
    assert memory.x[:, :6, 0].tolist() == [first, [value - APART for value in first]]
    assert (memory.x[:, 6:10] >= 0).all()


def test_sampling_is_even_over_valid_places_and_a_shortfall_is_never_drawn():
    memory = empty(12)
    valid = torch.zeros(2, 8, dtype=torch.bool)
    valid[0, [1, 3]] = valid[1, [0, 6, 7]] = True
    memory.fill_reserved(-numbers(1, 9), valid, 6)
    memory.add(numbers(1, 3), torch.rand(2, 2))
    drawn = memory.get(memory.sample_rows(torch.linspace(0, 1 - 1e-6, 4000).expand(2, -1)))[..., 0]
    for mine, expected in zip(drawn, ([-4, -2, 1, 2], [-1008, -1007, -1001, 1001, 1002]), strict=True):
        values, counts = mine.unique(return_counts=True)
        assert values.tolist() == expected
        assert counts.tolist() == pytest.approx([4000 / len(expected)] * len(expected), abs=2)


def test_pick_balanced_fills_each_quota_or_falls_short():
    first, second = [0, 0, 0, 1, 0, 1], [1, 1, 0, 1, 1, -1]
    expected = [[True, True, False, True, False, True], [True, True, True, True, False, False]]
    assert first_of_each_task(torch.tensor(first), [2, 3]).tolist() == expected[0]
    assert first_of_each_task(torch.tensor([first, second]), [2, 3]).tolist() == expected
