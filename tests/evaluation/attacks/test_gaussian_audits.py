"""Audits of a Gaussian mechanism with known privacy: canaries in orthogonal directions, with and without faults.

One release of a million canaries. The audit takes place at δ = 1e-9: at δ = 1e-5 the term of δ hides a factor of two in
the noise, whatever the number of canaries. Of 20 audits none exceeds the accounted ε, at a joint confidence of 99 %.
"""

import pytest
import torch

from gr_cli.evaluation.attacks.canaries import CanaryBound, audit_canaries
from gr_cli.privacy.analytic_gaussian import epsilon_of_gaussian, gaussian_noise_multiplier
from gr_cli.privacy.noise import gaussian_noise

AUDITS, ERROR = 20, 0.01
CANARIES, GUESSES, DELTA = 1_000_000, 4000, 1e-9
RADIUS = 2.0  # of clipping
NORM = 50.0  # of the canaries before clipping
NOISE_MULTIPLIER = gaussian_noise_multiplier(1.0, 1e-5)
ACCOUNTED = epsilon_of_gaussian(DELTA, NOISE_MULTIPLIER)


def _audit(seed: int, noise: float = NOISE_MULTIPLIER * RADIUS, radius: float = RADIUS) -> CanaryBound:
    """One audit: the score of a canary is the inner product of its direction and the noisy sum of what was clipped."""
    flips = torch.Generator().manual_seed(seed)
    included = torch.rand(CANARIES, generator=flips) < 0.5
    release = gaussian_noise((CANARIES,), noise, torch.Generator().manual_seed(1000 + seed))
    release += included * min(NORM, radius)
    return audit_canaries(release, included, [GUESSES], DELTA, ERROR / AUDITS)


def test_what_the_audit_can_show() -> None:
    assert pytest.approx(1.502, abs=1e-3) == ACCOUNTED
    assert pytest.approx(6.214, abs=1e-3) == _audit(0).largest


@pytest.mark.parametrize("seed", range(AUDITS))
def test_bounds_stay_below_the_accounted_epsilon(seed: int) -> None:
    bound = _audit(seed)
    assert 0 < bound.epsilon < ACCOUNTED


@pytest.mark.parametrize(
    "fault",
    [{"noise": 0.0}, {"radius": float("inf")}, {"noise": NOISE_MULTIPLIER * RADIUS / 2}],
    ids=["no noise", "no clipping", "half the noise"],
)
@pytest.mark.parametrize("seed", range(3))
def test_faults_exceed_it(fault: dict[str, float], seed: int) -> None:
    bound = _audit(seed, **fault)
    assert ACCOUNTED < bound.epsilon <= bound.largest
