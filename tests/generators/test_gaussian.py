"""A Gaussian per class, against direct computations."""

import io

import numpy as np
import pytest
import torch

from gr_cli.generators import ClassGaussian
from gr_cli.nn.replicas import Replicas
from gr_cli.nn.sample_spec import SampleSpec
from gr_cli.training.experiment import prepare
from helpers.shipped_methods import settings_of, train

SPEC = SampleSpec((5,), None)


def class_samples(label, n=60):
    draws = torch.Generator().manual_seed(label)
    mix = torch.randn(5, 5, generator=draws, dtype=torch.double)
    return torch.randn(n + label, 5, generator=draws, dtype=torch.double) @ mix + label


def fit(gaussian, *tasks):
    for labels in tasks:
        stream = torch.Generator().manual_seed(0)
        gaussian.begin_fit(torch.cat([class_samples(label) for label in labels]), stream)
        for label in labels:
            gaussian.fit_class(class_samples(label), label, stream)
        gaussian.end_fit()
    return gaussian


def gaussian_of(*tasks, **settings):
    return fit(ClassGaussian(SPEC, 4, **{"latent_dim": None} | settings).double(), *tasks)


def expected_covariances(labels, share, shrinkage, project=lambda x: x):
    samples = [project(class_samples(label).numpy()) for label in labels]
    scatters = [(x - x.mean(0)).T @ (x - x.mean(0)) for x in samples]
    pooled = sum(scatters) / sum(map(len, samples))
    identity = np.eye(len(pooled))
    return [
        (1 - share) * scatter / len(x) + share * pooled + shrinkage * np.trace(pooled) / len(pooled) * identity
        for scatter, x in zip(scatters, samples, strict=True)
    ]


@pytest.mark.parametrize("share", [0.0, 0.7, 1.0])
def test_likelihoods_are_those_of_gaussians_with_shrunk_covariances(share):
    gaussian, x = gaussian_of([0, 1], [2], pooled_share=share, shrinkage=0.05), class_samples(3)[:9]
    result = gaussian.learned_log_likelihoods(x)
    for label, covariance in enumerate(expected_covariances([0, 1, 2], share, 0.05)):
        density = torch.distributions.MultivariateNormal(class_samples(label).mean(0), torch.from_numpy(covariance))
        torch.testing.assert_close(result[:, label], density.log_prob(x), rtol=1e-6, atol=1e-6)
    assert (result[:, 3] < -1e8).all() and gaussian.learned_classes.tolist() == [True, True, True, False]
    torch.testing.assert_close(gaussian.log_likelihoods(x)[:, :3], result[:, :3])


def test_samples_have_mean_and_covariance_of_their_class():
    gaussian = gaussian_of([0, 1])
    samples = gaussian.generate(20_000, labels=torch.ones(20_000, dtype=torch.long), generator=torch.Generator())
    (_, covariance) = expected_covariances([0, 1], 0.7, 0.001)
    np.testing.assert_allclose(samples.mean(0), class_samples(1).mean(0), atol=0.1)
    np.testing.assert_allclose(np.cov(samples.T.numpy()), covariance, atol=0.05 * np.abs(covariance).max())
    with pytest.raises(ValueError, match="labels are needed"):
        gaussian.decode({"z": torch.zeros(1, 5)})


def test_principal_components_are_those_of_the_first_task():
    gaussian, x = gaussian_of([0, 1], [2], latent_dim=3, shrinkage=0.05), class_samples(3)[:9]
    first = torch.cat([class_samples(0), class_samples(1)]).numpy()
    axes = np.linalg.svd(first - first.mean(0))[2][:3]

    def project(values):
        return (values - first.mean(0)) @ axes.T

    for label, covariance in enumerate(expected_covariances([0, 1, 2], 0.7, 0.05, project)):
        mean = torch.from_numpy(project(class_samples(label).numpy()).mean(0))
        density = torch.distributions.MultivariateNormal(mean, torch.from_numpy(covariance))
        expected = density.log_prob(torch.from_numpy(project(x.numpy())))
        torch.testing.assert_close(gaussian.log_likelihoods(x)[:, label], expected, rtol=1e-6, atol=1e-6)
    samples = gaussian.generate(8).numpy()
    outside = (samples - first.mean(0)) @ (np.eye(5) - axes.T @ axes)
    np.testing.assert_allclose(outside, 0, atol=1e-6)


