"""Audits of the moments that private memories release: canaries in orthogonal directions, with and without faults.

A canary is a vector along one coordinate. It changes the sum of its coordinate and the variance along it, which are
released together; its score is the log-likelihood ratio of both. Classes are released apart, so that the canaries of
several classes add up to one audit.
"""

import pytest
import torch
from torch import Tensor

from gr_cli.evaluation.attacks.canaries import CanaryBound, audit_canaries
from gr_cli.privacy import moments
from gr_cli.privacy.analytic_gaussian import epsilon_of_gaussian, gaussian_noise_multiplier

AUDITS, ERROR, DELTA = 20, 0.01, 1e-7
COORDINATES, CLASSES, GUESSES = 100, 20, 1000
NORM, RADIUS, RESIDUAL_RADIUS = 40.0, 2.0, 1.9
NOISE_MULTIPLIER = gaussian_noise_multiplier(1.0, 1e-5)
ACCOUNTED = epsilon_of_gaussian(DELTA, NOISE_MULTIPLIER)


def _scores(included: Tensor, noise: float, stream: torch.Generator) -> Tensor:
    """Scores (COORDINATES,) of the canaries of one class from its release."""
    block = moments.Block(COORDINATES, RADIUS, RESIDUAL_RADIUS, 1.0)
    mechanism = moments.MomentMechanism((block,), noise, 0.5)
    canaries = NORM * torch.eye(COORDINATES, dtype=torch.float64)[included]
    released = mechanism.release([canaries], stream)
    sums = released.count * released.means[0] / RADIUS
    variances = released.count * released.covariances[0].diagonal() / RESIDUAL_RADIUS**2
    return sums + variances


def _audit(seed: int, noise: float = NOISE_MULTIPLIER) -> CanaryBound:
    included = torch.rand(CLASSES, COORDINATES, generator=torch.Generator().manual_seed(seed)) < 0.5
    stream = torch.Generator().manual_seed(1000 + seed)
    scores = torch.cat([_scores(of_class, noise, stream) for of_class in included])
    return audit_canaries(scores, included.flatten(), [GUESSES], DELTA, ERROR / AUDITS)


@pytest.mark.parametrize("seed", range(AUDITS))
def test_bounds_stay_below_the_accounted_epsilon(seed: int) -> None:
    assert _audit(seed).epsilon < ACCOUNTED


def test_without_noise_the_bound_exceeds_it() -> None:
    bound = _audit(0, noise=1e-6)
    assert bound.epsilon == bound.largest > 3 * ACCOUNTED


def test_without_clipping_the_bound_exceeds_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(moments, "clipped", lambda x, radius: x)
    assert _audit(0).epsilon > 3 * ACCOUNTED
