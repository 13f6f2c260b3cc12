"""Guides quote what `scripts/measured.json` holds; `scripts/measure.py` reads, stores and fills in results."""

import importlib
import re
import shlex
import sys
from functools import partial
from pathlib import Path
from types import ModuleType

import pytest

from gr_cli.cli.compose import compose_settings
from helpers.run_folders import write_run

AVERAGE = {"average_accuracy": "average accuracy (%)"}
ROOT = Path(__file__).parent.parent
SCRIPTS = ROOT / "scripts"


def script(name: str) -> ModuleType:
    sys.path.insert(0, str(SCRIPTS))
    try:
        return importlib.import_module(name)
    finally:
        sys.path.remove(str(SCRIPTS))


@pytest.fixture(scope="module")
def measure() -> ModuleType:
    return script("measure")


@pytest.fixture(scope="module")
def guide_tables(measure) -> ModuleType:
    return script("guide_tables")


def test_guides_quote_the_stored_results(measure, guide_tables):
    results = measure.load_results()
    for name in guide_tables.GUIDES:
        text = (ROOT / name).read_text(encoding="utf-8")
        assert guide_tables.filled(text, results) == text, f"{name}: python scripts/measure.py --fill"


def test_every_table_is_quoted_and_every_marker_is_closed(guide_tables):
    """Guides that are not filled in quote nothing."""
    quoted = set()
    for path in [ROOT / "README.md", *(p for top in ("scripts", "gr_cli", "conf") for p in (ROOT / top).rglob("*.md"))]:
        text = path.read_text(encoding="utf-8")
        names = [match[1] for match in guide_tables.QUOTED_TABLE.findall(text)]
        assert len(re.findall("<!-- table: ", text)) == len(names), path
        assert not names or path.relative_to(ROOT).as_posix() in guide_tables.GUIDES
        quoted |= set(names)
    assert quoted == set(guide_tables.TABLES)


def test_pictures_are_those_of_the_stored_runs(measure):
    for result in measure.load_results().values():
        for name, expected in result.get("pictures", {}).items():
            assert measure.sha256(measure.PICTURES / name) == expected, name


def test_results_are_those_of_the_listed_commands(measure):
    for name, result in measure.load_results().items():
        assert "note" in result["stamp"] or tuple(result["commands"]) == measure.MEASUREMENTS[name].commands


def test_every_quoted_measurement_is_listed(measure, guide_tables):
    known = set(measure.MEASUREMENTS)
    assert {name for table in guide_tables.TABLES.values() for name in table.measurements} <= known
    assert set(measure.load_results()) <= known


def test_commands_compose(measure):
    """Every measured `gr-run` command is a valid configuration. (Lines of reproduce.py have a test of their own.)"""
    overrides = {
        tuple(re.sub(r"=([^,\[]+),.*", r"=\g<1>", re.sub(r"range\(\d+\)", "0", word)) for word in words)
        for measurement in measure.MEASUREMENTS.values()
        for program, *words in map(shlex.split, measurement.commands)
        if program == "gr-run" and not measurement.needs
    }
    for words in overrides:
        assert compose_settings([word for word in words if word != "-m" and not word.startswith("hydra")]).seed == 0


