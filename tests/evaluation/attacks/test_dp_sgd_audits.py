"""Audits of DP-SGD by canaries in a small network, with and without faults, as those of the Gaussian mechanism.

The network is linear and its loss too, so that the gradient of a canary is its input; inputs are orthogonal. Each step
reads canaries of its own. The score of a canary is the inner product of its direction and the
noised gradient of its step.
"""

from collections.abc import Iterator

import pytest
import torch
from torch import Tensor, nn

from gr_cli.evaluation.attacks.canaries import CanaryBound, audit_canaries
from gr_cli.nn.gradient_rules.base import GradientStep, Loss
from gr_cli.nn.random_streams import RandomStreams, ReplicaStreams
from gr_cli.nn.replicas import Replicas
from gr_cli.privacy.analytic_gaussian import epsilon_of_gaussian, gaussian_noise_multiplier
from gr_cli.privacy.settings import PrivacySettings

dp_sgd = pytest.importorskip("gr_cli.nn.gradient_rules.dp_sgd")
pytest.importorskip("dp_accounting")

AUDITS, ERROR, DELTA = 20, 0.01, 1e-7
PER_STEP, NORM, RADIUS = 1000, 50.0, 2.0
NOISE_MULTIPLIER = gaussian_noise_multiplier(1.0, 1e-5)
ACCOUNTED = epsilon_of_gaussian(DELTA, NOISE_MULTIPLIER)


def _noised_gradients(included: Tensor, seed: int, noise: float, radius: float) -> Iterator[Tensor]:
    """The gradient (PER_STEP,) of each step, scaled to the sum over samples."""
    budget = PrivacySettings(1.05, 1e-5, sampling_rate=1.0)
    rule = dp_sgd.DPSGD(radius, NOISE_MULTIPLIER, budget, steps=1, batch_size=PER_STEP + 1)
    rule.noise_multiplier = noise
    networks = Replicas([nn.Linear(PER_STEP, 1, bias=False)])
    parameters = networks.select_parameters(lambda network: network.parameters())
    streams = ReplicaStreams([RandomStreams(1000 + seed)])
    for step, flips in enumerate(included.split(PER_STEP)):
        x = torch.diag(NORM * flips.float()).unsqueeze(0)
        with rule.recording(networks):
            losses = networks.call("__call__", x).squeeze(-1) / PER_STEP  # (R, B)
        loss = Loss(losses.sum(1), per_sample=lambda losses=losses: losses)
        (gradient,) = rule.gradients(loss, parameters, GradientStep("solver", 0, step, streams))
        yield gradient.flatten() * rule.expected_batch_size


def _audit(seed: int, canaries: int, noise: float = NOISE_MULTIPLIER, radius: float = RADIUS) -> CanaryBound:
    included = torch.rand(canaries, generator=torch.Generator().manual_seed(seed)) < 0.5
    scores = torch.cat(list(_noised_gradients(included, seed, noise, radius)))
    return audit_canaries(scores, included, [max(1000, canaries // 100)], DELTA, ERROR / AUDITS)


@pytest.mark.parametrize("seed", range(AUDITS))
def test_bounds_stay_below_the_accounted_epsilon(seed: int) -> None:
    assert _audit(seed, 5_000).epsilon < ACCOUNTED


def test_without_noise_the_bound_exceeds_it() -> None:
    bound = _audit(0, 5_000, noise=0.0)
    assert bound.epsilon == bound.largest > 3 * ACCOUNTED


def test_without_clipping_the_bound_exceeds_it() -> None:
    """Noise as for a radius of 2, gradients of norm 50."""
    bound = _audit(0, 5_000, NOISE_MULTIPLIER * RADIUS / 1e9, radius=1e9)
    assert bound.epsilon > 3 * ACCOUNTED


def test_with_half_the_noise_200_000_canaries_exceed_it() -> None:
    assert _audit(0, 200_000, NOISE_MULTIPLIER / 2).epsilon > ACCOUNTED
