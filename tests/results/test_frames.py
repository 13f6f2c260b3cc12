"""Data frames of runs: types of columns, tables of many runs, runs that can't be read."""

import pandas as pd
import pytest

import gr_cli
from gr_cli.errors import FolderError
from gr_cli.python.sweep_result import Sweep
from gr_cli.results.frames import long_frame, rows_frame
from helpers.interruption import StopAt
from helpers.situations import TINY


def test_columns_of_numbers():
    rows = [
        {"run": "a", "seed": 2**60 + 1, "weight": 1.0, "rate": 0.5, "limit": None, "metric": 3},
        {"run": "b", "seed": 2**60 + 2, "weight": 2.0, "rate": 1, "limit": 4},
    ]
    frame = rows_frame(rows, "run", numeric=["metric"])
    assert frame["seed"].tolist() == [2**60 + 1, 2**60 + 2]
    types = {name: str(dtype) for name, dtype in frame.dtypes.items()}
    assert types == {"seed": "int64", "weight": "int64", "rate": "float64", "limit": "float64", "metric": "float64"}
    assert pd.isna(frame.loc["a", "limit"]) and pd.isna(frame.loc["b", "metric"])


def test_metrics_of_the_matrix_are_columns_before_a_run_has_finished(monkeypatch):
    monkeypatch.setattr("gr_cli.terminal.run_display.TerminalObserver", lambda **_: StopAt(1, 1))
    with pytest.raises(KeyboardInterrupt):
        gr_cli.run(*TINY)
    results = gr_cli.load_results()
    assert results["state"].tolist() == ["interrupted"]
    assert results["average_accuracy"].isna().all() and str(results["forgetting"].dtype) == "float64"


def test_a_setting_and_a_column_of_one_name():
    table = pd.DataFrame({"task": [0, 1], "precision": [0.5, 0.25]}).set_index("task")
    frame = long_frame([({"folder": "a", "precision": "bf16"}, table)], ["folder", "precision"])
    assert frame.columns.tolist() == ["folder", "setting.precision", "task", "precision"]
    assert frame["setting.precision"].tolist() == ["bf16", "bf16"] and frame["precision"].tolist() == [0.5, 0.25]


def test_tables_and_results_of_some_runs(tmp_path):
    """Runs without a table are left out; a name that no run has is an error; a damaged run does not hide the others."""
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "real")
    words = [word for word in TINY if not word.startswith("strategy=")]
    strategies = ["finetune", "dgr"]
    sweep = gr_cli.sweep(*words, "generator.hidden_dims=[8]", "evaluate.generated_samples=10", strategy=strategies,
                         output_root=tmp_path / "link", progress=False)  # fmt: skip
    assert sweep.results["strategy"].tolist() == strategies
    assert gr_cli.load_tables("sample_quality", *[run.folder for run in sweep])["strategy"].unique() == ["dgr"]
    with pytest.raises(FolderError, match="has no table 'sample_qualities'; there are accuracy_matrix, "):
        gr_cli.load_tables("sample_qualities", sweep.folder)
    (sweep[0].folder / "status.json").write_text("{", encoding="utf-8")
    damaged = Sweep([run.folder for run in sweep], sweep.folder, {})
    with pytest.warns(UserWarning, match="can't be read"):
        assert damaged.results["strategy"].tolist() == ["dgr"]
    assert "dgr" in damaged._repr_html_()
    assert len(Sweep([], sweep.folder, {}).results) == 0
