"""Random streams: reproducible, distinct, independent of order and of other runs."""

import pytest
import torch

from gr_cli.nn.random_streams import NoiseSpec, RandomStreams, ReplicaStreams, derive_seed, seeded


def streams(*seeds: int) -> ReplicaStreams:
    return ReplicaStreams([RandomStreams(seed) for seed in seeds])


def test_seeds_differ_by_every_part_of_the_key():
    keys = [(0,), (1,), (0, "a"), (0, "b"), (0, "a", 0), (0, "a", 1), (0, "a", 0, 1), (0, "a", 1, 0)]
    assert len({derive_seed(*key) for key in keys}) == len(keys)


def test_values_do_not_depend_on_earlier_draws():
    noise = NoiseSpec("normal", (4, 3))
    forward, backward = streams(0), streams(0)
    steps = [0, 1, 63, 64, 65, 200]
    first = {step: forward.values_at(noise, "a", 0, step).clone() for step in steps}
    backward.values_at(noise, "b", 0, 7)
    for step in reversed(steps):
        torch.testing.assert_close(backward.values_at(noise, "a", 0, step), first[step], rtol=0, atol=0)


def test_streams_tasks_seeds_and_steps_differ():
    noise = NoiseSpec("uniform", (8,))
    rows = [
        row
        for stream in ("a", "b")
        for task in (0, 1)
        for step in (0, 1, 64)
        for row in streams(0, 1).values_at(noise, stream, task, step)
    ]
    assert len(rows) == 24
    assert len({tuple(row.tolist()) for row in rows}) == len(rows)


@pytest.mark.parametrize("seeds", [(0, 1), (1, 0), (3, 3), (0, 1, 1)], ids=str)
def test_replica_streams_match_single_runs(seeds):
    wanted = {"u": NoiseSpec("uniform", (5,)), "n": NoiseSpec("normal", (2, 3))}
    together, apart = streams(*seeds), [streams(seed) for seed in seeds]
    assert together.replicas == len(seeds)
    for step in (0, 1, 63, 64, 7):
        rows, alone = together.noise_at(wanted, "a", 2, step), [one.noise_at(wanted, "a", 2, step) for one in apart]
        for name, noise in wanted.items():
            assert rows[name].shape == (len(seeds), *noise.shape)
            torch.testing.assert_close(rows[name], torch.cat([one[name] for one in alone]), rtol=0, atol=0)
    drawn = together.draw("normal", "b", 1, shape=(4, 2))
    expected = [RandomStreams(seed).draw("normal", "b", 1, shape=(4, 2)) for seed in seeds]
    torch.testing.assert_close(drawn, torch.stack(expected), rtol=0, atol=0)


def test_large_shapes_are_drawn_in_small_blocks():
    draws = streams(0, 1)
    draws.values_at(NoiseSpec("uniform", (1 << 20,)), "a", 0, 0)
    assert next(iter(draws._blocks.values()))[1].shape[:2] == (1, 2)


def test_seeded_restores_the_global_random_state():
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    with seeded(0, "x"):
        first = torch.rand(2)
    torch.testing.assert_close(torch.rand(3), expected, rtol=0, atol=0)
    with seeded(0, "x"):
        torch.testing.assert_close(torch.rand(2), first, rtol=0, atol=0)
