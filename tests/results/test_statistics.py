"""Statistics over seeds against values computed by hand and closed forms."""

import math
from statistics import fmean, stdev

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gr_cli.results.metrics import metric_bounds
from gr_cli.results.statistics import (
    MIN_SEEDS,
    SIGNED_UNIT,
    UNBOUNDED,
    UNIT_INTERVAL,
    Bounds,
    Summary,
    holm,
    paired_p_value,
    paired_summary,
    summarize,
    t_quantile,
    t_tail,
)
from gr_cli.results.tables import FRACTION, Column, TableFormat

T2 = 4.302653  # 97.5 % quantile of Student's t with two degrees of freedom
NON_NEGATIVE = Bounds(0.0)


@pytest.mark.parametrize(
    ("degrees", "t"),
    [
        (1, 12.706205),
        (2, 4.302653),
        (3, 3.182446),
        (4, 2.776445),
        (9, 2.262157),
        (15, 2.131450),
        (16, 2.119905),
        (30, 2.042272),
        (100, 1.983972),
    ],
)
def test_t_quantiles_are_those_of_published_tables(degrees, t):
    assert t_quantile(degrees) == pytest.approx(t, abs=1e-5)


@pytest.mark.parametrize("t", [0.0, 0.3, 1.0, 2.5, 20.0])
def test_tails_are_the_closed_forms_of_few_degrees_of_freedom(t):
    assert t_tail(t, 1) == pytest.approx(1 - 2 / math.pi * math.atan(t), abs=1e-12)
    assert t_tail(t, 2) == pytest.approx(1 - t / math.sqrt(2 + t**2), abs=1e-12)
    angle = math.atan(t / math.sqrt(3))
    assert t_tail(t, 3) == pytest.approx(1 - 2 / math.pi * (angle + math.sin(2 * angle) / 2), abs=1e-12)
    y = t / math.sqrt(4 + t**2)
    assert t_tail(t, 4) == pytest.approx(1 - y * (3 - y**2) / 2, abs=1e-12)


def test_tails_of_many_degrees_of_freedom_are_those_of_the_normal_distribution():
    assert t_tail(1.959964, 100_000) == pytest.approx(0.05, abs=1e-5)


def test_mean_and_standard_error_by_hand():
    """Deviations of 1, 2, 4 from 7/3: -4/3, -1/3, 5/3; their squares add up to 42/9."""
    summary = summarize([1.0, 2.0, 4.0])
    assert summary.mean == pytest.approx(7 / 3) and summary.n == 3 and summary.values == (1.0, 2.0, 4.0)
    assert summary.sem == pytest.approx(math.sqrt(42 / 9 / 2 / 3))
    low, high = summary.interval
    assert (low, high) == pytest.approx((7 / 3 - T2 * summary.sem, 7 / 3 + T2 * summary.sem), rel=1e-6)


def test_fractions_have_an_interval_on_the_logit_scale():
    """Student's t around logit(mean), with the standard error of the mean divided by mean (1 - mean)."""
    summary = summarize([0.97, 0.98, 0.99], UNIT_INTERVAL)
    half = T2 * (0.01 / math.sqrt(3)) / (0.98 * 0.02)
    ends = [1 / (1 + math.exp(-(math.log(0.98 / 0.02) + sign * half))) for sign in (-1, 1)]
    assert summary.interval == pytest.approx(ends, rel=1e-6)
    assert summary.interval == pytest.approx((0.9324, 0.9943), abs=5e-5)


def test_intervals_between_other_bounds_are_moved_and_scaled():
    """Forgetting in [-1, 1]: the interval of (x + 1) / 2 in [0, 1], moved back."""
    values = [0.5, 0.9, 0.7, 0.95]
    inside = summarize([(value + 1) / 2 for value in values], UNIT_INTERVAL).interval
    assert summarize(values, SIGNED_UNIT).interval == pytest.approx([2 * end - 1 for end in inside])


def test_non_negative_values_have_an_interval_on_the_log_scale():
    values = [1.0, 2.0, 6.0]
    half = T2 * stdev(values) / math.sqrt(3) / 3
    assert summarize(values, NON_NEGATIVE).interval == pytest.approx(
        (3 * math.exp(-half), 3 * math.exp(half)), rel=1e-6
    )


