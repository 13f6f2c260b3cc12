"""The examples in the docstrings of base classes run."""

import doctest

import pytest

from gr_cli.strategies import base, regularizer, replay


@pytest.mark.parametrize("module", [base, regularizer, replay], ids=lambda module: module.__name__)
def test_examples_run(module):
    result = doctest.testmod(module)
    assert result.attempted > 0 and result.failed == 0
