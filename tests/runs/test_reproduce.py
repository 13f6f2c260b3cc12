"""The script that measures published tables."""

import csv
import importlib.util
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

import gr_cli
from gr_cli.cli.compose import compose_settings
from gr_cli.cli.main import main

PATH = Path(gr_cli.__file__).parent.parent / "scripts" / "reproduce.py"
QUICK = ["benchmark=split_digits", "train.iterations=2", "benchmark.classes_per_task=5", "model.hidden_sizes=[8]"]


@pytest.fixture
def script(monkeypatch):
    monkeypatch.syspath_prepend(PATH.parent)
    spec = importlib.util.spec_from_file_location("reproduce", PATH)
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "reproduce", module)
    spec.loader.exec_module(module)
    monkeypatch.setattr(
        module,
        "subprocess",
        SimpleNamespace(run=lambda command, check: SimpleNamespace(returncode=main(command[3:]))),
    )
    return module


@pytest.fixture
def two_lines(script, monkeypatch):
    """A table of two lines."""
    name = "split_mnist_three_scenarios"
    lines = [line for line in script.TABLES[name] if line.scenario == "class" and line.method in ("finetune", "er")]
    monkeypatch.setitem(script.TABLES, name, lines)


def call(script, monkeypatch, *words):
    monkeypatch.setattr(sys, "argv", ["reproduce.py", *words])
    script.main()


def table():
    with Path("outputs/reproduced/split_mnist_three_scenarios.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def test_a_table_is_measured_and_written_once(script, two_lines, monkeypatch, capsys):
    words = ["split_mnist_three_scenarios", "--seeds", "2", "--scenarios", "class"]
    call(script, monkeypatch, *words, "--methods", "finetune", "er", *QUICK)
    rows = table()
    assert [(row["method"], row["n"]) for row in rows] == [("finetune", "2"), ("er", "2")]
    for row in rows:
        assert float(row["difference"]) == pytest.approx(float(row["mean"]) - float(row["published"]), abs=1e-5)
        assert (abs(float(row["difference"])) > 2) == bool(row["flag"])
        assert float(row["seconds"]) > 0 and "seed=range(2)" in row["command"]
    text = Path("outputs/reproduced/split_mnist_three_scenarios.md").read_text()
    assert text.count("\n") == 4 and "| class | `er` |" in text and "**!**" in text
    before = {path: path.stat().st_mtime_ns for path in Path("outputs").glob("*/*/*/checkpoint.pt")}
    assert len(before) == 4
    capsys.readouterr()
    call(script, monkeypatch, *words, "--methods", "finetune", "er", *QUICK)
    assert before == {path: path.stat().st_mtime_ns for path in before} and table() == rows
    assert capsys.readouterr().out.count("finished before") == 4
    # One seed more: only that is run.
    call(script, monkeypatch, *words, "--methods", "er", "--seeds", "3", *QUICK)
    assert [(row["method"], row["n"]) for row in table()] == [("finetune", "2"), ("er", "3")]
    assert all(path.stat().st_mtime_ns == time for path, time in before.items())


def test_the_row_of_a_line(script):
    line = script.Line("dgr", "class", "strategy=dgr", 90.0, "somewhere")
    runs = [script.Result(seed, 91.0 + 2 * seed, 10.0 * (seed + 1)) for seed in range(3)]
    row = script.summary(line, runs, 3, [])
    assert (row.n, row.mean, row.difference, row.flag, row.seconds) == (3, 93.0, 3.0, "above", 20.0)
    assert row.sem == pytest.approx(2 / 3**0.5)
    one = script.summary(line, [script.Result(0, 88.5, 10.0)], 1, [])
    assert (one.sem, one.flag) == (None, "")
    assert script.summary(line, [script.Result(0, 87.9, 1.0)], 1, []).flag == "below"
    assert "| class | `dgr` | 93.00 ± 1.15 (3) | 90.00 | +3.00 **!** | 20 |" in script.markdown([row])


def test_paired_differences_are_those_of_common_seeds(script):
    plain, taught = script.Line("dgr", "class", ""), script.Line("taught", "class", "", baseline="dgr")
    others = [script.Result(seed, value, 1.0, 5.0) for seed, value in ((0, 60.0), (1, 70.0), (2, 50.0), (4, 99.0))]
    own = [script.Result(seed, value, 1.0, 4.0) for seed, value in ((0, 61.0), (1, 73.0), (2, 52.0), (3, 10.0))]
    accuracy, frechet = script.comparisons([(plain, others), (taught, own)])
    assert (accuracy.n, accuracy.baseline_mean, accuracy.method_mean, accuracy.difference) == (3, 60.0, 62.0, 2.0)
    # Differences 1, 3 and 2: standard error 1 / √3, and t of 0.975 with two degrees of freedom is 4.303.
    half = 4.303 / 3**0.5
    assert (accuracy.low, accuracy.high) == (pytest.approx(2 - half, abs=1e-3), pytest.approx(2 + half, abs=1e-3))
    assert (frechet.difference, frechet.low) == (-1.0, pytest.approx(-1.0))
    text = script.comparison_markdown([accuracy])
    assert "| accuracy | `dgr` 60.00 | `taught` 62.00 | +2.00 (-0.48 to +4.48) | 3 |" in text
    one = script.comparisons([(plain, others[:1]), (taught, own[:1])])[0]
    assert (one.n, one.low) == (1, None) and "| +1.00 | 1 |" in script.comparison_markdown([one])
    assert script.comparisons([(plain, others)]) == []


@pytest.mark.parametrize(
    "words", [["nonsense"], ["permuted_mnist_10", "--methods", "dgrr"], ["permuted_mnist_10", "--sed", "1"],
              ["permuted_mnist_10", "--scenarios", "task"], ["permuted_mnist_10", "--seeds", "0"],
              ["permuted_mnist_10", "fresh=true"]]
)  # fmt: skip
def test_wrong_arguments_are_refused(script, monkeypatch, words, capsys):
    with pytest.raises(SystemExit) as caught:
        call(script, monkeypatch, *words)
    assert caught.value.code == 2 and "error" in capsys.readouterr().err


def test_every_line_of_every_table_composes(script):
    import shlex

    for lines in script.TABLES.values():
        for line in lines:
            assert compose_settings(shlex.split(line.overrides)).config["scenario"] == line.scenario


def test_a_failed_line_is_reported(script, two_lines, monkeypatch, capsys):
    words = ["split_mnist_three_scenarios", "--seeds", "1", "--scenarios", "class", "--methods", "finetune", *QUICK]
    with pytest.raises(SystemExit) as caught:
        call(script, monkeypatch, *words, "optimizer=sgd", "optimizer.lr=1e30")
    assert "did not finish: class: finetune" in str(caught.value.code)
