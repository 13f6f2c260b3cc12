"""Statistics by class and task, and symmetric matrices, against direct computations."""

import numpy as np
import pytest
import torch

from gr_cli.errors import ConfigError, DataError
from gr_cli.nn.class_statistics import ClassStatistics
from gr_cli.nn.symmetric import cholesky, lower_product, pack, solve, unpack
from helpers.small_runs import assert_same

KEEP = ("class", "task", "total")


def stream(classes_of_tasks, n=700, size=5):
    """Samples x (N, D), y (N,) of each task, in a random order; a class is the same whatever others there are."""
    tasks = []
    for number, classes in enumerate(classes_of_tasks):
        if not classes:
            continue
        samples = {}
        for unit in classes:
            draws = torch.Generator().manual_seed(100 * number + unit)
            samples[unit] = torch.randn(n + 3 * unit, size, generator=draws) + unit
        # Interleaved, so that the batches of a class depend on which others there are.
        order = sorted((i, unit) for unit, x in samples.items() for i in range(len(x)))
        x = torch.stack([samples[unit][i] for i, unit in order])
        tasks.append((number, x, torch.tensor([unit for _, unit in order])))
    return tasks


def statistics_of(tasks, keep="class", units=()):
    statistics = ClassStatistics(keep)
    for task in tasks:
        statistics.add(*task, units=units)
    return statistics


def units_of(classes=(), tasks=(), num_tasks=3):
    """The mask of what is dropped: classes of all tasks, and tasks."""
    dropped = torch.zeros(num_tasks, 5, dtype=torch.bool)
    dropped[:, list(classes)] = True
    dropped[list(tasks)] = True
    return dropped


def assert_identical(ours, theirs):
    assert ours.classes == theirs.classes
    for name in ("counts", "sums", "means"):
        assert torch.equal(getattr(ours, name), getattr(theirs, name)), name
    assert torch.equal(ours.second_moment(), theirs.second_moment())
    assert torch.equal(ours.within_class_scatter(), theirs.within_class_scatter())


@pytest.mark.parametrize("keep", KEEP)
def test_sums_are_those_of_all_samples(keep):
    tasks = stream([(3, 0), (1,), (0, 1)], n=520)  # classes return
    statistics = statistics_of(tasks, keep)
    x, y = (torch.cat([task[i] for task in tasks]).double().numpy() for i in (1, 2))
    assert statistics.classes == [0, 1, 3]
    np.testing.assert_allclose(statistics.second_moment(), x.T @ x, rtol=1e-12)
    within = np.zeros((5, 5))
    for row, unit in enumerate(statistics.classes):
        own = x[y == unit]
        assert statistics.counts[row] == len(own)
        np.testing.assert_allclose(statistics.means[row], own.mean(0), rtol=1e-12)
        scatter = (own - own.mean(0)).T @ (own - own.mean(0))
        within += scatter
        if keep == "class":
            np.testing.assert_allclose(statistics.class_scatter(unit), scatter, rtol=1e-9, atol=1e-9)
    np.testing.assert_allclose(statistics.within_class_scatter(), within, rtol=1e-9, atol=1e-9)


def test_sums_are_the_same_whatever_they_are_kept_of():
    tasks = stream([(3, 0), (1, 4, 2), (0, 1)])
    by_class = statistics_of(tasks)
    for keep in ("task", "total"):
        assert_identical(statistics_of(tasks, keep), by_class)


