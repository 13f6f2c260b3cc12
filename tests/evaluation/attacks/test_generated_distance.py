"""Black-box attacks on generators with known answers, and distances by hand."""

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from gr_cli.evaluation.attacks import generated_distance
from gr_cli.evaluation.attacks.generated_distance import (
    attack_auc,
    authenticity,
    distance_ratio,
    distance_scores,
    median_radius,
    monte_carlo_scores,
    most_memorised,
    nearest_neighbours,
    percentile_radius,
)


def _images(n: int, seed: int) -> Tensor:
    return torch.rand(n, 1, 4, 4, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def _stream() -> torch.Generator:
    return torch.Generator().manual_seed(9)


TRAIN, HELD_OUT = _images(300, 0), _images(300, 1)
_COPIES = TRAIN.repeat(3, 1, 1, 1)
STORED = _COPIES + 0.02 * torch.randn(_COPIES.shape, generator=torch.Generator().manual_seed(4), dtype=torch.float64)
INDEPENDENT = _images(900, 2)


@pytest.fixture
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(generated_distance, "_BLOCK_PAIRS", 256 * 7)


@pytest.mark.usefixtures("small_blocks")
def test_nearest_neighbours_over_several_blocks() -> None:
    x, y = _images(301, 5), _images(20, 6)
    every = torch.cdist(x.flatten(1), y.flatten(1), compute_mode="donot_use_mm_for_euclid_dist")
    expected = every.topk(3, dim=1, largest=False)
    neighbours = nearest_neighbours(x, y, 3)
    assert torch.equal(neighbours.indices, expected.indices)
    assert torch.allclose(neighbours.distances, expected.values)


@pytest.mark.usefixtures("small_blocks")
def test_no_block_holds_more_pairs_than_allowed() -> None:
    sizes = [block.numel() for _, _, block in generated_distance._distance_blocks(_images(301, 5), _images(20, 6))]
    assert len(sizes) > 1 and max(sizes) <= 256 * 7
    assert sum(sizes) == 301 * 20


def test_distance_of_a_copy_is_exactly_zero() -> None:
    x = 1000 + _images(4, 0).float()
    assert torch.equal(nearest_neighbours(x, x).distances, torch.zeros(4, 1))


def test_monte_carlo_scores_by_hand() -> None:
    candidates = torch.tensor([[0.0], [10.0]], dtype=torch.float64)
    generated = torch.tensor([[1.0], [-2.0], [5.0], [11.0]], dtype=torch.float64)
    scores = monte_carlo_scores(candidates, generated, radius=2.0)
    assert scores.share.tolist() == [0.5, 0.25]  # distances 1, 2, 5, 11 and 9, 12, 5, 1
    assert scores.log_distance.tolist() == pytest.approx([math.log(2) / 4, math.log(2) / 4])


def test_log_distance_of_a_copy_is_finite() -> None:
    x = torch.zeros(1, 3, dtype=torch.float64)
    assert monte_carlo_scores(x, x, 1.0).log_distance.item() == pytest.approx(math.log(1000))
    zero = monte_carlo_scores(x, x, 0.0)
    assert zero.share.item() == 1.0 and zero.log_distance.item() == 0.0


def test_radii_by_hand() -> None:
    candidates = torch.tensor([[0.0], [10.0], [20.0]], dtype=torch.float64)
    generated = torch.tensor([[1.0], [12.0], [100.0]], dtype=torch.float64)
    assert median_radius(candidates, generated) == 2.0  # of 1, 2 and 8
    # Distances 1, 2, 8, 9, 12, 19, 80, 90, 100: a third of them is at most 8.
    assert percentile_radius(candidates, generated, 1 / 3) == pytest.approx(8, abs=0.02)
    assert percentile_radius(candidates[:1], generated[:1], 0.5) == pytest.approx(1.0)


# 900 of 540,000 pairs are a sample and its copy.
@pytest.mark.parametrize("radius", [median_radius, lambda c, g: percentile_radius(c, g, 0.002)])
def test_a_generator_that_stores_samples_is_found(radius: Callable[[Tensor, Tensor], float]) -> None:
    candidates = torch.cat([TRAIN, HELD_OUT])
    scores = monte_carlo_scores(candidates, STORED, radius(candidates, STORED))
    for values in (scores.share, scores.log_distance, distance_scores(candidates, STORED)):
        auc = attack_auc(values[:300], values[300:], 200, _stream())
        # 1 - exp(-3) = 95 % of the training samples were drawn at all; copies of a sample agree.
        assert auc.value > 0.95 and auc.shows_dependence


@pytest.mark.parametrize("seed", range(5))
def test_a_generator_that_ignores_its_data_is_not(seed: int) -> None:
    generated = _images(600, 100 + seed)
    candidates = torch.cat([TRAIN, HELD_OUT])
    scores = monte_carlo_scores(candidates, generated, median_radius(candidates, generated))
    stream = torch.Generator().manual_seed(seed)
    for values in (scores.share, scores.log_distance, distance_scores(candidates, generated)):
        auc = attack_auc(values[:300], values[300:], 200, stream)
        assert abs(auc.value - 0.5) < 4 / math.sqrt(12 * 150)  # four standard errors


def test_interval_covers_the_value_of_independent_samples() -> None:
    """Of 200 intervals at 95 %, more than 14 % miss with a probability below 1e-6."""
    stream, misses = torch.Generator().manual_seed(0), 0
    for _ in range(200):
        members, others = (torch.randn(60, generator=stream, dtype=torch.float64) for _ in range(2))
        misses += attack_auc(members, others, 200, stream).shows_dependence
    assert 0 < misses < 28


def test_auc_counts_ties_half() -> None:
    assert attack_auc(torch.tensor([1.0, 2.0]), torch.tensor([1.0, 0.0]), 2, _stream()).value == 7 / 8


def test_distance_ratio() -> None:
    near, far = (nearest_neighbours(x, STORED).distances.squeeze(1) for x in (TRAIN, HELD_OUT))
    stored = distance_ratio(near, far, 200, _stream())
    assert stored.value == pytest.approx(float(near.mean() / far.mean()))
    assert stored.value < 0.5 and stored.interval[1] < 1
    near, far = (nearest_neighbours(x, INDEPENDENT).distances.squeeze(1) for x in (TRAIN, HELD_OUT))
    independent = distance_ratio(near, far, 200, _stream())
    assert independent.interval[0] < independent.value < independent.interval[1]
    assert not independent.shows_dependence


def test_copies_are_not_authentic() -> None:
    assert authenticity(TRAIN, TRAIN) == 0.0
    assert authenticity(STORED, TRAIN) < 0.01
    assert authenticity(INDEPENDENT, TRAIN) == pytest.approx(authenticity(INDEPENDENT, HELD_OUT), abs=0.15)


def test_authenticity_by_hand() -> None:
    train = torch.tensor([[0.0], [1.0], [5.0]])
    # Nearest are 0 at distance 0.4 (spacing 1), 1 at distance 2 (spacing 1) and 5 at distance 3 (spacing 4).
    assert authenticity(torch.tensor([[-0.4], [3.0 - 1e-3], [8.0]]), train) == pytest.approx(1 / 3)
    repeated = torch.tensor([[0.0], [0.0]])
    assert authenticity(repeated, repeated) == 0.0


def test_most_memorised_samples_come_first() -> None:
    generated = torch.cat([INDEPENDENT[:5], TRAIN[7:8] + 0.001, INDEPENDENT[5:9], TRAIN[3:4]])
    rows, originals, relative = most_memorised(generated, TRAIN, HELD_OUT, 4)
    assert rows[:2].tolist() == [10, 5] and originals[:2].tolist() == [3, 7]
    assert relative[0] == 0 and (relative.diff() >= 0).all() and len(relative) == 4
    assert len(most_memorised(generated, TRAIN, HELD_OUT, 40)[0]) == 11
