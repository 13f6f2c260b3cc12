"""Sweeps in folders with other files, and an empty GR_OUTPUT_ROOT."""

from pathlib import Path

import pytest

import gr_cli
from gr_cli.errors import ConfigError
from helpers.extras import needs_optuna
from helpers.situations import TINY


def everything():
    return {path: path.read_bytes() if path.is_file() else None for path in sorted(Path().rglob("*"))}


@pytest.mark.parametrize("sweeper", [(), pytest.param(("hydra/sweeper=optuna",), marks=needs_optuna)])
@pytest.mark.parametrize("name", ["multirun.yaml", "data/a.csv"])
def test_a_sweep_does_not_touch_a_folder_with_other_files(gr_run, sweeper, name):
    """Not even multirun.yaml, which Hydra would replace."""
    Path("s", name).parent.mkdir(parents=True)
    Path("s", name).write_text("mine", encoding="utf-8")
    before = everything()
    words = ("-m", *TINY, "benchmark.validation_share=0.2", "seed=0,1", "hydra.sweep.dir=s", *sweeper)
    code, _, err = gr_run(*words)
    assert code == 2 and err.count("\n") == 1
    assert f"s: holds files that are not of a sweep, such as {name.partition('/')[0]}; name a new" in err
    assert everything() == before


def test_a_sweep_may_lie_beside_runs_and_its_own_files(gr_run):
    assert gr_run(*TINY, "hydra.run.dir=s/earlier")[0] == 0
    Path("s/empty").mkdir()
    words = ("-m", *TINY, "seed=0,1", "hydra.sweep.dir=s")
    assert gr_run(*words)[0] == 0
    Path("s/notes.txt").write_text("mine", encoding="utf-8")
    assert gr_run(*words)[0] == 0


def test_an_empty_output_root_is_refused_alike(gr_run, gr_report, monkeypatch):
    monkeypatch.setenv("GR_OUTPUT_ROOT", "")
    for code, _, err in (gr_run(*TINY), gr_run(*TINY, "tracker=mlflow"), gr_report()):
        assert code == 2 and "must name a folder; unset" in err and err.count("\n") == 1
    with pytest.raises(ConfigError, match="GR_OUTPUT_ROOT=: must name a folder"):
        gr_cli.load_results()
    assert not list(Path().iterdir())
