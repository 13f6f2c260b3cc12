"""The examples in docstrings of models run."""

import doctest

from gr_cli import models


def test_the_example_of_a_model_runs():
    results = doctest.testmod(models)
    assert results.attempted and not results.failed
