"""The Ray launcher on a stand-in for Ray; on Ray itself: `test_ray_cluster.py`."""

import json
from pathlib import Path

import pytest

from helpers.fake_ray import FakeRay, install
from helpers.interruption import csvs
from helpers.situations import TINY

SWEEP = ("-m", *TINY, "seed=range(3)", "hydra/launcher=ray")


@pytest.fixture
def ray(monkeypatch):
    return install(monkeypatch, FakeRay([{"CPU": 2.0, "GPU": 1.0}]))


def folders():
    return sorted(path.parent for path in Path("outputs").glob("*/*/*/status.json"))


def states():
    return [json.loads((path / "status.json").read_text())["state"] for path in folders()]


def test_runs_are_those_of_a_sweep_in_one_process(gr_run, ray, monkeypatch, tmp_path):
    code, out, err = gr_run(*SWEEP)
    assert (code, states()) == (0, ["finished"] * 3), err
    assert out.count("finished,") == 3  # the output of the workers is printed here
    assert len(ray.asked) == 2  # workers, for three runs
    (tmp_path / "alone").mkdir()
    trained = [csvs(path.absolute()) for path in folders()]
    monkeypatch.chdir(tmp_path / "alone")
    assert gr_run(*SWEEP[:-1])[0] == 0
    assert [csvs(path) for path in folders()] == trained


def test_resources_of_a_run_come_from_the_settings(gr_run, ray):
    words = ("hydra.launcher.num_gpus=0.5", "hydra.launcher.num_cpus=2", "+hydra.launcher.resources.a100=1")
    ray.resources = [{"CPU": 2.0, "GPU": 1.0, "a100": 1.0}]
    assert gr_run(*SWEEP, *words, "hydra.launcher.init.num_cpus=2")[0] == 0
    assert ray.asked == [{"num_cpus": 2.0, "num_gpus": 0.5, "resources": {"a100": 1.0}}]
    assert ray.arguments["num_cpus"] == 2
    assert "num_gpus" not in ray.arguments  # null: Ray's own default


def test_a_lost_worker_is_replaced_and_named(gr_run, ray):
    ray.losses = 2
    code, _, err = gr_run(*SWEEP)
    assert (code, states()) == (0, ["finished"] * 3)
    assert err.count("its worker was lost (RayError: its node was lost); retry 1 of 3") == 2
    assert len(ray.asked) == 4


def test_a_run_that_loses_every_worker_fails_and_the_same_command_completes_the_sweep(gr_run, ray):
    ray.losses = 2
    code, _, err = gr_run(*SWEEP, "hydra.launcher.max_retries=0")
    assert code == 1 and "2 of 3 runs did not finish; the same command repeats these" in err
    code, out, err = gr_run(*SWEEP, "hydra.launcher.max_retries=0")
    assert (code, states()) == (0, ["finished"] * 3), err
    assert out.count("begins:") == 2  # the finished one is not handed out again


def test_a_finished_sweep_needs_no_cluster(gr_run, ray):
    assert gr_run(*SWEEP)[0] == 0
    ray.refusal = ConnectionError("gone")
    code, out, _ = gr_run(*SWEEP)
    assert code == 0 and "compare runs:" in out


def test_a_failed_run_does_not_end_the_others(gr_run, ray):
    words = [word for word in SWEEP if not word.startswith("seed")]
    code, _, err = gr_run(*words, "optimizer=sgd", "optimizer.lr=0.1,1e30", "train.iterations=30")
    assert code == 1 and "optimizer.lr" in err
    assert sorted(states()) == ["failed", "finished"]


def test_a_missing_ray_names_the_extra_to_install(gr_run, monkeypatch):
    monkeypatch.setattr("gr_cli.cli.launchers.selection.find_spec", lambda name: None)
    code, _, err = gr_run("-m", "hydra/launcher=ray", "seed=0,1")
    assert (code, err) == (
        2,
        "gr-run: hydra/launcher=ray: Ray is not installed; install it with: pip install 'gr-cli[ray]'\n",
    )
    assert not Path("outputs").exists()
