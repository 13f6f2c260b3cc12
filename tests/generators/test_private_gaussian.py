"""A private Gaussian per class, against direct computations."""

import io

import pytest
import torch

from gr_cli.errors import ConfigError
from gr_cli.generators import PrivateGaussian
from gr_cli.nn.replicas import Replicas
from gr_cli.nn.sample_spec import SampleSpec
from gr_cli.privacy import PrivacySettings
from gr_cli.privacy.analytic_gaussian import epsilon_of_gaussian

SHAPE = (1, 8, 8)
LOOSE = PrivacySettings(epsilon=1e13, delta=0.1)  # next to no noise
SMALL = {"frequencies": 2, "orientations": 2, "image_frequencies": 3}


def class_samples(label, n=40):
    stream = torch.Generator().manual_seed(label)
    image = 0.3 + 0.3 * torch.rand(SHAPE, generator=stream)
    return image + 0.2 * torch.rand(n, *SHAPE, generator=stream)


def stream_of(label):
    return torch.Generator().manual_seed(100 + label)


def gaussian_of(*tasks, privacy=LOOSE, **settings):
    gaussian = PrivateGaussian(SHAPE, 4, privacy, **SMALL | settings)
    for labels in tasks:
        for label in labels:
            gaussian.fit_class(class_samples(label), label, stream_of(label))
        gaussian.end_fit()
    return gaussian


def test_likelihoods_are_those_of_gaussians_of_features_with_shrunk_covariances():
    gaussian = gaussian_of([0, 1], [2], pooled_share=0.3, shrinkage=0.2, radius=1.0).double()
    features = {label: gaussian.features(class_samples(label)).double() for label in range(3)}
    own = {label: torch.cov(x.T, correction=0) for label, x in features.items()}
    pooled = sum(own.values()) / 3  # of classes of one size
    added = 0.2 * pooled.diagonal().mean() * torch.eye(len(pooled))
    x = class_samples(3)[:5]
    result = gaussian.learned_log_likelihoods(x)
    for label in range(3):
        covariance = 0.7 * own[label] + 0.3 * pooled + added
        density = torch.distributions.MultivariateNormal(features[label].mean(0), covariance)
        expected = density.log_prob(gaussian.features(x).double())
        torch.testing.assert_close(result[:, label], expected, rtol=1e-3, atol=1e-2)
    assert (result[:, 3] < -1e8).all()


def test_samples_have_mean_and_covariance_of_the_low_frequencies_of_their_class():
    gaussian = gaussian_of([0, 1], radius=1.0)
    labels = torch.ones(20_000, dtype=torch.long)
    z = gaussian.latent_noise(20_000)["z"]
    noise = torch.randn(z.shape, generator=torch.Generator().manual_seed(0))
    samples = gaussian.decode({"z": noise}, labels)
    assert samples.shape == (20_000, *SHAPE) and 0 <= samples.min() <= samples.max() <= 1
    basis = gaussian.image_basis.float()
    low, generated = class_samples(1).flatten(1) @ basis.T, samples.flatten(1) @ basis.T
    torch.testing.assert_close(generated.mean(0), low.mean(0), rtol=0, atol=0.1)
    torch.testing.assert_close(generated.std(0), low.std(0, correction=0), rtol=0.2, atol=0.02)
    assert gaussian.generate(5).shape == (5, *SHAPE)  # of the learned classes in turn
    with pytest.raises(ValueError, match="labels are needed"):
        gaussian.decode({"z": noise[:1]})


def test_a_release_depends_on_its_class_alone_and_never_changes():
    first = gaussian_of([0, 1])
    before = {name: first.get_buffer(name)[:2].clone() for name in ("feature_centres", "image_covariances")}
    first.fit_class(class_samples(2), 2, stream_of(2))
    first.end_fit()
    other = gaussian_of([1], [3], [0])
    for name, value in before.items():
        assert torch.equal(first.get_buffer(name)[:2], value), name
        assert torch.equal(other.get_buffer(name)[:2], value), name


def test_noise_of_a_small_budget_hides_a_sample_and_secure_noise_is_new():
    budget = PrivacySettings(epsilon=0.1)
    noisy = gaussian_of([0], privacy=budget)
    assert not torch.allclose(noisy.feature_centres[0], gaussian_of([0]).feature_centres[0], atol=0.05)
    assert torch.equal(noisy.counts, gaussian_of([0], privacy=budget).counts)
    secure = PrivacySettings(epsilon=0.1, secure=True)
    assert not torch.equal(
        gaussian_of([0], privacy=secure).feature_centres, gaussian_of([0], privacy=secure).feature_centres
    )
    assert noisy.learned_log_likelihoods(class_samples(1)).isfinite().all()


