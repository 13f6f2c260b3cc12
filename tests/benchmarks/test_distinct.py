"""Training samples that several classes or tasks have, by row and by content."""

from dataclasses import replace

import torch

from gr_cli.benchmarks.base import Benchmark, Samples, Task
from gr_cli.benchmarks.distinct import shared_samples
from gr_cli.nn.sample_spec import SampleSpec

X = torch.arange(24, dtype=torch.uint8).view(8, 3)


def stream(*parts: tuple[torch.Tensor, list[int], list[int]]) -> Benchmark:
    """Tasks with rows of a store, and their labels."""
    tasks = []
    for i, (store, rows, labels) in enumerate(parts):
        samples = Samples(store, torch.tensor(labels), index=torch.tensor(rows))
        tasks.append(Task(i, str(i), ("a", "b"), samples, samples))
    return Benchmark(tuple(tasks), SampleSpec((3,)))


def test_disjoint_tasks():
    assert shared_samples(stream((X, [0, 1, 2], [0, 0, 1]), (X, [3, 4], [0, 1]))) == (0, None, 0, None)


def test_a_row_in_two_tasks():
    shared = shared_samples(stream((X, [0, 1], [0, 1]), (X, [2, 3], [0, 1]), (X, [1, 4], [0, 1])))
    assert (shared.in_tasks, shared.later_task) == (1, 2)


def test_equal_content_in_two_tasks():
    copy = X.clone()
    assert shared_samples(stream((X, [0, 1], [0, 1]), (copy, [1, 2], [0, 1]))) == (0, None, 1, 1)


def test_transforms_do_not_hide_a_sample():
    benchmark = stream((X, [0, 1], [0, 1]), (X, [0, 1], [0, 1]))
    second = benchmark.tasks[1]
    moved = replace(second, train=replace(second.train, transform=lambda x: x.flip(1)))
    assert shared_samples(replace(benchmark, tasks=(benchmark.tasks[0], moved))).in_tasks == 2


def test_equal_content_in_two_classes_of_a_task():
    store = X.clone()
    store[3] = store[0]
    assert shared_samples(stream((store, [0, 1, 3], [0, 0, 1]))) == (1, 0, 0, None)


def test_equal_samples_of_one_class_are_two_samples_unless_they_are_one_row():
    store = X.clone()
    store[3] = store[0]
    assert shared_samples(stream((store, [0, 3], [0, 0]))).in_task == 0
    assert shared_samples(stream((store, [0, 0], [0, 0]))).in_task == 1
