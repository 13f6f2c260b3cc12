"""The docstring examples of the base classes run."""

import doctest

from gr_cli.trackers import base


def test_the_examples_of_the_base_classes_run():
    failed, attempted = doctest.testmod(base)
    assert attempted > 0 and failed == 0
