"""Canaries: who is trained on, with which label, and which coin flips decide."""

import math
from typing import Any

import pytest
import torch

from gr_cli.benchmarks import Digits, split
from gr_cli.benchmarks.base import Benchmark, Samples, Task
from gr_cli.benchmarks.canaries import with_canaries
from gr_cli.benchmarks.membership import with_membership_draw
from gr_cli.errors import ConfigError

SETTINGS: dict[str, Any] = {"count": 60, "draw": 0, "mislabelled": True}


@pytest.fixture(scope="module")
def plain() -> Benchmark:
    return split(Digits(), seed=0, classes_per_task=5)


def _rows(task: Task) -> set[int]:
    return set(task.train.store_rows(torch.arange(len(task.train))).tolist())


def _labels(samples: Samples) -> dict[int, int]:
    """The label of each row of the store."""
    rows = samples.store_rows(torch.arange(len(samples))).tolist()
    return dict(zip(rows, samples.y.tolist(), strict=True))


def test_without_a_count_the_benchmark_is_unchanged(plain: Benchmark) -> None:
    assert with_canaries(plain, 0, SETTINGS | {"count": None}) is plain


def test_a_canary_is_a_training_sample_exactly_if_its_coin_flip_says_so(plain: Benchmark) -> None:
    for before, after in zip(plain.tasks, with_canaries(plain, 0, SETTINGS).tasks, strict=True):
        assert after.candidates is not None
        rows = after.candidates.samples.store_rows(torch.arange(60))
        flips = after.candidates.is_member
        assert len(set(rows.tolist())) == 60 and 0 < flips.sum() < 60
        assert _rows(after) == _rows(before) - set(rows[~flips].tolist())
        assert len(after.train) == len(_rows(after))
        # Each with its label, and all others with their own.
        labels, expected = _labels(after.train), _labels(before.train) | _labels(after.candidates.samples)
        assert labels == {row: expected[row] for row in labels}


def test_labels_are_other_classes_of_the_task(plain: Benchmark) -> None:
    wrong = with_canaries(plain, 0, SETTINGS).tasks[0].candidates
    right = with_canaries(plain, 0, SETTINGS | {"mislabelled": False}).tasks[0].candidates
    assert wrong is not None and right is not None
    assert (wrong.samples.y != right.samples.y).all() and wrong.samples.y.unique().tolist() == [0, 1, 2, 3, 4]
    x, y = plain.tasks[0].train.batch(torch.arange(len(plain.tasks[0].train)))
    own, labels = right.samples.batch(torch.arange(60))
    for image, label in zip(own, labels, strict=True):
        assert label in y[(x == image).flatten(1).all(1)]


def test_draws_share_canaries_and_differ_in_coin_flips(plain: Benchmark) -> None:
    flips = []
    for draw in range(40):
        candidates = with_canaries(plain, 0, SETTINGS | {"draw": draw}).tasks[1].candidates
        assert candidates is not None
        flips.append(candidates.is_member.double())
        if draw == 0:
            first = candidates.samples
        assert torch.equal(candidates.samples.y, first.y)
    values = torch.stack(flips)  # (40, 60)
    assert abs(values.mean() - 0.5) < 4 * 0.5 / math.sqrt(2400)
    # The variance of the number of included canaries is that of independent flips, 15.
    assert 5 < values.sum(1).var() < 30


@pytest.mark.parametrize(
    ("count", "classes", "field"), [(600, 5, "canaries.count"), (10, 1, "canaries.mislabelled")], ids=str
)
def test_refusals(count: int, classes: int, field: str) -> None:
    benchmark = split(Digits(), seed=0, classes_per_task=classes)
    with pytest.raises(ConfigError, match=field):
        with_canaries(benchmark, 0, SETTINGS | {"count": count})


def test_membership_draws_have_candidates_of_their_own(plain: Benchmark) -> None:
    drawn = with_membership_draw(plain, 0, {"draw": 0, "share": 0.5, "candidates": None})
    with pytest.raises(ConfigError, match="membership draw"):
        with_canaries(drawn, 0, SETTINGS)
