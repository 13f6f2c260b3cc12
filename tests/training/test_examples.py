"""The examples in docstrings of the training package run."""

import doctest

import pytest

from gr_cli.training import observer, task_free


@pytest.mark.parametrize("module", [observer, task_free], ids=lambda module: module.__name__)
def test_examples_run(module):
    results = doctest.testmod(module)
    assert results.attempted and not results.failed
