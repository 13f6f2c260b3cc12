"""Private moments: their sensitivity, by search over neighbouring sets; their noise; and the removal of noise."""

import math

import pytest
import torch

from gr_cli.privacy.analytic_gaussian import epsilon_of_gaussian, gaussian_noise_multiplier
from gr_cli.privacy.moments import Block, MomentMechanism, clipped, without_noise

BLOCKS = (Block(3, 2.0, 0.7, 0.3), Block(2, 1.0, 0.25, 0.7))


def mechanism(multiplier=1.0, mean_share=0.2, blocks=BLOCKS):
    return MomentMechanism(blocks, multiplier, mean_share)


def norm(answers):
    """The L2 norm of an answer: vectors, or symmetric matrices of which each value counts once, scaled to Frobenius."""
    return math.sqrt(sum(float(answer.square().sum()) for answer in answers))


def values_of(number, scale, stream):
    return [scale * torch.randn(number, block.size, generator=stream, dtype=torch.float64) for block in BLOCKS]


@pytest.mark.parametrize("number", [0, 1, 6])
def test_sensitivity_of_both_answers_is_one(number):
    # Search: sets of any scale, with a sample added that is far outside, far from the mean, or nothing special.
    stream, largest = torch.Generator().manual_seed(number), [0.0, 0.0]
    for trial in range(200):
        values = values_of(number, 10.0 ** (trial % 5 - 2), stream)
        added = values_of(1, 10.0 ** (trial % 7 - 3), stream)
        means = [clipped(x, block.radius)[0] for x, block in zip(values_of(1, 1.0, stream), BLOCKS, strict=True)]
        neighbour = [torch.cat(pair) for pair in zip(values, added, strict=True)]
        for i, answer in enumerate([mechanism().sums, lambda v, means=means: mechanism().outer_products(v, means)]):
            differences = [a - b for a, b in zip(answer(neighbour), answer(values), strict=True)]
            largest[i] = max(largest[i], norm(differences))
    assert largest == pytest.approx([1.0, 1.0], abs=1e-9)  # attained, and never exceeded


def test_both_mechanisms_together_spend_the_budget():
    multiplier = gaussian_noise_multiplier(1.0, 1e-5)
    first, second = mechanism(multiplier, 0.3).noise_multipliers
    assert first > multiplier and second > multiplier
    together = (first**-2 + second**-2) ** -0.5
    assert epsilon_of_gaussian(1e-5, together) == pytest.approx(1.0, rel=1e-9)


def test_moments_without_noise_are_those_of_the_samples():
    blocks = (Block(3, 50.0, 50.0, 0.3), Block(2, 50.0, 50.0, 0.7))
    values = values_of(40, 1.0, torch.Generator().manual_seed(1))
    moments = mechanism(1e-12, blocks=blocks).release(values, torch.Generator().manual_seed(0))
    assert moments.count == pytest.approx(40, rel=1e-9)
    for x, mean, covariance in zip(values, moments.means, moments.covariances, strict=True):
        torch.testing.assert_close(mean, x.mean(0), rtol=1e-6, atol=1e-6)
        torch.testing.assert_close(covariance, torch.cov(x.T, correction=0), rtol=1e-6, atol=1e-6)


def test_noise_has_the_deviation_that_was_promised():
    # Without samples the answers are noise alone; values off the diagonal of a matrix have half the variance.
    block = Block(60, 1.0, 0.5, 1.0)
    own = mechanism(3.0, 0.2, (block,))
    empty = [torch.empty(0, 60, dtype=torch.float64)]
    released = [own.release(empty, torch.Generator().manual_seed(seed)) for seed in range(20)]
    scatters = torch.stack([moments.covariances[0] * moments.count for moments in released])
    deviation = own.scatter_deviation(block)
    assert deviation == pytest.approx(3.0 / math.sqrt(0.8) * 0.25)
    off_diagonal = scatters[:, *torch.tril_indices(60, 60, -1)]
    assert scatters.diagonal(dim1=1, dim2=2).std() == pytest.approx(deviation, rel=0.1)
    assert off_diagonal.std() == pytest.approx(deviation / math.sqrt(2), rel=0.05)
    assert torch.equal(scatters, scatters.mT)
    again = own.release(empty, torch.Generator().manual_seed(0))
    assert torch.equal(again.covariances[0], released[0].covariances[0])
    assert not torch.equal(own.release(empty, None).means[0], own.release(empty, None).means[0])


def test_without_noise_is_positive_semidefinite_and_closer():
    stream = torch.Generator().manual_seed(0)
    root = torch.randn(50, 4, generator=stream, dtype=torch.float64)
    truth, noise = root @ root.T, torch.randn(50, 50, generator=stream, dtype=torch.float64)
    noisy = truth + (noise + noise.T) / 2
    estimate, positive = without_noise(noisy, 1.0), without_noise(noisy, 0.0)
    assert torch.linalg.eigvalsh(estimate).min() > -1e-9
    assert (estimate - truth).norm() < (positive - truth).norm() < (noisy - truth).norm()
    assert without_noise((noise + noise.T) / 2, 1.5).norm() < 1e-9  # noise alone, within the edge of its spectrum


@pytest.mark.parametrize("length", [0.0, 0.5, 3.0])
def test_clipping_keeps_direction(length):
    x = torch.tensor([[0.6, 0.8]], dtype=torch.float64) * length
    torch.testing.assert_close(clipped(x, 1.0), x if length <= 1 else x / length)


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_sample_that_is_not_finite_changes_answers_by_at_most_one(value):
    stream = torch.Generator().manual_seed(0)
    values, means = values_of(5, 1.0, stream), [x[0] for x in values_of(1, 0.1, stream)]
    added = values_of(1, 1.0, stream)
    added[0][0, 1] = value
    neighbour = [torch.cat(pair) for pair in zip(values, added, strict=True)]
    for answer in (mechanism().sums, lambda v: mechanism().outer_products(v, means)):
        change = norm([a - b for a, b in zip(answer(neighbour), answer(values), strict=True)])
        assert 0 < change <= 1 + 1e-12
    assert clipped(added[0], 2.0).tolist() == [[0.0, 0.0, 0.0]]