@pytest.mark.parametrize("values", [[0.9], [0.8, 1.0]])
def test_few_values_have_neither_standard_error_nor_interval(values):
    summary = summarize(values, UNIT_INTERVAL)
    assert summary == Summary(pytest.approx(0.9), None, None, len(values), tuple(values))
    assert summary.shown_values == tuple(values) and len(values) < MIN_SEEDS
    assert summarize([0.8, 0.9, 1.0]).shown_values == () and summarize([]) is None


@pytest.mark.parametrize("value", [0.0, 0.1, 0.3, 0.7, 1.0])
@pytest.mark.parametrize("n", [3, 7, 49])
def test_equal_values_have_no_spread(value, n):
    summary = summarize([value] * n, UNIT_INTERVAL)
    assert (summary.mean, summary.sem, summary.interval) == (value, 0.0, (value, value))
    assert paired_p_value(paired_summary([value] * n)) is None


def test_nan_makes_all_statistics_nan():
    for n in (2, 3):
        summary = summarize([math.nan] + [0.5] * (n - 1), UNIT_INTERVAL)
        assert math.isnan(summary.mean) and summary.n == n
    assert math.isnan(summary.sem) and all(map(math.isnan, summary.interval))
    assert paired_p_value(summary) is None


def fractions(minimum: float, maximum: float) -> st.SearchStrategy[list[float]]:
    return st.lists(st.floats(minimum, maximum, allow_subnormal=False), min_size=3, max_size=12)


@settings(deadline=None)
@given(fractions(0, 1))
def test_nothing_leaves_the_range_of_an_accuracy(values):
    summary = summarize(values, UNIT_INTERVAL)
    low, high = summary.interval
    assert 0 <= low <= summary.mean + 1e-12 and summary.mean - 1e-12 <= high <= 1
    assert summary.mean - summary.sem >= -1e-12 and summary.mean + summary.sem <= 1 + 1e-12
    assert summary.mean == pytest.approx(fmean(values)) and summary.sem == pytest.approx(
        stdev(values) / math.sqrt(len(values)), abs=1e-9
    )


@settings(deadline=None)
@given(fractions(0, 1e6))
def test_nothing_leaves_the_range_of_a_distance(values):
    summary = summarize(values, NON_NEGATIVE)
    low, high = summary.interval
    assert 0 <= low <= summary.mean * (1 + 1e-9) and summary.mean * (1 - 1e-9) <= high


# --- comparisons


def test_the_p_value_of_paired_differences_by_hand():
    """Differences 1, 2, 3: t = 2 √3 with two degrees of freedom, whose tail is 1 - t / √(2 + t²)."""
    difference = paired_summary([1.0, 2.0, 3.0])
    assert difference.interval == pytest.approx((2 - T2 / math.sqrt(3), 2 + T2 / math.sqrt(3)), rel=1e-6)
    assert paired_p_value(difference) == pytest.approx(1 - math.sqrt(12 / 14))
    assert paired_p_value(paired_summary([1.0, 2.0])) is None and paired_p_value(None) is None


def test_intervals_of_differences_are_cut_at_the_range():
    """The interval around 0.9 would end at 0.9 + 4.3 · 0.1 / √3 = 1.15."""
    difference = paired_summary([0.8, 0.9, 1.0], SIGNED_UNIT)
    assert difference.interval == pytest.approx((0.9 - T2 * 0.1 / math.sqrt(3), 1.0), rel=1e-6)
    assert difference.mean == pytest.approx(0.9)


def test_holm_by_hand():
    """Sorted 0.01, 0.02, 0.04, times 3, 2, 1, and never less than the one before."""
    assert holm([0.04, 0.01, 0.02]) == pytest.approx([0.04, 0.03, 0.04])
    assert holm([0.5, 0.6]) == [1.0, 1.0] and holm([0.03]) == [0.03] and holm([]) == []


def test_bounds_of_metrics():
    table = TableFormat(
        "measured",
        "",
        (
            Column("after_task", "", key=True),
            Column("share", "", FRACTION, metric="share"),
            Column("distance", "", minimum=0.0, metric="distance"),
            Column("score", "", metric="score"),
        ),
    )
    expected = {"average_accuracy": UNIT_INTERVAL, "learning_accuracy": UNIT_INTERVAL, "forgetting": SIGNED_UNIT}
    expected |= {"share": UNIT_INTERVAL, "distance": NON_NEGATIVE, "score": UNBOUNDED, "other": UNBOUNDED}
    expected |= {"parameters_solver": NON_NEGATIVE, "forward_transfer": SIGNED_UNIT}
    assert {name: metric_bounds(name, [table]) for name in expected} == expected
