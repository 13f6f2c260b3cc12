"""Gaussian mixtures per class, against closed forms and cases computed by hand."""

import math

import pytest
import torch

from gr_cli.errors import DataError
from gr_cli.generators import GaussianMixture
from gr_cli.nn.sample_spec import SampleSpec


def fitted_mixture(x, **settings):
    mixture = GaussianMixture(SampleSpec((x.shape[1],), None), 2, **{"latent_dim": x.shape[1]} | settings)
    mixture.double().fit_class(x, 1, torch.Generator().manual_seed(0))
    return mixture


def test_single_component_is_the_gaussian_of_the_samples():
    torch.manual_seed(0)
    x = torch.randn(500, 3, dtype=torch.double) @ torch.randn(3, 3, dtype=torch.double) + 2
    mixture = fitted_mixture(x, num_components=1, pooled_samples=0.0, likelihood_noise=0.2)
    mean, covariance = x.mean(0), torch.cov(x.T, correction=0)
    torch.testing.assert_close(mixture.class_means[1], mean)
    root = mixture.principal_axes[1].T @ mixture.covariance_factors[1, 0]
    torch.testing.assert_close(root @ root.T, covariance, rtol=1e-3, atol=1e-6)
    # The variance of the likelihood noise is added to the covariance.
    noisy = torch.distributions.MultivariateNormal(mean, covariance + 0.04 * torch.eye(3))
    torch.testing.assert_close(mixture.log_likelihoods(x[:20])[:, 1], noisy.log_prob(x[:20]), rtol=1e-4, atol=1e-4)
    samples = mixture.generate(20_000, labels=torch.ones(20_000, dtype=torch.long))
    torch.testing.assert_close(samples.mean(0), mean, rtol=0, atol=0.1)
    torch.testing.assert_close(torch.cov(samples.T), covariance, rtol=0.1, atol=0.1)


def test_likelihood_outside_principal_components_is_that_of_the_noise():
    x = torch.zeros(50, 3, dtype=torch.double)
    x[:, 0] = torch.linspace(-1, 1, 50)
    mixture = fitted_mixture(x, num_components=1, latent_dim=1, pooled_samples=0.0, likelihood_noise=0.5)
    at = torch.tensor([[0.3, 0.0, 0.0], [0.3, 0.2, -0.1]], dtype=torch.double)
    result = mixture.log_likelihoods(at)[:, 1]
    assert float(result[0] - result[1]) == pytest.approx((0.2**2 + 0.1**2) / (2 * 0.25))
    outside = -math.log(2 * math.pi) - 2 * math.log(0.5)
    inside = torch.distributions.Normal(0.0, (float(x[:, 0].var(correction=0)) + 0.25) ** 0.5)
    assert float(result[0]) == pytest.approx(float(inside.log_prob(torch.tensor(0.3))) + outside, rel=1e-3)


def test_components_match_clusters_and_their_weights():
    torch.manual_seed(0)
    centres = torch.tensor([[0.0, 0.0], [5.0, 0.0], [0.0, 5.0]], dtype=torch.double)
    x = torch.cat([c + 0.1 * torch.randn(n, 2) for c, n in zip(centres, (100, 200, 300), strict=True)])
    mixture = fitted_mixture(x, num_components=3)
    order = mixture.component_weights[1].argsort()
    torch.testing.assert_close(
        mixture.component_weights[1][order], torch.tensor([1 / 6, 2 / 6, 3 / 6]).double(), atol=1e-3, rtol=0
    )
    result = mixture.component_means[1] @ mixture.principal_axes[1] + mixture.class_means[1]
    torch.testing.assert_close(result[order], centres, atol=0.05, rtol=0)
    components = [
        torch.distributions.MultivariateNormal(m, r @ r.T + 0.09 * torch.eye(2))
        for m, r in zip(mixture.component_means[1], mixture.covariance_factors[1], strict=True)
    ]
    z = (x[::50] - mixture.class_means[1]) @ mixture.principal_axes[1].T
    log_densities = torch.stack(
        [s.log() + p.log_prob(z) for s, p in zip(mixture.component_weights[1], components, strict=True)]
    )
    torch.testing.assert_close(mixture.log_likelihoods(x[::50])[:, 1], log_densities.logsumexp(0), rtol=1e-4, atol=1e-4)


def test_class_of_identical_samples():
    x = torch.full((30, 5), 0.25, dtype=torch.double)
    mixture = fitted_mixture(x, num_components=4)
    samples = mixture.generate(6, labels=torch.ones(6, dtype=torch.long))
    torch.testing.assert_close(samples, x[:6], rtol=0, atol=0.01)
    assert mixture.log_likelihoods(x)[:, 1].isfinite().all()


def test_components_have_a_minimum_size():
    torch.manual_seed(0)
    x = torch.randn(140, 20).double() * torch.logspace(
        0, 1, 20
    )  # spread out: plain k-means would leave many clusters of one sample
    mixture = fitted_mixture(x, num_components=40)
    counts = mixture.component_weights[1] * 140
    assert ((counts == 0) | (counts > 9.99)).all() and float(counts.sum()) == pytest.approx(140)
    with pytest.raises(DataError, match="class 1 has 9 samples, and needs 10"):
        fitted_mixture(x[:9])


def test_fitting_a_class_does_not_change_others():
    torch.manual_seed(0)
    mixture = GaussianMixture((4,), 3, 2, 3)
    mixture.fit_class(torch.rand(30, 4), 0, torch.Generator().manual_seed(0))
    before = {name: value[0].clone() for name, value in mixture.state_dict().items()}
    mixture.fit_class(torch.rand(30, 4), 2, torch.Generator().manual_seed(0))
    for name, value in mixture.state_dict().items():
        torch.testing.assert_close(value[0], before[name], rtol=0, atol=0)
    assert mixture.learned_classes.tolist() == [True, False, True]
