"""Gaussian mixtures per class, against closed forms and cases computed by hand."""

import math

import pytest
import torch

from gr_cli.errors import DataError
from gr_cli.generators import GaussianMixture
from gr_cli.generators.mixture import _component_parameters
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


def test_values_that_never_vary_change_nothing():
    torch.manual_seed(0)
    x = torch.randn(60, 5, dtype=torch.double) @ torch.randn(5, 5, dtype=torch.double)
    varying = torch.tensor([0, 2, 3, 6, 7])
    padded = torch.full((60, 9), 0.25, dtype=torch.double)
    padded[:, varying] = x
    before = padded.clone()
    small, large = (fitted_mixture(each, latent_dim=3, num_components=2) for each in (x, padded))
    assert torch.equal(padded, before)
    constant = torch.tensor([1, 4, 5, 8])
    torch.testing.assert_close(large.principal_axes[1][:, varying], small.principal_axes[1])
    assert (large.principal_axes[1][:, constant] == 0).all()
    assert (large.class_means[1, constant] == 0.25).all()
    for name in ("component_weights", "component_means", "covariance_factors"):
        torch.testing.assert_close(getattr(large, name)[1], getattr(small, name)[1])


def test_components_are_those_of_the_weighted_samples():
    """Against the formulas with a weight of 0 or 1 for every sample and component."""
    torch.manual_seed(0)
    z, assignment = torch.randn(50, 3, dtype=torch.double), torch.randint(4, (50,)) % 3 * 2  # 1 and 3 are empty
    share, centre, root = _component_parameters(z, assignment, 5, 2.0)
    member = torch.nn.functional.one_hot(assignment, 5).double()
    count = member.sum(0)
    expected = (member.T @ z) / count.clamp(min=1e-9).unsqueeze(1)
    centred = z - expected.unsqueeze(1)  # (K, N, d)
    scatter = (member.T.unsqueeze(-1) * centred).mT @ centred
    pooled = (scatter + 2 * scatter.sum(0) / 50) / (count + 2).view(-1, 1, 1) + 1e-8 * torch.eye(3)
    for result, wanted in ((share, count / 50), (centre, expected), (root @ root.mT, pooled)):
        torch.testing.assert_close(result, wanted)


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


def mixture_of_some_classes(num_classes=40, learned=(0, 3, 7), dtype=torch.double):
    """A mixture with classes of different numbers of components, of which some are learned."""
    torch.manual_seed(0)
    mixture = GaussianMixture((6,), num_classes, 4, 3, class_size=40).to(dtype)
    for label, size in zip(learned, (12, 25, 40), strict=True):
        mixture.fit_class(torch.rand(size, 6, dtype=dtype), label, torch.Generator().manual_seed(label))
    return mixture


def test_only_learned_classes_and_used_components_are_evaluated(monkeypatch):
    mixture, x = mixture_of_some_classes(), torch.rand(9, 6, dtype=torch.double)
    learned = mixture.learned_classes
    complete = mixture.log_likelihoods(x)
    for chunk in (1, 1 << 18):  # one class at a time, and all at once
        monkeypatch.setattr("gr_cli.generators.mixture._MAX_CHUNK_VALUES", chunk)
        result = mixture.learned_log_likelihoods(x)
        torch.testing.assert_close(result[:, learned], complete[:, learned], rtol=1e-12, atol=1e-12)
        assert (result[:, ~learned] < complete.min() - 1000).all() and result.shape == (9, 40)
        torch.testing.assert_close(mixture.log_likelihoods(x), complete, rtol=1e-12, atol=1e-12)
    # Parameters of classes that are not learned are not read.
    mixture.precision_factors[~learned] = math.nan
    torch.testing.assert_close(mixture.learned_log_likelihoods(x), result)


def test_memory_is_reserved_for_components_that_a_class_can_have():
    assert GaussianMixture((6,), 2, 40, 3, class_size=48).covariance_factors.shape == (2, 4, 3, 3)
    assert GaussianMixture((6,), 2, 40, 3, class_size=5).covariance_factors.shape == (2, 1, 3, 3)
    assert GaussianMixture((6,), 2, 40, 3).covariance_factors.shape == (2, 40, 3, 3)
    x = torch.rand(48, 6, dtype=torch.double)
    large, small = (GaussianMixture((6,), 2, 40, 3, class_size=size).double() for size in (None, 48))
    for mixture in (large, small):
        mixture.fit_class(x, 0, torch.Generator().manual_seed(0))
    torch.testing.assert_close(large.log_likelihoods(x)[:, 0], small.log_likelihoods(x)[:, 0])
    assert large.num_stored_values == small.num_stored_values  # as configured


def test_state_for_the_checkpoint_has_learned_classes_only():
    mixture = mixture_of_some_classes()
    state = mixture.state_dict()
    compact = mixture.compact_state(state)
    assert compact["principal_axes"].shape == (3, 3, 6) and compact["precision_factors"].shape == (3, 4, 6)
    other = GaussianMixture((6,), 40, 4, 3, class_size=40).double()
    other.load_state_dict(other.expand_state(compact))
    for name, value in other.state_dict().items():
        assert torch.equal(value, state[name]), name


def test_samples_of_many_classes_are_those_of_few(monkeypatch):
    mixture = mixture_of_some_classes()
    labels = torch.tensor([0, 3, 7, 7, 0])
    latent = {"component": torch.rand(5).double(), "z": torch.randn(5, 3).double()}
    by_sample = mixture.decode(latent, labels)
    monkeypatch.setattr("gr_cli.generators.mixture._MAX_CLASSES_IN_ONE_BASIS", 40)
    torch.testing.assert_close(by_sample, mixture.decode(latent, labels), rtol=1e-12, atol=1e-12)