@pytest.mark.parametrize("latent_dim", [None, 3])
def test_a_class_that_was_forgotten_was_never_seen(latent_dim):
    gaussian = gaussian_of([0, 1], [2, 3], latent_dim=latent_dim)
    gaussian.forget_classes(torch.tensor([False, False, True, False]))
    never_seen = gaussian_of([0, 1], [3], latent_dim=latent_dim)
    for name, value in never_seen.state_dict().items():
        assert torch.equal(gaussian.state_dict()[name], value), name
    assert bool(gaussian.shared_fits) == (latent_dim is not None)


def test_checkpoint_has_the_sums_alone():
    gaussian, other = gaussian_of([2, 0], latent_dim=3).float(), ClassGaussian(SPEC, 4, latent_dim=3)
    gaussian.end_fit()
    assert gaussian.moments.dtype == torch.float64 and gaussian.class_means.dtype == torch.float32
    file = io.BytesIO()
    torch.save(gaussian.compact_state(gaussian.state_dict()), file)
    file.seek(0)
    state = torch.load(file, weights_only=True)
    assert state["moments"].shape == (2, 6) and "covariance_factors" not in state
    other.load_state_dict(other.expand_state(state))
    for name, value in gaussian.state_dict().items():
        assert torch.equal(other.state_dict()[name], value), name


def test_replicas_decode_and_score_as_single_ones():
    first, second = gaussian_of([0, 1]), gaussian_of([1, 2])
    labels, z, x = torch.tensor([[1, 0], [2, 1]]), torch.randn(2, 2, 5).double(), torch.randn(2, 3, 5).double()
    expected = [g.decode({"z": z[i]}, labels[i]) for i, g in enumerate((first, second))]
    likelihoods = [g.log_likelihoods(x[i]) for i, g in enumerate((first, second))]
    stacked = Replicas([first, second])
    for replicas in (stacked, stacked.frozen_copy()):
        torch.testing.assert_close(replicas.call("decode", {"z": z}, labels), torch.stack(expected))
        torch.testing.assert_close(replicas.call("log_likelihoods", x), torch.stack(likelihoods))


def test_constant_values():
    gaussian = ClassGaussian(SPEC, 2, latent_dim=None)
    for label, value in enumerate((0.5, 0.25)):
        gaussian.fit_class(torch.full((9, 5), value), label, torch.Generator())
    gaussian.end_fit()
    scores = gaussian.learned_log_likelihoods(torch.tensor([[0.5] * 5, [0.25] * 5]))
    assert scores.argmax(1).tolist() == [0, 1] and scores.isfinite().all()
    torch.testing.assert_close(gaussian.generate(2), torch.tensor([[0.5] * 5, [0.25] * 5]), rtol=0, atol=1e-4)


def accuracy(*overrides):
    experiment = prepare(settings_of(*overrides, "threads=1", "evaluate.generated_samples=0"))
    learner = experiment.learner
    for number in range(5):
        train([experiment], learner, number)
    units = learner.scenario.testing_units(learner.task_units, 4, 4)
    tasks = experiment.benchmark.tasks
    return sum(learner.evaluate(task.test.batches(), units).accuracy for task in tasks) / len(tasks)


def test_classifier_and_replay_of_gaussians_learn_digits():
    assert accuracy("strategy=generative_classifier", "generator=gaussian") > 0.9
    assert accuracy("strategy=generative_replay", "generator=gaussian", "train.iterations=100") > 0.8


def test_samples_have_the_covariance_factor_of_their_class():
    generator = ClassGaussian(SampleSpec((2,), None), num_classes=3, latent_dim=None)
    generator.class_means.copy_(torch.tensor([[10.0, 20.0], [30.0, 40.0], [50.0, 60.0]]))
    generator.covariance_factors.copy_(torch.tensor([[[k, 0.0], [1.0, 2.0]] for k in (1.0, 2.0, 3.0)]))
    samples = generator.decode({"z": torch.tensor([[1.0, 1.0], [1.0, -1.0], [0.0, 3.0]])}, torch.tensor([2, 0, 1]))
    torch.testing.assert_close(samples, torch.tensor([[53.0, 63.0], [11.0, 19.0], [30.0, 46.0]]))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert generator.decode({"z": torch.zeros(1, 2)}, torch.tensor([1])).dtype == torch.float32
