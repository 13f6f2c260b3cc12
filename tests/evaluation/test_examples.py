"""The example in the docstring of the base class runs."""

import doctest

from gr_cli.evaluation import base


def test_examples_run():
    result = doctest.testmod(base)
    assert result.attempted > 0 and result.failed == 0
