import pytest

from gr_cli.results import metrics

# Three tasks; by hand: forgetting ((0.9 - 0.5) + (0.8 - 0.6)) / 2, and so on.
MATRIX = [[0.9, 0.2, 0.1], [0.7, 0.8, 0.3], [0.5, 0.6, 0.7]]
BEFORE = [0.1, 0.1, 0.2]


def test_metrics_of_a_matrix_computed_by_hand():
    assert metrics.average_accuracy(MATRIX) == pytest.approx(0.6)
    assert metrics.average_incremental_accuracy(MATRIX) == pytest.approx((0.9 + 0.75 + 0.6) / 3)
    assert metrics.forgetting(MATRIX) == pytest.approx(0.3)
    assert metrics.backward_transfer(MATRIX) == pytest.approx(-0.3)
    assert metrics.forward_transfer(MATRIX, BEFORE) == pytest.approx((0.1 + 0.1) / 2)
    assert metrics.learning_accuracy(MATRIX) == pytest.approx(0.8)


def test_forgetting_takes_the_best_earlier_accuracy_and_may_be_negative():
    rising = [[0.5, 0.0], [0.6, 0.9]]
    assert metrics.forgetting(rising) == pytest.approx(-0.1)
    assert metrics.backward_transfer(rising) == pytest.approx(0.1)
    recovered = [[0.5, 0, 0], [0.9, 0.5, 0], [0.6, 0.5, 0.5]]
    assert metrics.forgetting(recovered) == pytest.approx((0.3 + 0.0) / 2)
    assert metrics.backward_transfer(recovered) == pytest.approx((0.1 + 0.0) / 2)


def test_an_undefined_metric_is_none_not_zero():
    joint = [[0.9, 0.8, 0.7]]
    values = metrics.all_metrics(joint, None)
    assert values["average_accuracy"] == pytest.approx(0.8)
    assert {name for name, value in values.items() if value is None} == set(values) - {"average_accuracy"}
    single = metrics.all_metrics([[0.9]], [0.5])
    assert single["forgetting"] is None
    assert single["forward_transfer"] is None
    assert single["learning_accuracy"] == pytest.approx(0.9)


def test_missing_accuracies_are_left_out():
    growing = [[0.9, None], [0.7, 0.8]]
    assert metrics.forgetting(growing) == pytest.approx(0.2)
    assert metrics.average_incremental_accuracy(growing) == pytest.approx((0.9 + 0.75) / 2)
    assert metrics.forward_transfer(growing, [0.1, 0.1]) is None


def test_forgetting_needs_all_accuracies_since_a_task_was_learned():
    # Before a task is learned it need not be evaluated; a missing accuracy afterwards could have been the highest.
    seen = [[0.9, None, None], [0.7, 0.8, None], [0.5, 0.6, 0.7]]
    assert metrics.forgetting(seen) == pytest.approx(0.3)
    sampled = [[0.9, None, None], [None, 0.8, None], [0.5, 0.6, 0.7]]
    values = metrics.all_metrics(sampled, None)
    assert values["forgetting"] is None and values["average_incremental_accuracy"] is None
    assert values["backward_transfer"] == pytest.approx(-0.3) and values["learning_accuracy"] == pytest.approx(0.8)
    assert values["average_accuracy"] == pytest.approx(0.6)