@pytest.fixture
def tiny(measure, guide_tables, tmp_path, monkeypatch):
    """A measurement of two strategies with two seeds, whose runs are written without training."""

    def write_runs(command: str, folder: Path) -> str:
        if command == "gr-run fails":
            raise measure.MeasureError("gr-run fails\nexit code 1")
        for strategy, seed, accuracy in (
            ("finetune", 0, 0.2),
            ("finetune", 1, 0.4),
            ("joint", 0, 0.9),
            ("joint", 1, 0.9),
        ):
            provenance = {"processor": {"name": "a processor", "instructions": "AVX2"}, "threads": 1, "device": "cpu"}
            provenance["versions"] = {"gr-cli": "0.2.0", "torch": "2.6", "python": "3.11"}
            write_run(folder / "outputs", seed=seed, strategy=strategy, accuracy=accuracy, status=provenance)
        return ""

    entry = measure.Measurement("tiny", ("gr-run -m strategy=finetune,joint seed=0,1",), 1, rows_by="strategy")
    fails = measure.Measurement("fails", ("gr-run fails",), 1)
    for module in (measure, guide_tables):
        monkeypatch.setattr(module, "MEASUREMENTS", {"tiny": entry, "fails": fails})
        monkeypatch.setattr(module, "ROOT", tmp_path)
    monkeypatch.setattr(guide_tables, "TABLES", {"tiny": guide_tables.Table("tiny", ("tiny",), "strategy", AVERAGE)})
    monkeypatch.setattr(measure, "run_command", write_runs)
    monkeypatch.setattr(measure, "RESULTS", tmp_path / "measured.json")
    monkeypatch.setattr(measure, "load_results", partial(measure.load_results, tmp_path / "measured.json"))
    monkeypatch.setattr(measure, "store", partial(measure.store, path=tmp_path / "measured.json"))
    (tmp_path / "README.md").write_text("<!-- table: tiny -->\n<!-- /table -->\n")


def test_a_measurement_is_stored_and_filled_in(measure, guide_tables, tiny, tmp_path, capsys):
    assert measure.main(["tiny"]) == 0
    (result,) = measure.load_results().values()
    assert result["rows"]["finetune"]["average_accuracy"] == {
        "n": 2, "mean": 0.3, "sd": 0.141421, "sem": 0.1, "values": {"0": 0.2, "1": 0.4},
    }  # fmt: skip
    assert result["stamp"]["processor"] == "a processor (AVX2)" and result["stamp"]["torch"]
    guide = (tmp_path / "README.md").read_text()
    assert "| `finetune` | 2 | 30.0 ± 10.0 |\n| `joint` | 2 | 90.0 ± 0.0 |\n" in guide
    assert guide_tables.filled(guide, measure.load_results()) == guide
    assert measure.main(["--list"]) == 0 and "never measured" in capsys.readouterr().out


def test_a_failed_measurement_changes_nothing(measure, tiny, tmp_path):
    assert measure.main(["tiny"]) == 0
    before = (tmp_path / "measured.json").read_bytes()
    assert measure.main(["fails"]) == 1
    assert (tmp_path / "measured.json").read_bytes() == before


def test_an_unknown_table_is_named(measure, guide_tables, tiny):
    with pytest.raises(measure.MeasureError, match="other: no table of that name; there are tiny"):
        guide_tables.filled("<!-- table: other -->\n<!-- /table -->", {})


def test_unknown_measurements_are_named(measure):
    with pytest.raises(measure.MeasureError, match="nonsense: no such measurement"):
        measure.main(["nonsense"])


def test_seconds_of_bench_sweep(measure, monkeypatch, tmp_path):
    printed = """2 cores; 4 replay weights x 8 seeds

digits: the defaults
    batched: 32 runs as one program
  sequential    257.6 s (257.6 to 257.6); sequential: 1.00 times as long
     batched     62.9 s (62.9 to 62.9); sequential: 4.10 times as long
"""
    monkeypatch.setattr(measure, "run_command", lambda command, folder: printed)
    result, pictures = measure.measure(measure.MEASUREMENTS["sweep-speed-digits"], tmp_path, "2026-01-01")
    row = result["rows"]["digits"]
    assert {way: value["mean"] for way, value in row.items()} == {"sequential": 257.6, "batched": 62.9}
    assert result["stamp"]["torch"] and not pictures


def test_cells_of_a_printed_table(measure, monkeypatch, tmp_path):
    printed = """avalanche-lib==0.6.0

| method | n | gr (ms) | accuracy (%) |
| --- | --- | --- | --- |
| ewc 8-8 4 | 3 | 0.70 | 19.2, 19.3 |
"""
    monkeypatch.setattr(measure, "run_command", lambda command, folder: printed)
    result, _ = measure.measure(measure.MEASUREMENTS["peers-400-400"], tmp_path, "2026-01-01")
    assert result["rows"] == {
        "ewc 8-8 4": {"gr (ms)": {"n": 3, "text": "0.70"}, "accuracy (%)": {"n": 3, "text": "19.2, 19.3"}}
    }
