"""Likelihood-ratio membership inference, and its rates, on cases with known answers."""

from math import erf, sqrt

import numpy as np
import pytest

from gr_cli.evaluation.attacks.likelihood_ratio import log_likelihood_ratios, offline_scores
from gr_cli.evaluation.attacks.rates import MIN_FALSE_POSITIVES, TargetScores, estimates, percentiles


def normal_cdf(x):
    return 0.5 * (1 + erf(x / sqrt(2)))


def shadows(shift, runs, samples, seed=0, spread=10.0):
    """Gaussian scores of variance 1 around a mean of each sample, members shifted; draws are complementary in pairs."""
    stream = np.random.default_rng(seed)
    half = np.stack([stream.permutation(samples) < samples // 2 for _ in range(runs // 2)])
    is_member = np.stack([half, ~half], 1).reshape(runs, samples)
    means = spread * stream.standard_normal(samples)
    scores = means + shift * is_member + stream.standard_normal((runs, samples))
    return scores, is_member, np.arange(runs) // 2


@pytest.mark.parametrize("variance", ["pooled", "per_sample"])
def test_gaussians_with_a_known_shift(variance):
    shift = 1.5
    scores, is_member, groups = shadows(shift, 64, 300)
    ratios = log_likelihood_ratios(scores, is_member, groups, variance)
    # The estimates of both means and of the variance cost little with 31 runs each.
    assert TargetScores(ratios, is_member).auc().value == pytest.approx(normal_cdf(shift / sqrt(2)), abs=0.02)


def test_ratio_is_that_of_two_gaussians():
    scores = np.array([[3.0], [2.0], [1.0], [5.0], [0.0], [4.0]])
    is_member = np.array([[True], [False], [True], [False], [True], [False]])
    ratios = log_likelihood_ratios(scores, is_member, np.arange(6) // 2, "per_sample")
    # For the first run: members 1 and 0, others 5 and 4; a further score has variance s² (1 + 1/2).
    variance = 0.5 * 1.5
    expected = ((3.0 - 4.5) ** 2 - (3.0 - 0.5) ** 2) / (2 * variance)
    assert ratios[0, 0] == pytest.approx(expected)
    assert offline_scores(scores, is_member, np.arange(6) // 2, "per_sample")[0, 0] == pytest.approx(
        (3.0 - 4.5) / sqrt(variance)
    )


def test_pooled_variance_is_the_mean_square_about_the_means():
    scores = np.array([[0.0, 10.0], [9.0, 9.0], [2.0, 14.0], [9.0, 9.0], [7.0, 7.0], [8.0, 8.0]])
    is_member = np.array([[True, True], [False, False]] * 3)
    groups = np.array([0, 0, 0, 0, 1, 1])
    # Targets are the last two: of the others members have squares 2 and 8, one degree of freedom each.
    z = offline_scores(scores, ~is_member, groups)[4]
    assert z == pytest.approx((7.0 - np.array([1.0, 12.0])) / sqrt(5.0 * 1.5))


def test_percentiles_of_few_targets_are_further_apart():
    low, high = percentiles(16)  # t = 2.131 with 15 degrees of freedom, times 4/√15: 2.201
    assert low == pytest.approx(normal_cdf(-2.2013), abs=1e-5) and high == 1 - low
    assert percentiles(100_000)[0] == pytest.approx(0.025, abs=1e-5)


def test_without_a_leak_the_interval_contains_one_half():
    scores, is_member, groups = shadows(0.0, 16, 600, seed=0)
    found = estimates(log_likelihood_ratios(scores, is_member, groups), is_member, (0.01,))
    assert found["auc"].low < 0.5 < found["auc"].high and found["auc"].high - found["auc"].low < 0.1
    assert found["tpr_at_fpr_0.01"].value < 0.02


def test_numbers_of_runs_say_nothing_of_the_target():
    """With the complement left in, non-members had more runs with the sample, and the attack was biased."""
    values = []
    for seed in range(8):
        scores, is_member, groups = shadows(0.0, 6, 2000, seed)
        values.append(TargetScores(log_likelihood_ratios(scores, is_member, groups), is_member).auc().value)
    assert np.mean(values) == pytest.approx(0.5, abs=4 * np.std(values) / sqrt(len(values)) + 1e-3)


def test_samples_with_too_few_runs_are_left_out():
    scores, is_member, groups = shadows(1.0, 8, 10)
    is_member[:, 0] = True
    scores[3, 1] = np.nan
    ratios = log_likelihood_ratios(scores, is_member, groups)
    assert np.isnan(ratios[:, 0]).all() and np.isnan(ratios[3, 1]) and np.isfinite(ratios[:, 2:]).all()
    assert TargetScores(ratios, is_member).auc().n == int(np.isfinite(ratios).sum())


# --- rates


def test_auc_by_pairs_of_a_hand_made_case():
    scores = np.array([[3.0, 1.0, 2.0, 2.0], [0.0, 5.0, 4.0, 4.0]])
    is_member = np.array([[True, False, True, False], [False, True, False, True]])
    members, others = [3.0, 2.0, 5.0, 4.0], [1.0, 2.0, 0.0, 4.0]
    pairs = [1.0 if a > b else 0.5 if a == b else 0.0 for a in members for b in others]
    estimate = TargetScores(scores, is_member).auc()
    assert estimate.value == pytest.approx(np.mean(pairs)) and estimate.n == 8
    assert estimate.low <= estimate.value <= estimate.high


def test_true_positives_above_the_threshold_of_few_false_ones():
    others, members = np.arange(1000.0), np.array([999.5, 989.5, 988.5, 100.0] * 250)
    scores, is_member = np.concatenate([others, members])[None], (np.arange(2000) >= 1000)[None]
    targets = TargetScores(scores, is_member)
    # At most 10 others above the threshold 989: members of 999.5 and 989.5 are.
    assert targets.true_positive_rate(0.01).value == 0.5
    assert targets.true_positive_rate(0.01).low is None  # a single target has no interval
    assert targets.true_positive_rate((MIN_FALSE_POSITIVES - 1) / 1000).value is None
    assert targets.true_positive_rate(1.0).value == 1.0


def test_ties_never_exceed_the_rate():
    scores = np.concatenate([np.full(1000, 7.0), np.full(1000, 7.0)])[None]
    is_member = (np.arange(2000) >= 1000)[None]
    assert TargetScores(scores, is_member).true_positive_rate(0.01).value == 0.0


def test_intervals_are_by_bootstrap_over_targets():
    """Targets that are all found or not at all: the interval is that of a mean of so many coins."""
    stream = np.random.default_rng(0)
    is_member = np.arange(400) % 2 == 0
    rows = [np.where(is_member, found, 0.0) + 1e-6 * stream.random(400) for found in [1.0] * 8 + [-1.0] * 8]
    estimate = TargetScores(np.stack(rows), np.stack([is_member] * 16)).auc()
    assert estimate.value == pytest.approx(0.5, abs=0.01)
    assert 0.15 < estimate.low < 0.35 and 0.65 < estimate.high < 0.85
    alike = TargetScores(np.stack([rows[0]] * 16), np.stack([is_member] * 16)).auc()
    assert alike.low == alike.value == alike.high == 1.0


@pytest.mark.parametrize("digits", [8, 0], ids=["distinct", "ties"])
@pytest.mark.parametrize("axis", [0, 1], ids=["targets", "candidates"])
def test_a_resample_counts_its_targets_or_candidates_with_their_weights(axis, digits):
    """Its figures are those of its targets, or candidates, one after the other."""
    scores, is_member, _ = shadows(1.0, 6, 40, spread=0.0)
    scores, size = scores.round(digits), (6, 40)[axis]
    weights = np.random.default_rng(0).multinomial(size, np.full(size, 1 / size), size=5)
    grouping = TargetScores(scores, is_member).groupings[axis]
    areas, rates = grouping.areas(weights), grouping.rates(weights, 0.2)
    for row, area, rate in zip(weights, areas, rates, strict=True):
        chosen = np.repeat(np.arange(size), row)
        resampled = TargetScores(np.take(scores, chosen, axis), np.take(is_member, chosen, axis))
        assert area == pytest.approx(resampled.auc().value, abs=1e-12)
        assert rate == pytest.approx(resampled.true_positive_rate(0.2).value, abs=1e-12)


def test_interval_without_a_leak_has_its_coverage():
    """Guesses on a candidate come from the same runs, so that resamples of targets alone vary too little."""
    contained = []
    for seed in range(25):
        scores, is_member, groups = shadows(0.0, 16, 100, seed)
        auc = TargetScores(log_likelihood_ratios(scores, is_member, groups), is_member).auc()
        contained.append(auc.low <= 0.5 <= auc.high)
    assert sum(contained) >= 21  # with a coverage of 95 % in 997 of 1,000 cases; with 76 % in 22
