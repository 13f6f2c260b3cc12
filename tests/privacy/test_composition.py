"""Composition of accesses, against hand computations."""

from dataclasses import replace

import pytest

from gr_cli.privacy import Access, PrivacySettings
from gr_cli.privacy.analytic_gaussian import epsilon_of_gaussian
from gr_cli.privacy.composition import (
    parallel,
    sequential,
    spent_by,
    spent_in_total,
    spent_on_class,
    spent_on_task,
)

DELTA = 1e-5


def gaussian(multiplier, task=0, classes=(0,), part="generator"):
    epsilon = epsilon_of_gaussian(DELTA, multiplier)
    return Access(task, part, classes, "gaussian", multiplier, 1.0, 1.0, 1, epsilon, DELTA)


def sampled(epsilon, task=0, classes=(0,), part="generator.elbo"):
    return Access(task, part, classes, "subsampled_gaussian", 1.0, 1.0, 0.01, 100, epsilon, DELTA / 2)


def test_classes_of_a_task_compose_in_parallel():
    accesses = [gaussian(4.0, classes=(0,)), gaussian(2.0, classes=(1,))]
    spent = spent_on_task(accesses, 0, DELTA)
    assert spent.epsilon == epsilon_of_gaussian(DELTA, 2.0)
    assert (spent.delta, spent.composition) == (DELTA, "parallel over classes")


def test_equal_gaussians_compose_as_one_with_less_noise():
    """k Gaussian mechanisms of noise z are one of noise z / sqrt(k), at the same delta (Dong et al. 2022)."""
    spent = sequential([spent_by(gaussian(6.0))] * 4, DELTA, "tasks")
    assert spent.epsilon == pytest.approx(epsilon_of_gaussian(DELTA, 3.0), rel=1e-12)
    assert spent.delta == DELTA and spent.composition == "Gaussian composition over tasks"
    assert spent.epsilon < 4 * epsilon_of_gaussian(DELTA, 6.0)


def test_other_mechanisms_add_up():
    spent = spent_on_class([sampled(1.0), sampled(2.0, part="solver")], 0, 0, DELTA)
    assert (spent.epsilon, spent.delta) == (3.0, DELTA)
    assert spent.composition == "sum over accesses"


def test_a_gaussian_beside_another_mechanism_is_added():
    spent = sequential([spent_by(gaussian(3.0)), spent_by(sampled(0.5))], DELTA, "accesses")
    assert spent.epsilon == epsilon_of_gaussian(DELTA, 3.0) + 0.5
    assert spent.delta == pytest.approx(1.5 * DELTA)


def test_parallel_gaussians_stay_one_for_a_later_composition():
    """Two tasks of two classes each: in each task the noisiest class counts least."""
    task = parallel([spent_by(gaussian(4.0)), spent_by(gaussian(2.0))], "classes")
    spent = sequential([task, task], DELTA, "tasks")
    assert spent.epsilon == pytest.approx(epsilon_of_gaussian(DELTA, 2 / 2**0.5), rel=1e-12)


@pytest.mark.parametrize(("across", "multiplier"), [("tasks", 4.0), ("stream", 2.0)])
def test_tasks_compose_in_parallel_or_along_the_stream(across, multiplier):
    accesses = [gaussian(4.0, task) for task in range(4)]
    spent = spent_in_total(accesses, PrivacySettings(1.0, DELTA, across=across))
    assert spent.epsilon == pytest.approx(epsilon_of_gaussian(DELTA, multiplier), rel=1e-12)


def test_without_access_nothing_is_spent():
    assert spent_in_total([], PrivacySettings(1.0)).epsilon == 0
    assert spent_on_class([gaussian(1.0)], 0, 5, DELTA).epsilon == 0


def test_steps_count_each():
    spent = spent_by(replace(gaussian(4.0), steps=3))
    assert spent.precision == 3 / 16
