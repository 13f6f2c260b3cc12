"""Classifiers in closed form, against direct computations in numpy."""

from functools import partial

import numpy as np
import pytest
import torch

from gr_cli.errors import ConfigError
from gr_cli.nn.class_statistics import ClassStatistics, task_statistics
from gr_cli.strategies import FeCAM, FeTrIL, NearestClassMean, RanPAC, StreamingLDA
from gr_cli.strategies.closed_form import task_samples
from gr_cli.strategies.context import TrainingStep
from gr_cli.strategies.fetril import _translations
from gr_cli.strategies.ranpac import chosen_ridge, held_out_samples
from gr_cli.training.experiment import prepare
from helpers.shipped_methods import settings_of
from helpers.shipped_methods import train as train_stage
from helpers.small_runs import (
    TASKS,
    assert_replicas_match_single_runs,
    assert_resumes_from_state,
    assert_same,
    batches,
    data,
    learner_of,
    passes,
    saved,
    tensors,
    train,
)

METHODS = {
    "slda": StreamingLDA,
    "slda by class": partial(StreamingLDA, keep="class"),
    "slda in fixed point": partial(StreamingLDA, keep="class", arithmetic="fixed_point"),
    "ncm": NearestClassMean,
    "fecam": FeCAM,
    "ranpac": partial(RanPAC, projection_dim=8),
    "ranpac by class": partial(RanPAC, projection_dim=8, keep="class"),
    "ranpac on samples": partial(RanPAC, projection_dim=None, ridge=0.1),
}
SCENARIOS = ("class", "domain", "task")


def trained(strategy, scenario="class", tasks=range(TASKS), seeds=(0,)):
    learner = learner_of(strategy, scenario, seeds)
    for task in tasks:
        train(learner, task)
    return learner


def scores(learner, x, replica=0):
    with learner.classifier(replica) as classify:
        return classify(x, None, 0)


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


# --- nearest class mean


@pytest.mark.parametrize("scenario", SCENARIOS)
def test_nearest_class_mean(scenario):
    learner = trained(NearestClassMean(), scenario)
    x, y, _ = all_data(learner)
    means = np.stack([x[y == unit].mean(0) for unit in range(y.max() + 1)])
    expected = -0.5 * ((TEST.numpy()[:, None] - means) ** 2).sum(-1)
    np.testing.assert_allclose(scores(learner, TEST), expected, rtol=1e-9)


# --- RanPAC


def projected(learner, x):
    """Random features by hand, in numpy."""
    projection = learner.random_streams[0].draw("normal", "projection", shape=(6, 8)).double().numpy()
    return np.maximum(x @ projection, 0)


@pytest.mark.parametrize("scenario", SCENARIOS)
@pytest.mark.parametrize("projection_dim", [8, None])
def test_ranpac_is_ridge_regression_of_one_hot_labels(scenario, projection_dim):
    learner = trained(RanPAC(projection_dim, ridge=0.3), scenario)
    x, y, tasks = all_data(learner)
    h, test = (projected(learner, each) if projection_dim else each for each in (x, TEST.numpy()))
    for task in range(TASKS if projection_dim else 0):
        for unit in np.unique(y):
            rows = np.flatnonzero((tasks == task) & (y == unit))
            h[np.ix_(rows, (h[rows] > 0).sum(0) == 1)] = 0  # what a single sample of twenty has is hidden
    weights = np.linalg.solve(h.T @ h + 0.3 * np.eye(h.shape[1]), h.T @ np.eye(y.max() + 1)[y])
    np.testing.assert_allclose(scores(learner, TEST), test @ weights, rtol=1e-8)


@pytest.mark.parametrize("keep", ["class", "task", "total"])
def test_ridge_has_the_smallest_error_on_held_out_samples_of_the_last_task(keep):
    learner = trained(RanPAC(projection_dim=None, keep=keep))
    for task in range(TASKS):
        x, y, _ = all_data(learner, tasks=[task])
        held_out = np.zeros(len(y), dtype=bool)
        for unit in np.unique(y):
            held_out[np.flatnonzero(y == unit)[4::5]] = True
        assert held_out.sum() == 8
        target, errors = np.eye(6)[y], {}
        for ridge in 10.0 ** np.arange(-8, 9):
            gram = x[~held_out].T @ x[~held_out] + ridge * np.eye(6)
            weights = np.linalg.solve(gram, x[~held_out].T @ target[~held_out])
            errors[ridge] = np.square(x[held_out] @ weights - target[held_out]).sum()
        assert learner.strategy.ridges[0][task] == pytest.approx(min(errors, key=errors.get))
    x, y, _ = all_data(learner)
    weights = np.linalg.solve(x.T @ x + learner.strategy.ridges[0][2] * np.eye(6), x.T @ np.eye(6)[y])
    np.testing.assert_allclose(scores(learner, TEST), TEST.numpy() @ weights, rtol=1e-7)


