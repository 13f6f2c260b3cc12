import pytest
import torch

from gr_cli.strategies.memory import Memory, pick_balanced, shares


def stream(memory: Memory, n: int, batch: int, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    for start in range(0, n, batch):
        x = torch.arange(start, min(start + batch, n)).float().unsqueeze(1)
        memory.add(x, torch.rand(len(x), generator=generator))


def test_shares_are_even_and_sum():
    assert shares(500, 3) == [167, 167, 166]
    assert sum(shares(500, 7)) == 500
    assert shares(2, 4) == [1, 1, 0, 0]


def test_everything_is_kept_while_there_is_room():
    memory = Memory.empty(10, torch.zeros(1, 1))
    stream(memory, 9, 4, seed=0)
    assert memory.x[:9, 0].tolist() == list(range(9))
    assert memory.filled == 9


def test_reservoir_keeps_each_sample_with_the_same_probability():
    capacity, n, repeats = 20, 100, 600
    kept = torch.zeros(n)
    for seed in range(repeats):
        memory = Memory.empty(capacity, torch.zeros(1, 1))
        stream(memory, n, 7, seed)
        members = memory.x[:capacity, 0].long()
        assert len(members.unique()) == capacity
        kept[members] += 1
    expected = repeats * capacity / n
    spread = (repeats * capacity / n * (1 - capacity / n)) ** 0.5
    assert ((kept - expected).abs() < 4.5 * spread).all()
    # No drift from the first to the last of the stream.
    assert abs(kept[:50].mean() - kept[50:].mean()) < 4 * spread * (2 / 50) ** 0.5


def test_batches_change_nothing_but_their_size():
    one, many = Memory.empty(5, torch.zeros(1, 1)), Memory.empty(5, torch.zeros(1, 1))
    x, uniform = torch.arange(40.0).unsqueeze(1), torch.rand(40)
    many.add(x, uniform)
    for row, u in zip(x, uniform, strict=True):
        one.add(row.unsqueeze(0), u.unsqueeze(0))
    assert one.x[:5].tolist() == many.x[:5].tolist()


def test_generated_samples_keep_their_places():
    memory = Memory.empty(10, torch.zeros(1, 1))
    memory.reserve(-torch.arange(1.0, 9).unsqueeze(1), torch.ones(8, dtype=torch.bool), 6)
    stream(memory, 200, 32, seed=1)
    assert memory.x[:6, 0].tolist() == [-1, -2, -3, -4, -5, -6]
    assert (memory.x[6:10] >= 0).all()


def test_sampling_is_even_over_valid_places_and_a_shortfall_is_never_drawn():
    memory = Memory.empty(12, torch.zeros(1, 1))
    valid = torch.tensor([False, True, False, True, False, False, False, False])
    memory.reserve(-torch.arange(1.0, 9).unsqueeze(1), valid, 6)
    memory.add(torch.tensor([[1.0], [2.0]]), torch.rand(2))
    drawn = memory.sample(torch.linspace(0, 1 - 1e-6, 4000))[:, 0]
    values, counts = drawn.unique(return_counts=True)
    assert values.tolist() == [-4.0, -2.0, 1.0, 2.0]
    assert counts.tolist() == pytest.approx([1000] * 4, abs=2)


def test_pick_balanced_fills_each_quota_or_falls_short():
    chosen = pick_balanced(torch.tensor([0, 0, 0, 1, 0, 1]), [2, 3])
    assert chosen.tolist() == [True, True, False, True, False, True]
