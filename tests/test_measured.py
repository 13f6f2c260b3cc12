"""What the guides quote is what `scripts/measured.json` holds."""

import importlib
import re
import sys
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).parent.parent
SCRIPTS = ROOT / "scripts"


@pytest.fixture(scope="module")
def measure() -> ModuleType:
    sys.path.insert(0, str(SCRIPTS))
    try:
        return importlib.import_module("measure")
    finally:
        sys.path.remove(str(SCRIPTS))


def test_guides_quote_the_stored_results(measure):
    results = measure.load_results()
    for name in measure.GUIDES:
        path = ROOT / name
        if path.exists():
            text = path.read_text(encoding="utf-8")
            assert measure.filled(text, results) == text, f"{name}: python scripts/measure.py --fill"


def test_every_marker_is_closed(measure):
    for name in measure.GUIDES:
        text = (ROOT / name).read_text(encoding="utf-8") if (ROOT / name).exists() else ""
        opened = re.findall(r"<!-- (number|table): ", text)
        matched = measure.QUOTED_NUMBER.findall(text) + measure.QUOTED_TABLE.findall(text)
        assert len(opened) == len(matched), name


def test_pictures_are_those_of_the_stored_runs(measure):
    for result in measure.load_results().values():
        for name, expected in result.get("pictures", {}).items():
            assert measure.sha256(measure.PICTURES / name) == expected, name


def test_results_are_those_of_the_listed_commands(measure):
    for name, result in measure.load_results().items():
        assert "note" in result["stamp"] or tuple(result["commands"]) == measure.MEASUREMENTS[name].commands