def test_ridge_without_held_out_samples_is_1():
    statistics = task_statistics("task", 0, torch.randn(4, 3), torch.tensor([0, 0, 1, 1]))
    held_out = task_statistics("task", 0, torch.randn(0, 3), torch.zeros(0, dtype=torch.long), units=[0, 1])
    assert chosen_ridge(statistics, held_out) == 1.0
    labels = torch.tensor([*[1, 0] * 5, *[1] * 5])  # ten of class 1, and five of class 0: one would be alone
    assert held_out_samples(labels).nonzero().squeeze(1).tolist() == [8, 14]


def test_projection_depends_on_seed_and_sizes_alone():
    three_tasks, one_task = trained(RanPAC(8)), trained(RanPAC(8), "domain", tasks=[1])
    features = [learner.strategy.features(TEST, 0) for learner in (three_tasks, one_task)]
    assert torch.equal(*features) and (features[0] >= 0).all() and (features[0] == 0).any()
    other = trained(RanPAC(8), seeds=(1,)).strategy.features(TEST, 0)
    assert not torch.allclose(features[0], other)
    assert not any(tensor.shape[-2:] == (6, 8) for tensor in tensors(saved(three_tasks)[0]["strategy"]))


# --- FeCAM


@pytest.mark.parametrize("scenario", SCENARIOS)
@pytest.mark.parametrize("unit_length", [True, False])
def test_fecam_is_the_mahalanobis_distance_of_transformed_features(scenario, unit_length):
    learner = trained(FeCAM(0.5, 0.7, 0.2, unit_length), scenario)
    x, y, _ = all_data(learner)

    def transformed(values):
        return np.sign(values) * np.sqrt(np.abs(values))

    def scaled(values):
        return values / np.linalg.norm(values, axis=-1, keepdims=True) if unit_length else values

    expected = []
    for unit in range(y.max() + 1):
        own = transformed(x[y == unit])
        covariance, ones = np.cov(own.T, bias=True), np.ones((6, 6))
        variance = np.diag(covariance).mean()
        off_diagonal = covariance[~np.eye(6, dtype=bool)].mean()
        covariance = covariance + 0.7 * variance * np.eye(6) + 0.2 * off_diagonal * (ones - np.eye(6))
        deviation = np.sqrt(np.diag(covariance))
        precision = np.linalg.inv(covariance / np.outer(deviation, deviation))
        difference = scaled(transformed(TEST.numpy())) - scaled(own.mean(0))
        expected.append(-np.einsum("ni,ij,nj->n", difference, precision, difference))
    np.testing.assert_allclose(scores(learner, TEST), np.stack(expected, 1), rtol=1e-7)


def test_fecam_with_constant_features_and_a_single_sample():
    strategy = FeCAM(power=1, unit_length=False)
    statistics = ClassStatistics("class")
    x = torch.randn(30, 4, dtype=torch.double)
    x[:, 2] = 1e3
    statistics.add(0, x, torch.tensor([0] * 29 + [1]))
    for unit in (0, 1):
        correlation = strategy.correlation(statistics, unit)
        assert torch.linalg.eigvalsh(correlation).min() > 0.1
        torch.testing.assert_close(correlation.diagonal(), torch.ones(4, dtype=torch.double))
    torch.testing.assert_close(strategy.correlation(statistics, 1), torch.eye(4, dtype=torch.double))
    # Without shrinkage, a constant feature is uncorrelated with the others.
    correlation = FeCAM(1, 0.0, 0.0, False).correlation(statistics, 0)
    expected = np.corrcoef(x[:29, [0, 1, 3]].T.numpy())
    np.testing.assert_allclose(correlation[[0, 1, 3]][:, [0, 1, 3]], expected, rtol=1e-7)
    assert correlation[2].tolist() == [0, 0, 1, 0]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            {"off_diagonal_shrinkage": 100.0, "shrinkage": 0.0},
            "strategy.off_diagonal_shrinkage=100.0: leaves .*=0.0; try a",
        ),
        ({"power": 1e4}, "strategy.power=10000.0: makes values that are not finite"),
    ],
)
def test_fecam_names_the_setting_that_spoils_a_covariance(settings, message):
    with pytest.raises(ConfigError, match=message):
        trained(FeCAM(**settings), tasks=[0])


