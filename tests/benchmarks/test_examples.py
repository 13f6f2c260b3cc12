"""The examples in the docstrings of base classes run."""

import doctest

import pytest

from gr_cli.benchmarks import base
from gr_cli.benchmarks.features import base as features
from gr_cli.benchmarks.sources import base as sources


@pytest.mark.parametrize("module", [base, features, sources])
def test_examples_run(module):
    result = doctest.testmod(module)
    assert result.attempted > 0 and result.failed == 0
