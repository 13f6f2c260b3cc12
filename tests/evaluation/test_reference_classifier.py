"""The classes that the reference classifier separates."""

from gr_cli.benchmarks import Digits, split
from gr_cli.evaluation.reference_classifier import distinct_classes


def test_distinct_classes_by_task_and_unit():
    reverse = list(range(9, -1, -1))
    stream = split(Digits(), 0, classes_per_task=5, class_order=reverse, repetitions=2)
    classes = distinct_classes(stream, [0, 5, 0, 5], 10)
    assert classes.first_task.tolist() == [1] * 5 + [0] * 5  # by name, 0 comes in the second task
    assert [number.tolist() for number in classes.of_task] == [[9, 8, 7, 6, 5], [4, 3, 2, 1, 0]] * 2
    assert classes.units.nonzero().tolist() == [[i, 9 - i] for i in range(10)]
    shared = distinct_classes(stream, [0] * 4, 5)
    assert shared.units.nonzero().tolist() == [[i, 4 - i % 5] for i in range(10)]
