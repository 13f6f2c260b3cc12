"""Classifiers in closed form, against direct computations in numpy."""

import numpy as np
import pytest
import torch

from gr_cli.strategies import StreamingLDA
from helpers.small_runs import TASKS, assert_same, data, learner_of, passes, saved, train

METHODS = {"slda": StreamingLDA}
SCENARIOS = ("class", "domain", "task")


def trained(strategy, scenario="class", tasks=range(TASKS), seeds=(0,)):
    learner = learner_of(strategy, scenario, seeds)
    for task in tasks:
        train(learner, task)
    return learner


def scores(learner, x, replica=0):
    with learner.classifier(replica) as classify:
        return classify(x, None)


def all_data(learner, replica=0, tasks=range(TASKS)):
    """Samples, labels and tasks of a stream, as numpy arrays."""
    pairs = [(*data(learner, task, replica), torch.full((40,), task)) for task in tasks]
    return [torch.cat(column).numpy() for column in zip(*pairs, strict=True)]


TEST = torch.randn(30, 6, dtype=torch.double, generator=torch.Generator().manual_seed(5))


# --- streaming LDA


@pytest.mark.parametrize("scenario", SCENARIOS)
def test_streaming_lda_is_lda_of_all_samples(scenario):
    learner = trained(StreamingLDA(shrinkage=0.01), scenario)
    x, y, _ = all_data(learner)
    means = np.stack([x[y == unit].mean(0) for unit in range(y.max() + 1)])
    covariance = (x - means[y]).T @ (x - means[y]) / len(x)
    precision = np.linalg.inv(0.99 * covariance + 0.01 * np.eye(6))
    expected = TEST.numpy() @ precision @ means.T - 0.5 * np.einsum("ki,ij,kj->k", means, precision, means)
    np.testing.assert_allclose(scores(learner, TEST), expected, rtol=1e-9)
    assert expected.shape[1] == (2 if scenario == "domain" else 6)


def test_streaming_lda_with_the_identity_is_the_nearest_mean():
    learner = trained(StreamingLDA(shrinkage=1.0))
    x, y, _ = all_data(learner)
    means = torch.stack([torch.from_numpy(x[y == unit].mean(0)) for unit in range(6)])
    assert torch.equal(scores(learner, TEST).argmax(1), torch.cdist(TEST, means).argmin(1))


# --- all of them


def methods(**settings):
    return [pytest.param(method, id=name) for name, method in METHODS.items()]


@pytest.mark.parametrize("method", methods())
def test_classes_that_are_not_learned_are_never_predicted(method):
    learner = trained(method(), tasks=[0])
    assert scores(learner, TEST)[:, 2:].max() < scores(learner, TEST)[:, :2].min() - 1e6


@pytest.mark.parametrize("method", methods())
@pytest.mark.parametrize("scenario", ["class", "domain"])
def test_replicas_are_single_runs(method, scenario):
    group = trained(method(), scenario, seeds=(0, 1))
    for replica, seed in enumerate((0, 1)):
        single = trained(method(), scenario, seeds=(seed,))
        assert_same(saved(group)[replica]["strategy"], saved(single)[0]["strategy"])
        assert torch.equal(scores(group, TEST, replica), scores(single, TEST))


@pytest.mark.parametrize("method", methods())
def test_a_run_resumes_exactly(method):
    learner, resumed = trained(method(), tasks=[0, 1]), learner_of(method())
    resumed.load_states(saved(learner), 2, passes(resumed, 2))
    assert torch.equal(scores(resumed, TEST), scores(learner, TEST))
    for each in (learner, resumed):
        train(each, 2)
    assert_same(saved(resumed), saved(learner))
    assert torch.equal(scores(resumed, TEST), scores(learner, TEST))


@pytest.mark.parametrize("method", methods())
def test_a_task_that_was_dropped_was_never_seen(method):
    learner, without = trained(method()), trained(method(), tasks=[0, 2])
    learner.strategy.forget(learner.task_units & (torch.arange(TASKS) == 1).unsqueeze(1))
    assert_same(saved(learner)[0]["strategy"], saved(without)[0]["strategy"])
    for each in (learner, without):
        assert each.strategy.statistics[0].classes == [0, 1, 4, 5]
    assert torch.equal(scores(learner, TEST), scores(without, TEST))


@pytest.mark.parametrize("method", methods())
def test_no_sample_is_kept(method):
    learner = trained(method())
    samples = torch.cat([data(learner, task, 0)[0] for task in range(TASKS)])

    def tensors(value):
        if isinstance(value, torch.Tensor):
            yield value
        elif isinstance(value, dict):
            for each in value.values():
                yield from tensors(each)
        elif isinstance(value, list):
            for each in value:
                yield from tensors(each)

    for tensor in tensors(saved(learner)[0]["strategy"]):
        if tensor.dim() and tensor.shape[-1] == 6:
            assert torch.cdist(tensor.reshape(-1, 6).double(), samples).min() > 1e-6
    assert not learner.strategy.stores_raw_samples
