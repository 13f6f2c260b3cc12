"""Training sets by membership draw."""

import pytest
import torch

from gr_cli.benchmarks import Tensors, permuted, split
from gr_cli.benchmarks.membership import with_membership_draw
from gr_cli.errors import ConfigError

SIZES = (20, 21, 6, 30, 20, 21)


def source():
    """Images whose first pixel is the index of the sample."""
    y = torch.arange(len(SIZES)).repeat_interleave(torch.tensor(SIZES))
    x = torch.zeros(len(y), 1, 4, 4)
    x[:, 0, 0, 0] = torch.arange(len(y)) / len(y)
    return Tensors(x, y, x, y)


STREAMS = {
    "split": lambda: split(source(), seed=0, classes_per_task=3, validation_share=0.1),
    "repeated": lambda: split(source(), seed=0, classes_per_task=3, repetitions=2),
    "permuted": lambda: permuted(source(), seed=0, tasks=2),
}


def drawn(benchmark, draw, share=0.5, candidates=None):
    return with_membership_draw(benchmark, 0, {"draw": draw, "share": share, "candidates": candidates})


def rows(samples):
    return samples.store_rows(torch.arange(len(samples)))


def members(task):
    return set(rows(task.train).tolist())


@pytest.mark.parametrize("stream", STREAMS)
def test_two_draws_divide_each_class_of_each_task_in_halves(stream):
    complete = STREAMS[stream]()
    first, second = drawn(complete, 4), drawn(complete, 5)
    for task, one, other in zip(complete.tasks, first.tasks, second.tasks, strict=True):
        assert not members(one) & members(other)
        candidates = set(rows(one.candidates.samples).tolist())
        assert members(one) | members(other) == candidates <= set(rows(task.train).tolist())
        assert torch.equal(rows(one.candidates.samples), rows(other.candidates.samples))
        assert torch.equal(one.candidates.is_member, ~other.candidates.is_member)
        sizes = task.train.y.bincount() // 2
        assert torch.equal(one.train.y.bincount(), sizes) and torch.equal(other.train.y.bincount(), sizes)
        assert len(one.test) == len(task.test)


def test_candidates_are_those_of_the_seed_and_members_those_of_the_draw():
    complete = STREAMS["split"]()
    tasks = [drawn(complete, draw).tasks[0] for draw in range(6)]
    candidates = {tuple(rows(task.candidates.samples).tolist()) for task in tasks}
    assert len(candidates) == 1 and len({frozenset(members(task)) for task in tasks}) == 6
    counts = sum(task.candidates.is_member.long() for task in tasks)
    assert (counts == 3).all()


def test_members_are_the_training_samples():
    task = drawn(STREAMS["split"](), 1).tasks[1]
    candidates = task.candidates
    assert set(rows(candidates.samples)[candidates.is_member].tolist()) == members(task)
    x, y = candidates.samples.batch(torch.arange(len(candidates.samples)))
    assert torch.equal((x[:, 0, 0, 0] * sum(SIZES)).round().long(), rows(candidates.samples))
    assert y.max() < len(task.classes)


def test_fewer_candidates_don_t_change_what_is_trained():
    complete = STREAMS["split"]()
    task, few = drawn(complete, 2).tasks[0], drawn(complete, 2, candidates=4).tasks[0]
    assert members(task) == members(few)
    assert few.candidates.samples.y.bincount().tolist() == [4, 4, 4]
    by_row = dict(zip(rows(task.candidates.samples).tolist(), task.candidates.is_member.tolist(), strict=True))
    few_rows = rows(few.candidates.samples).tolist()
    assert [by_row[row] for row in few_rows] == few.candidates.is_member.tolist()


@pytest.mark.parametrize("share", [0.25, 0.75])
def test_other_shares_have_equal_sizes(share):
    sizes = [drawn(STREAMS["permuted"](), draw, share).tasks[0].train.y.bincount().tolist() for draw in range(4)]
    assert sizes == [[round(share * (size // 2 * 2)) for size in SIZES]] * 4


def test_labels_move_with_the_task():
    benchmark = drawn(STREAMS["split"](), 0)
    moved = benchmark.to(torch.device("cpu"), [0, 3])
    assert moved.tasks[1].candidates.samples.y.unique().tolist() == [3, 4, 5]


def test_too_few_samples_and_exchanged_samples_are_refused():
    small = split(source(), seed=0, classes_per_task=3)
    with pytest.raises(ConfigError, match=r"membership.share=0.05: of 6 samples of class 2 in task \d, 0 would be"):
        drawn(small, 0, 0.05)
    mixed = split(source(), seed=0, classes_per_task=3, task_overlap=0.3)
    with pytest.raises(ConfigError, match=r"membership.draw=0: tasks exchange samples"):
        drawn(mixed, 0)
    assert drawn(mixed, None) is mixed
