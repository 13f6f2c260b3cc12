"""The accountant of DP-SGD agrees with published values and closed forms."""

import math

import pytest

from gr_cli.privacy.accounting import (
    OVERFLOW_SHARE,
    calibrated_noise,
    largest_task,
    overflow_delta,
    overflow_probability,
    smallest_batch,
    subsampled_gaussian_epsilon,
)

pytest.importorskip("dp_accounting")


def tail(x):
    """P(Z > x) of a standard normal number."""
    return 0.5 * math.erfc(x / math.sqrt(2))


def gaussian_delta(epsilon, noise):
    """δ of the Gaussian mechanism of sensitivity 1 (Balle and Wang 2018, theorem 8)."""
    first, second = 1 / (2 * noise) - epsilon * noise, -1 / (2 * noise) - epsilon * noise
    return tail(-first) - math.exp(epsilon) * tail(-second)


def one_step_delta(epsilon, noise, rate):
    """δ of one Poisson-subsampled step, where the sample is removed: the larger of both directions for small rates."""
    threshold = noise**2 * math.log((math.exp(epsilon) - (1 - rate)) / rate) + 0.5
    without, with_sample = tail(threshold / noise), tail((threshold - 1) / noise)
    return (1 - rate) * without + rate * with_sample - math.exp(epsilon) * without


# Upper bounds by Renyi accountants, which are up to a quarter above the accountant here.
@pytest.mark.parametrize(
    ("noise", "rate", "steps", "published"),
    [
        (4.0, 0.01, 10_000, 1.26),  # Abadi et al. 2016, section 4
        (1.1, 256 / 60_000, 60 * 60_000 // 256, 2.92),  # MNIST tutorial of TensorFlow Privacy
        (1.3, 256 / 60_000, 15 * 60_000 // 256, 1.19),
        (0.7, 256 / 60_000, 45 * 60_000 // 256, 7.10),
    ],
)
def test_epsilon_is_at_most_and_near_published_values(noise, rate, steps, published):
    epsilon = subsampled_gaussian_epsilon(noise, rate, steps, 1e-5)
    assert 0.7 * published < epsilon <= published


@pytest.mark.parametrize(("noise", "steps"), [(1.0, 1), (8.0, 16)])
def test_without_subsampling_it_is_the_gaussian_mechanism(noise, steps):
    """Steps on all samples compose to one of noise / sqrt(steps)."""
    epsilon = subsampled_gaussian_epsilon(noise, 1.0, steps, 1e-5)
    assert gaussian_delta(epsilon, noise / math.sqrt(steps)) == pytest.approx(1e-5, rel=0.02)


def test_one_subsampled_step_has_its_closed_form():
    epsilon = subsampled_gaussian_epsilon(1.0, 0.1, 1, 1e-5)
    assert one_step_delta(epsilon, 1.0, 0.1) == pytest.approx(1e-5, rel=0.02)


@pytest.mark.parametrize(("epsilon", "rate", "steps"), [(1.0, 0.02, 50), (10.0, 0.1, 20)])
def test_calibration_is_the_inverse_and_never_spends_more(epsilon, rate, steps):
    noise = calibrated_noise(epsilon, 1e-5, rate, steps)
    assert 0.99 * epsilon < subsampled_gaussian_epsilon(noise, rate, steps, 1e-5) <= epsilon


def exact_overflow(num_samples, rate, batch_size):
    counts = range(batch_size + 1, num_samples + 1)
    return sum(math.comb(num_samples, k) * rate**k * (1 - rate) ** (num_samples - k) for k in counts)


@pytest.mark.parametrize(("size", "rate", "batch"), [(50, 0.1, 8), (50, 0.1, 20), (200, 0.05, 25), (10, 0.5, 9)])
def test_the_chance_of_a_full_batch_is_bounded(size, rate, batch):
    exact = exact_overflow(size, rate, batch)
    assert exact <= overflow_probability(size, rate, batch) <= 60 * exact
    assert overflow_probability(batch, rate, batch) == 0


def test_the_largest_task_is_the_last_one_within_its_share_of_delta():
    size = largest_task(100, 0.05, 200, 3.0, 1e-5)
    allowed = OVERFLOW_SHARE * 1e-5
    assert overflow_delta(size + 1, 0.05, 100, 200, 3.0) <= allowed < overflow_delta(size + 2, 0.05, 100, 200, 3.0)
    assert 100 < size < 100 / 0.05
    positions = smallest_batch(size, 0.05, 200, 3.0, 1e-5)
    assert positions <= 100
    assert largest_task(positions - 1, 0.05, 200, 3.0, 1e-5) < size <= largest_task(positions, 0.05, 200, 3.0, 1e-5)
