"""Precision, recall, density, coverage and Fréchet distance, against closed forms and hand-counted cases."""

import math

import pytest
import torch

from gr_cli.evaluation import fidelity
from gr_cli.evaluation.fidelity import (
    PRDC,
    NeighbourhoodManifold,
    NormalFit,
    frechet_distance,
    normalized_entropy,
    prdc,
)


def test_prdc_counted_by_hand():
    real = NeighbourhoodManifold(torch.tensor([[0.0], [1.0], [11.0]]), k=1)  # [-1, 1], [0, 2] and [1, 21]
    assert real.squared_radii.tolist() == [1, 1, 100]
    generated = NeighbourhoodManifold(
        torch.tensor([[0.5], [1.5], [6.0], [50.0], [51.0]]), k=1
    )  # the first three reach to 1.5, 2.5 and 10.5
    assert generated.squared_radii.tolist() == [1, 1, 4.5**2, 1, 1]
    # 0.5 lies in two spheres, 1.5 in two, 6 in one; each real sphere has a sample; 0 and 1 lie in generated spheres.
    assert prdc(real, generated) == PRDC(precision=3 / 5, recall=2 / 3, density=(2 + 2 + 1) / 5, coverage=1.0)
    apart = prdc(real, NeighbourhoodManifold(torch.tensor([[30.0], [31.0]]), k=1))
    assert apart == PRDC(precision=0.0, recall=0.0, density=0.0, coverage=0.0)


def test_a_collapsed_generator_has_full_precision_and_low_coverage():
    line = torch.arange(20.0).unsqueeze(1)
    scores = prdc(NeighbourhoodManifold(line), NeighbourhoodManifold(torch.full((30, 1), 9.0)))
    # The fifth neighbour is 3 away, and further at the ends of the line.
    covering = [x for x in range(20) if abs(x - 9) <= sorted(abs(x - y) for y in range(20))[5]]
    assert scores == PRDC(1.0, 1 / 20, len(covering) / 5, len(covering) / 20)


def test_density_is_robust_to_a_real_outlier_unlike_precision():
    torch.manual_seed(0)
    real = torch.cat([torch.randn(99, 2), torch.tensor([[30.0, 30.0]])])
    near_outlier = torch.tensor([15.0, 15.0]) + torch.randn(50, 2)
    scores = prdc(NeighbourhoodManifold(real), NeighbourhoodManifold(near_outlier))
    assert scores.precision == 1.0
    assert scores.density == pytest.approx(1 / 5)


def test_equal_distributions_have_the_expected_density_and_coverage():
    torch.manual_seed(0)
    scores = prdc(NeighbourhoodManifold(torch.randn(1000, 8)), NeighbourhoodManifold(torch.randn(1000, 8)))
    assert scores.density == pytest.approx(1.0, abs=0.05)
    # Naeem et al. (2020), eq. 9, for equally many generated and real samples: 1 - 2^-k.
    assert scores.coverage == pytest.approx(1 - 2**-5, abs=0.015)


def test_too_few_samples_give_none_and_no_samples_cover_nothing():
    torch.manual_seed(0)
    many, five, none = (
        NeighbourhoodManifold(torch.randn(50, 3)),
        NeighbourhoodManifold(torch.randn(5, 3)),
        NeighbourhoodManifold(torch.zeros(0, 3)),
    )
    scores = prdc(many, five)
    assert scores.recall is None and None not in (scores.precision, scores.density, scores.coverage)
    assert prdc(many, none) == PRDC(None, None, None, 0.0)
    assert prdc(five, many) == PRDC(None, scores.precision, None, None)


def test_block_size_makes_no_difference(monkeypatch):
    torch.manual_seed(0)
    real, generated = torch.randn(70, 5), torch.randn(40, 5) + 0.5
    expected = prdc(NeighbourhoodManifold(real), NeighbourhoodManifold(generated))
    monkeypatch.setattr(fidelity, "_MAX_DISTANCES", 300)
    assert prdc(NeighbourhoodManifold(real), NeighbourhoodManifold(generated)) == expected


# --- Fréchet


def points_with_deviations(deviations: list[float]) -> torch.Tensor:
    """Points of mean 0 whose covariance is exactly diagonal, with these standard deviations."""
    n, size = 2 * len(deviations), len(deviations)
    points = torch.zeros(n, size, dtype=torch.double)
    for i, deviation in enumerate(deviations):
        points[2 * i, i], points[2 * i + 1, i] = 1.0, -1.0
        points[:, i] *= deviation * math.sqrt((n - 1) / 2)
    return points


def distance(real, generated):
    return frechet_distance(NormalFit.of(real), NormalFit.of(generated))


def test_frechet_distance_of_two_normal_distributions():
    # Along each axis (m - m')^2 + (s - s')^2.
    first, second = (
        points_with_deviations([1.0, 2.0, 0.5]),
        points_with_deviations([3.0, 2.0, 1.0]) + torch.tensor([0.0, 1.0, -2.0]),
    )
    assert distance(first, second) == pytest.approx((1 + 4) + (3 - 1) ** 2 + (1 - 0.5) ** 2)
    assert distance(second, first) == pytest.approx(distance(first, second))
    assert distance(first, first) == pytest.approx(0.0, abs=1e-9)


def test_frechet_distance_of_covariances_that_do_not_commute():
    rotation = torch.tensor([[math.cos(0.7), -math.sin(0.7)], [math.sin(0.7), math.cos(0.7)]], dtype=torch.double)
    first, second = points_with_deviations([3.0, 1.0]), points_with_deviations([2.0, 0.5]) @ rotation.T
    a, b = first.T.cov(), second.T.cov()
    # Of 2x2 matrices: tr M^(1/2) = (tr M + 2 det^(1/2) M)^(1/2).
    root = math.sqrt((a @ b).trace() + 2 * math.sqrt((a @ b).det()))
    assert distance(first, second) == pytest.approx((a.trace() + b.trace()).item() - 2 * root)


def test_frechet_distance_needs_two_finite_samples_of_each_set():
    assert distance(torch.zeros(1, 3), torch.randn(9, 3)) is None
    assert distance(torch.zeros(9, 3), torch.zeros(0, 3)) is None
    assert distance(torch.randn(9, 3), torch.full((9, 3), math.nan)) is None
    # Constant samples: singular covariances are handled.
    assert distance(torch.zeros(9, 3), torch.ones(9, 3)) == pytest.approx(3.0)


def test_normalized_entropy():
    assert normalized_entropy(torch.tensor([5, 5, 5])) == pytest.approx(1.0)
    assert normalized_entropy(torch.tensor([7, 0])) == 0.0
    assert normalized_entropy(torch.tensor([3, 1])) == pytest.approx(-(0.75 * math.log2(0.75) + 0.25 * math.log2(0.25)))
    assert normalized_entropy(torch.tensor([7])) is None and normalized_entropy(torch.tensor([0, 0])) is None
