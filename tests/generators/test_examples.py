"""The examples in docstrings of generators run."""

import doctest

from gr_cli.generators import base


def test_the_example_of_a_generator_runs():
    results = doctest.testmod(base)
    assert results.attempted and not results.failed
