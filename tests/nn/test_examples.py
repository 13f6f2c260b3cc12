"""The examples in the docstrings of base classes run."""

import doctest

from gr_cli.nn.gradient_rules import base


def test_examples_run():
    result = doctest.testmod(base)
    assert result.attempted > 0 and result.failed == 0
