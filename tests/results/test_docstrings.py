"""The examples in docstrings run and print what they say."""

import doctest

import pytest

from gr_cli.results import metrics, statistics, tables


@pytest.mark.parametrize("module", [metrics, statistics, tables], ids=lambda module: module.__name__)
def test_examples(module):
    outcome = doctest.testmod(module)
    assert outcome.attempted > 0 and outcome.failed == 0
