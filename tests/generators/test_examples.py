"""The examples in docstrings of generators run."""

import doctest

import pytest

from gr_cli.generators import base, vae


@pytest.mark.parametrize("module", [base, vae], ids=lambda module: module.__name__)
def test_examples_run(module):
    results = doctest.testmod(module)
    assert results.attempted and not results.failed