def test_fecam_keeps_the_scores_of_a_class():
    learner, calls = learner_of(FeCAM()), []
    compute = learner.strategy._class_scores
    learner.strategy._class_scores = lambda x, replica, classes: (calls.append(classes), compute(x, replica, classes))[
        1
    ]
    for task in range(TASKS):
        train(learner, task)
        with learner.classifier() as classify:
            kept = classify(TEST, "test samples", 0)
            assert torch.equal(kept, classify(TEST, None, 0))
    # Once under a name, and each time without one.
    assert calls.count([0, 1]) == 4 and calls.count([4, 5]) == 2
    learner.strategy.forget(learner.task_units & (torch.arange(TASKS) == 0).unsqueeze(1))
    with learner.classifier() as classify:
        assert classify(TEST, "test samples", 0)[:, :2].max() < -1e6


def test_fecam_does_not_keep_scores_where_classes_return():
    learner = trained(FeCAM(), "domain", tasks=[0])
    before = scores(learner, TEST)
    train(learner, 1)
    assert not learner.strategy.keeps_scores and not torch.allclose(scores(learner, TEST), before)


# --- FeTrIL


def test_fetril_translates_samples_of_the_most_similar_class_by_hand():
    x = torch.tensor([[4.0, 0.0], [6.0, 2.0], [0.0, 3.0], [0.0, 5.0]], dtype=torch.double)
    y = torch.tensor([3, 3, 2, 2])  # means (5, 1) and (0, 4)
    earlier = ClassStatistics()
    earlier.add(0, torch.tensor([[0.0, 2.0], [1.0, 2.0], [9.0, 1.0]]), torch.tensor([0, 0, 1]))  # (0.5, 2), (9, 1)
    translations = _translations(x, y, earlier)
    assert translations.labels.tolist() == [0, 1]
    entry, uniform = torch.tensor([0, 0, 1, 1]), torch.tensor([0.0, 0.9, 0.4, 0.999])
    expected = [[0.5, 1.0], [0.5, 3.0], [8.0, 0.0], [10.0, 2.0]]
    assert translations.samples(entry, uniform).tolist() == expected


@pytest.mark.parametrize("scenario", SCENARIOS)
def test_fetril_replays_samples_around_the_means_of_earlier_classes(scenario):
    learner = trained(FeTrIL(batch_size=400), scenario, tasks=[0, 1])
    learner.begin_task(2, passes(learner, 2))
    batch, step = next(batches(learner, 2)), TrainingStep(2, 0, 12)
    replay = learner.strategy.replay(batch, step)
    assert learner.strategy.replay(batch, step) is replay
    x, y, task = all_data(learner, tasks=[0, 1])
    own, labels, _ = all_data(learner, tasks=[2])
    means = [(own[labels == unit] - own[labels == unit].mean(0)) for unit in np.unique(labels)]
    allowed = np.concatenate(
        [
            each + x[(y == unit) & (task == t)].mean(0)
            for each in means
            for t in (0, 1)
            for unit in np.unique(y[task == t])
        ]
    )
    distance = torch.cdist(replay.x[0], torch.from_numpy(allowed)).min(1)[0]
    assert distance.max() < 1e-6 and replay.target.shape == (1, 400, 1)
    for unit in np.unique(y):  # drawn uniformly
        assert (replay.target == int(unit)).sum() == pytest.approx(400 / len(np.unique(y)), rel=0.4)
    if scenario == "class":
        for unit in np.unique(y):
            chosen = replay.x[0][replay.target[0, :, 0] == int(unit)]
            torch.testing.assert_close(chosen.mean(0), torch.from_numpy(x[y == unit].mean(0)), rtol=0, atol=0.4)
    learner.release_task()
    assert not learner.strategy._translations and learner.strategy._drawn is None


def test_fetril_weights_its_losses_by_tasks_and_resumes_exactly():
    assert_resumes_from_state(FeTrIL, "class")
    assert_resumes_from_state(FeTrIL, "domain")


def test_fetril_replicas_are_single_runs():
    assert_replicas_match_single_runs(lambda value: FeTrIL(replay_weight=value), "class", [0.5, 2.0])


# --- all of them


def methods(*left_out):
    return [pytest.param(method, id=name) for name, method in METHODS.items() if name not in left_out]


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
@pytest.mark.parametrize("scenario", ["class", "domain"])
def test_a_task_that_was_dropped_was_never_seen(method, scenario):
    learner, never_seen = trained(method(), scenario), trained(method(), scenario, tasks=[0, 2])
    learner.strategy.forget(learner.task_units & (torch.arange(TASKS) == 1).unsqueeze(1))
    assert torch.equal(scores(learner, TEST), scores(never_seen, TEST))
    assert_same(saved(learner)[0]["strategy"], saved(never_seen)[0]["strategy"])