@pytest.mark.parametrize("tasks", [1, 4])
def test_accesses_of_all_tasks_of_a_sample_compose_to_the_budget(tasks):
    privacy = PrivacySettings(epsilon=2.0, across="stream", tasks_per_sample=tasks)
    gaussian = PrivateGaussian(SHAPE, 4, privacy, **SMALL)
    accesses = [a for task in range(tasks) for a in gaussian.private_accesses(task, [1, 3], "generator")]
    assert len(accesses) == 2 * tasks
    assert {(a.mechanism, a.classes, a.part, a.steps) for a in accesses} == {("gaussian", (1, 3), "generator", 1)}
    together = sum(access.noise_multiplier**-2 for access in accesses) ** -0.5
    assert 1.999999 < epsilon_of_gaussian(1e-5, together) <= 2.0
    assert all(epsilon_of_gaussian(1e-5, a.noise_multiplier) == a.epsilon for a in accesses)


def test_a_class_without_samples_is_released_all_the_same():
    gaussian = gaussian_of([0], privacy=PrivacySettings(epsilon=1.0))
    gaussian.fit_class(torch.empty(0, *SHAPE), 2, stream_of(2))
    gaussian.end_fit()
    assert gaussian.fits_classes_without_samples and gaussian.learned_classes.tolist() == [True, False, True, False]
    assert gaussian.counts[2] >= 1 and gaussian.feature_centres[2].norm() > 0
    assert gaussian.log_likelihoods(class_samples(0)).isfinite().all()


def test_a_class_that_was_forgotten_was_never_seen():
    gaussian = gaussian_of([0, 1], [2, 3])
    gaussian.forget_classes(torch.tensor([False, False, True, False]))
    never_seen = gaussian_of([0, 1], [3])
    for name, value in never_seen.state_dict().items():
        assert torch.equal(gaussian.state_dict()[name], value), name
    assert not gaussian.shared_fits


def test_checkpoint_has_what_was_released_alone():
    gaussian, other = gaussian_of([2, 0]), PrivateGaussian(SHAPE, 4, LOOSE, **SMALL)
    assert gaussian.feature_covariances.dtype == torch.float64 and gaussian.feature_means.dtype == torch.float32
    file = io.BytesIO()
    torch.save(gaussian.compact_state(gaussian.state_dict()), file)
    file.seek(0)
    state = torch.load(file, weights_only=True)
    assert state["counts"].shape == (2,) and "precision_factors" not in state
    other.load_state_dict(other.expand_state(state))
    for name, value in gaussian.state_dict().items():
        assert torch.equal(other.state_dict()[name], value), name


def test_replicas_decode_and_score_as_single_ones():
    first, second = gaussian_of([0, 1]), gaussian_of([1, 2])
    size = first.latent_noise(1)["z"].shape[1]
    labels, z = torch.tensor([[1, 0], [2, 1]]), torch.randn(2, 2, size)
    x = torch.stack([class_samples(0)[:3], class_samples(3)[:3]])
    expected = [g.decode({"z": z[i]}, labels[i]) for i, g in enumerate((first, second))]
    likelihoods = [g.log_likelihoods(x[i]) for i, g in enumerate((first, second))]
    stacked = Replicas([first, second])
    torch.testing.assert_close(stacked.call("decode", {"z": z}, labels), torch.stack(expected), rtol=1e-4, atol=1e-5)
    scores = stacked.call("log_likelihoods", x)
    torch.testing.assert_close(scores, torch.stack(likelihoods), rtol=1e-4, atol=1e-2)


@pytest.mark.parametrize(
    ("spec", "privacy", "problem"),
    [
        (SHAPE, None, "set privacy.epsilon"),
        ((64,), LOOSE, "use a benchmark of images"),
        (SampleSpec(SHAPE, None), LOOSE, "use a benchmark of images"),
    ],
)
def test_it_needs_a_budget_and_images(spec, privacy, problem):
    with pytest.raises(ConfigError, match=problem):
        PrivateGaussian(spec, 4, privacy)
