"""`scripts/privacy_table.py`: the table of accuracy, forgetting, ε and membership inference, from made-up folders."""

import importlib.util
import math
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[1] / "scripts" / "privacy_table.py"
HEADER = "after_task,task,part,attack,metric,value,low,high,n"
# After task 0 the first task is found at 0.6, after task 1 at 0.7.
AUDIT = """\
0,0,solver,likelihood_ratio,auc,0.6,0.5,0.7,80
0,all,solver,likelihood_ratio,auc,0.6,0.5,0.7,80
0,all,solver,likelihood_ratio,tpr_at_fpr_0.01,,,,80
0,all,solver,threshold,auc,0.9,0.8,1.0,80
1,0,solver,likelihood_ratio,auc,0.7,0.6,0.8,80
1,1,solver,likelihood_ratio,auc,0.5,0.4,0.6,80
1,all,solver,likelihood_ratio,auc,0.65,0.55,0.75,160
1,all,solver,likelihood_ratio,tpr_at_fpr_0.01,0.02,0.01,0.03,160
"""
# Accuracy on task 0 falls from 0.9 to 0.4, and on task 1 it is 0.8.
MATRIX = "after_task,task_0,task_1\n0,0.9,\n1,0.4,0.8\n"
PRIVACY = "after_task,task,class,epsilon\n0,0,all,0.5\n0,all,all,0.5\n1,1,all,0.5\n1,all,all,1.5\n"


@pytest.fixture(scope="module")
def script():
    spec = importlib.util.spec_from_file_location("privacy_table", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(sys.modules, "privacy_table", module)  # where dataclasses look their module up
        spec.loader.exec_module(module)
        yield module


@pytest.fixture
def run_of(script, tmp_path, monkeypatch):
    """Makes the folder of a run with its tables; the audit lies where the script's plan of shadows says."""

    class Plan:
        def __init__(self, run, *_):
            self.folder = run / "audit"

    monkeypatch.setattr(script, "plan_shadows", Plan)

    def make(name: str, audit: str | None = AUDIT, privacy: str | None = None, samples: str = "300") -> Path:
        folder = tmp_path / name
        (folder / "audit").mkdir(parents=True)
        (folder / "accuracy_matrix.csv").write_text(MATRIX, encoding="utf-8")
        (folder / "config.yaml").write_text(f"labels:\n  per_class: {samples}\n", encoding="utf-8")
        if audit is not None:
            (folder / "audit" / "membership.csv").write_text(f"{HEADER}\n{audit}", encoding="utf-8")
        if privacy is not None:
            (folder / "privacy.csv").write_text(privacy, encoding="utf-8")
        return folder

    return make


def test_rows_of_one_run(script, run_of):
    first, last = script.rows_of("digits", "vae", [run_of("a", privacy=PRIVACY)])
    assert (first.after_task, last.after_task, last.part, last.epsilon) == (0, 1, "solver", 1.5)
    assert first.accuracy == pytest.approx(90) and first.forgetting is None and first.rate is None
    assert last.accuracy == pytest.approx(60)  # mean of 0.4 and 0.8
    assert last.forgetting == pytest.approx(50)  # 0.9 - 0.4 on the only earlier task
    assert last.first_task_auc == script.Figure(0.7, 0.6, 0.8, 1)
    assert last.auc == script.Figure(0.65, 0.55, 0.75, 1)
    assert (
        last.first_task_change == script.Figure(pytest.approx(0.1), None, None, 1) and first.first_task_change is None
    )
    assert last.rate == script.Figure(pytest.approx(2), pytest.approx(1), pytest.approx(3), 1)


def test_forgetting_is_the_loss_since_the_best_accuracy(script):
    matrix = [[0.5, math.nan, math.nan], [0.9, 0.7, math.nan], [0.6, 0.8, 0.9]]
    assert script.forgetting(matrix, 1) == pytest.approx(-0.4 + 0.4)  # the best is the last one
    assert script.forgetting(matrix, 2) == pytest.approx((0.3 + 0.0) / 2)


def test_runs_without_an_audit_are_left_out(script, run_of):
    audited, without = run_of("a"), run_of("b", audit=None)
    assert script.read(without) == []
    assert list(script.rows_of("digits", "vae", [audited, without])) == list(script.rows_of("digits", "vae", [audited]))
    assert list(script.rows_of("digits", "vae", [without])) == []


def test_a_figure_of_several_seeds_has_an_interval_over_them(script):
    rows = [{"value": text, "low": "0", "high": "1"} for text in ("0.4", "0.5", "0.6")]
    found = script.figure([*rows, {"value": "", "low": "", "high": ""}])
    assert (found.value, found.n) == (pytest.approx(0.5), 3)
    assert 0 < found.low < 0.4 and found.low == pytest.approx(1 - found.high) and found.high < 1
    percent = script.figure(rows, 100.0)
    assert (percent.low, percent.high) == (pytest.approx(100 * found.low), pytest.approx(100 * found.high))
    assert script.figure(rows[:2]).low is None and script.figure(rows[:2]).value == pytest.approx(0.45)
    assert script.figure([]) is None


def test_the_change_of_the_first_task_is_paired_by_run(script, run_of):
    # 0.6 to 0.7, and 0.9 to 0.7.
    second = AUDIT.replace("0,0,solver,likelihood_ratio,auc,0.6", "0,0,solver,likelihood_ratio,auc,0.9")
    _, last = script.rows_of("digits", "vae", [run_of("a"), run_of("b", audit=second)])
    assert (last.first_task_change.value, last.first_task_change.n) == (pytest.approx(-0.05), 2)
    assert script.change([{"value": "0.5"}], [{"value": ""}]) is None


def test_the_table_as_markdown(script, run_of):
    rows = [
        *script.rows_of("digits", "vae", [run_of("a", privacy=PRIVACY)]),
        *script.rows_of("garments", "gaussian-all", [run_of("b", samples="null")]),
    ]
    lines = script.markdown(rows).splitlines()
    assert lines[0] == "`digits`, after task 2:" and "`garments`, after task 2:" in lines
    assert (
        "| `vae` | 1 | 300 | 1.5 | 60.0 | 50.0 | solver | 0.650 (0.550 to 0.750) | 0.700 (0.600 to 0.800) | +0.100 | "
        "2.0 (1.0 to 3.0) |"
    ) in lines
    assert sum(line.startswith("| `") for line in lines) == 2  # rows after earlier tasks are in the CSV alone
    assert any(line.startswith("| `gaussian-all` | 1 | all | none | 60.0 |") for line in lines)


def test_settings_that_only_the_chosen_lines_have(script, monkeypatch, capsys):
    monkeypatch.setattr(script, "METHODS", {name: script.METHODS[name] for name in ("vae", "gaussian")})
    words = ("generator.pooled_share=0", "--show", "--methods", "gaussian", "--benchmarks", "split_digits")
    script.main(words)
    assert capsys.readouterr().err == ""
    with pytest.raises(SystemExit) as caught:
        script.main(("generator.pooled_share=0", "--show", "--methods", "vae"))
    assert caught.value.code == 2
    assert "split_mnist: vae: generator.pooled_share=0: no such setting" in capsys.readouterr().err