@pytest.mark.parametrize("method", methods("slda", "ranpac", "ranpac on samples"))
@pytest.mark.parametrize("scenario", ["class", "domain"])
def test_a_class_that_was_dropped_was_never_seen(method, scenario, monkeypatch):
    unit = 5 if scenario == "class" else 1
    learner = trained(method(), scenario)
    learner.strategy.forget(torch.zeros_like(learner.task_units).index_fill(1, torch.tensor([unit]), True))
    plain = task_samples

    def without_class(sample_pass):
        x, y = plain(sample_pass)
        return x[y != unit], y[y != unit]

    monkeypatch.setattr("gr_cli.strategies.closed_form.task_samples", without_class)
    never_seen = trained(method(), scenario)
    assert unit not in learner.strategy.statistics[0].classes
    assert torch.equal(scores(learner, TEST), scores(never_seen, TEST))
    # And after the run continued from the checkpoint.
    continued = learner_of(method(), scenario)
    continued.load_states(saved(learner), 2, passes(continued, 2))
    assert torch.equal(scores(continued, TEST), scores(never_seen, TEST))


@pytest.mark.parametrize("method", methods())
def test_no_sample_is_kept(method):
    learner = trained(method())
    samples = torch.cat([data(learner, task, 0)[0] for task in range(TASKS)])

    for tensor in tensors(saved(learner)[0]["strategy"]):
        if tensor.dim() and tensor.shape[-1] == 6:
            assert torch.cdist(tensor.reshape(-1, 6).double(), samples).min() > 1e-6
    assert learner.strategy.stores_raw_samples == (learner.strategy.arithmetic == "fixed_point")


# --- on data


def accuracy(*overrides):
    """Average accuracy after the last task."""
    experiment = prepare(settings_of(*overrides, "threads=1"))
    learner, tasks = experiment.learner, experiment.benchmark.tasks
    for number in range(len(experiment.stages)):
        train_stage([experiment], learner, number)
    last = len(tasks) - 1
    values = []
    for task in tasks:
        units = learner.scenario.testing_units(learner.task_units, task.id, last)
        values.append(learner.evaluate(task.test.batches(), units).accuracy)
    return sum(values) / len(values)


RANPAC = ("strategy=ranpac", "strategy.projection_dim=200")
FETRIL = ("strategy=fetril", "model.hidden_sizes=[]", "train.iterations=60")


@pytest.mark.parametrize(
    ("overrides", "least"),
    [
        (("strategy=slda",), 0.90),
        (("strategy=ncm",), 0.80),
        (("strategy=fecam",), 0.85),
        (RANPAC, 0.90),
        (FETRIL, 0.60),
        (("strategy=slda", "scenario=task"), 0.95),
        (("strategy=slda", "scenario=domain"), 0.70),
        (("strategy=fecam", "scenario=domain"), 0.70),
        ((*RANPAC, "scenario=domain"), 0.70),
        # Classes that return: sums add up.
        (("strategy=slda", "benchmark.repetitions=2"), 0.90),
        (("strategy=fecam", "benchmark.repetitions=2"), 0.85),
        ((*RANPAC, "benchmark.repetitions=2"), 0.90),
        ((*FETRIL, "benchmark.repetitions=2"), 0.60),
        # Each task has pixels in an order of its own, and in the class scenario classes of its own.
        (("strategy=ncm", "benchmark=permuted_digits", "benchmark.tasks=3", "scenario=class"), 0.60),
        ((*RANPAC, "benchmark=permuted_digits", "benchmark.tasks=2", "scenario=domain"), 0.70),
    ],
)
def test_methods_learn_digits(overrides, least):
    assert accuracy(*overrides) > least


def test_repetitions_give_the_statistics_of_all_samples():
    exact = ("strategy=slda", "strategy.arithmetic=fixed_point")
    once, twice = (prepare(settings_of(*exact, f"benchmark.repetitions={n}")) for n in (1, 2))
    for experiment in (once, twice):
        for number in range(len(experiment.stages)):
            train_stage([experiment], experiment.learner, number)
    ours, theirs = (experiment.learner.strategy.statistics[0] for experiment in (twice, once))
    assert len(ours.tasks) == 2 * len(theirs.tasks) and ours.classes == theirs.classes
    torch.testing.assert_close(ours.means, theirs.means, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(ours.second_moment(), theirs.second_moment(), rtol=1e-12, atol=1e-9)