def test_the_order_of_samples_and_the_split_into_tasks_do_not_matter():
    tasks = stream([(0, 1), (2, 3)])
    shuffled = [(t, x[p], y[p]) for t, x, y in tasks for p in [torch.randperm(len(y))]]
    at_once = [(0, torch.cat([task[1] for task in tasks]), torch.cat([task[2] for task in tasks]))]
    expected = statistics_of(tasks)
    for others in (shuffled, at_once):
        result = statistics_of(others)
        torch.testing.assert_close(result.means, expected.means, rtol=1e-12, atol=1e-12)
        torch.testing.assert_close(result.second_moment(), expected.second_moment(), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(
    ("keep", "drop", "remaining"),
    [
        ("class", {"classes": [1]}, [(3, 0), (4, 2), (0, 2)]),
        ("class", {"classes": [0, 3]}, [(), (1, 4, 2), (1, 2)]),
        ("class", {"tasks": [1]}, [(3, 0), (), (0, 1, 2)]),
        ("task", {"tasks": [0]}, [(), (1, 4, 2), (0, 1, 2)]),
        ("task", {"classes": [3, 0], "tasks": [2]}, [(), (1, 4, 2), ()]),
    ],
)
def test_what_was_dropped_was_never_seen(keep, drop, remaining):
    classes = [(3, 0), (1, 4, 2), (0, 1, 2)]
    statistics = statistics_of(stream(classes), keep, range(5))
    statistics.drop(units_of(**drop))
    without = statistics_of(stream(remaining), keep, range(5))
    assert_identical(statistics, without)
    assert_same(statistics.state_dict(), without.state_dict())


def test_a_class_is_dropped_from_one_of_its_tasks():
    statistics, dropped = statistics_of(stream([(0, 1), (1, 2)])), torch.zeros(2, 3, dtype=torch.bool)
    dropped[1, 1] = True
    statistics.drop(dropped)
    assert_identical(statistics, statistics_of(stream([(0, 1), (2,)])))


@pytest.mark.parametrize(
    ("keep", "drop", "needed"),
    [("task", {"classes": [1]}, "class"), ("total", {"classes": [1]}, "class"), ("total", {"tasks": [1]}, "task")],
)
def test_what_is_not_kept_apart_is_not_dropped(keep, drop, needed):
    tasks = stream([(3, 0), (1, 4)], n=20)
    statistics = statistics_of(tasks, keep)
    with pytest.raises(ConfigError, match=f"strategy.keep={keep}: does not keep .*run with strategy.keep={needed}"):
        statistics.drop(units_of(**drop))
    assert_identical(statistics, statistics_of(tasks, keep))
    statistics.drop(units_of(classes=[2], tasks=[2]))  # nothing is kept of these
    assert_identical(statistics, statistics_of(tasks, keep))


@pytest.mark.parametrize("keep", [None, *KEEP])
def test_samples_that_were_removed_were_never_added(keep):
    (task,) = stream([(3, 0)], n=20)
    _, x, y = task
    gone = [1, 4, 17]
    rest = torch.tensor([i for i in range(len(x)) if i not in gone])
    statistics, without = ClassStatistics(keep, fixed_point=True), ClassStatistics(keep, fixed_point=True)
    statistics.add(0, x, y, units=range(5))
    without.add(0, x[rest], y[rest], units=range(5))
    for i in gone:
        statistics.remove(0, int(y[i]), x[i : i + 1])
    assert_same(statistics.state_dict(), without.state_dict())
    # All that remain of a class: as if it had been dropped, and of a task.
    for unit in (0, 3):
        statistics.remove(0, unit, x[rest][y[rest] == unit])
        assert unit not in statistics.classes
    assert statistics.tasks == [] and statistics.state_dict() == ClassStatistics(keep).state_dict()


@pytest.mark.parametrize("keep", KEEP)
def test_samples_that_can_not_have_been_added_are_refused(keep):
    statistics = ClassStatistics(keep, fixed_point=True)
    x = torch.tensor([[1.0, 0.0], [1.0, 0.5], [2.0, 0.0]])
    statistics.add(0, x, torch.tensor([0, 0, 1]))
    before = statistics.state_dict()
    impossible = [
        (0, 0, x[[0, 1, 1]]),  # more than there are
        (0, 0, x[[0, 2]]),  # another sum remains of none
        (0, 0, torch.tensor([[9.0, 0.0]])),  # sums of squares below 0
        (0, 2, x[:1]),  # no such class
        (1, 0, x[:1]),  # no such task
    ]
    for task, unit, samples in impossible:
        with pytest.raises(DataError, match="counts or sums would be those of no samples"):
            statistics.remove(task, unit, samples)
        assert_same(statistics.state_dict(), before)


@pytest.mark.parametrize("keep", KEEP)
def test_sums_in_fixed_point_are_those_of_rounded_samples(keep):
    tasks = stream([(3, 0), (0, 1)], n=30)
    rounded = [(task, (x.double() * 4096).round() / 4096, y) for task, x, y in tasks]
    ours, theirs = ClassStatistics(keep, fixed_point=True), statistics_of(rounded, keep)
    for task in tasks:
        ours.add(*task)
    for name in ("counts", "sums", "means"):
        torch.testing.assert_close(getattr(ours, name), getattr(theirs, name), rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(ours.second_moment(), theirs.second_moment(), rtol=1e-12, atol=1e-12)
    if keep == "class":
        torch.testing.assert_close(ours.class_scatter(0), theirs.class_scatter(0), rtol=1e-10, atol=1e-10)


def test_a_state_is_restored():
    for keep in (None, *KEEP):
        statistics, other = statistics_of(stream([(3, 0), (1, 4)], n=20), keep), ClassStatistics(keep)
        other.load_state_dict(statistics.state_dict())
        if keep is None:
            assert torch.equal(other.means, statistics.means) and statistics.tasks[0].moments is None
        else:
            assert_identical(other, statistics)


def test_classes_without_samples_have_rows_of_zeros():
    statistics = ClassStatistics("class")
    statistics.add(0, torch.ones(3, 2), torch.tensor([1, 1, 4]), units=[1, 2, 4])
    assert statistics.tasks[0].units == [1, 2, 4] and statistics.classes == [1, 4]
    assert statistics.tasks[0].moments.shape == (3, 3)
    torch.testing.assert_close(statistics.second_moment(), torch.full((2, 2), 3.0, dtype=torch.float64))
    torch.testing.assert_close(statistics.within_class_scatter(), torch.zeros(2, 2, dtype=torch.float64))


# --- symmetric matrices


@pytest.mark.parametrize("size", [1, 3, 9])
def test_packed_matrices(size):
    x = torch.randn(20, size, dtype=torch.double)
    packed = pack(lower_product(x))
    assert packed.shape == (size * (size + 1) // 2,)
    torch.testing.assert_close(unpack(packed, size), x.T @ x)


def test_cholesky_factors_solve_linear_equations():
    x, right = torch.randn(2, 20, 4, dtype=torch.double), torch.randn(2, 4, 3, dtype=torch.double)
    matrices = x.mT @ x
    torch.testing.assert_close(solve(cholesky(matrices), right), torch.linalg.solve(matrices, right))


def test_cholesky_of_singular_matrices():
    x = torch.randn(20, 4, dtype=torch.double)
    x[:, 2] = 1e3 * x[:, 0]
    matrices = torch.stack([x.T @ x, torch.zeros(4, 4, dtype=torch.double), torch.eye(4, dtype=torch.double)])
    factors = cholesky(matrices)
    torch.testing.assert_close(factors[0] @ factors[0].T, matrices[0], rtol=1e-6, atol=1e-3)
    assert factors[1].diagonal().max() < 1e-6
    assert torch.equal(factors[2], matrices[2])  # one that needs nothing gets nothing
    with pytest.raises(ValueError, match="not positive definite"):
        cholesky(-torch.eye(3, dtype=torch.double))
