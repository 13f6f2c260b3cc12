"""The examples in docstrings and in the guide to reports run and print what they say."""

import doctest
import re
from pathlib import Path

import pytest

import gr_cli.report
from gr_cli.results import metrics, statistics, tables


@pytest.mark.parametrize("module", [metrics, statistics, tables], ids=lambda module: module.__name__)
def test_examples(module):
    outcome = doctest.testmod(module)
    assert outcome.attempted > 0 and outcome.failed == 0


def test_the_guide_shows_what_its_example_prints(capsys):
    text = (Path(gr_cli.report.__file__).parent / "README.md").read_text(encoding="utf-8")
    code, output = re.search(r"```python\n(.*?)```\n\n```text\n(.*?)```", text, re.DOTALL).groups()
    exec(code, {})
    assert capsys.readouterr().out == output
