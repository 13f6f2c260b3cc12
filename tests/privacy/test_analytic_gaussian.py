"""The analytic Gaussian mechanism, against its definition and published values."""

import math

import numpy as np
import pytest

from gr_cli.privacy.analytic_gaussian import delta_of_gaussian, epsilon_of_gaussian, gaussian_noise_multiplier


def normal_cdf(x):
    return 0.5 * math.erfc(-x / math.sqrt(2))


@pytest.mark.parametrize("multiplier", [0.3, 1.0, 4.0])
def test_at_epsilon_zero_delta_is_the_total_variation_distance(multiplier):
    assert delta_of_gaussian(0.0, multiplier) == pytest.approx(2 * normal_cdf(0.5 / multiplier) - 1, rel=1e-12)


@pytest.mark.parametrize(("epsilon", "multiplier"), [(0.1, 1.0), (1.0, 1.0), (1.0, 3.7), (4.0, 0.5)])
def test_delta_is_the_integral_of_what_exceeds_e_to_the_epsilon(epsilon, multiplier):
    z = np.linspace(-40, 40, 2_000_001)
    first, second = (np.exp(-0.5 * (z - mean) ** 2) / math.sqrt(2 * math.pi) for mean in (1 / multiplier, 0.0))
    excess = np.maximum(first - math.exp(epsilon) * second, 0)
    assert delta_of_gaussian(epsilon, multiplier) == pytest.approx(excess.sum() * (z[1] - z[0]), rel=1e-5)


@pytest.mark.parametrize(
    ("epsilon", "expected"),
    [(0.1, 30.749566), (1.0, 3.730632), (3.0, 1.390593), (10.0, 0.499889)],  # those of dp-accounting 0.6.0
)
def test_noise_of_known_budgets(epsilon, expected):
    assert gaussian_noise_multiplier(epsilon, 1e-5) == pytest.approx(expected, rel=2e-6)


def test_the_classical_calibration_needs_more_noise_below_one_and_is_not_private_at_ten():
    # Balle and Wang (2018), section 2: sqrt(2 log(1.25 / delta)) / epsilon is proved for epsilon < 1 only.
    classical = math.sqrt(2 * math.log(1.25 / 1e-5))
    assert gaussian_noise_multiplier(0.9, 1e-5) < classical / 0.9
    assert delta_of_gaussian(10.0, classical / 10) > 1e-5


@pytest.mark.parametrize("epsilon", [0.01, 1.0, 30.0, 800.0])
@pytest.mark.parametrize("delta", [1e-3, 1e-9])
def test_noise_and_budget_are_inverse_and_rounded_up(epsilon, delta):
    multiplier = gaussian_noise_multiplier(epsilon, delta)
    assert delta_of_gaussian(epsilon, multiplier) <= delta < delta_of_gaussian(epsilon, multiplier * (1 - 1e-6))
    assert epsilon_of_gaussian(delta, multiplier) == pytest.approx(epsilon, rel=1e-6)
    assert delta_of_gaussian(epsilon_of_gaussian(delta, multiplier), multiplier) <= delta


def test_much_noise_needs_no_epsilon():
    assert epsilon_of_gaussian(0.5, 10.0) == 0.0
    assert gaussian_noise_multiplier(0.0, 1e-3) == pytest.approx(1 / (2 * 0.0012533147), rel=1e-4)
