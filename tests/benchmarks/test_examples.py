"""The examples in the docstrings of base classes run."""

import doctest

import pytest

from gr_cli.benchmarks import base, feature_extractors
from gr_cli.benchmarks.sources import base as sources


@pytest.mark.parametrize("module", [base, feature_extractors, sources])
def test_examples_run(module):
    result = doctest.testmod(module)
    assert result.attempted > 0 and result.failed == 0
